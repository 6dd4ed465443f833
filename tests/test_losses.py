"""What a loss says of each example, and which answers are right."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprune_utils.losses import logits, name_of, of_all, of_batch, of_each, right_answers

SCORES = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
CLASSES = torch.tensor([0, 2])
EACH = F.cross_entropy(SCORES, CLASSES, reduction="none")


def own(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs["a"], targets, reduction="none")


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(reduction="sum"),
        partial(F.cross_entropy, label_smoothing=0.0),
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
        lambda outputs, targets, reduction: F.cross_entropy(outputs, targets, reduction=reduction),
    ],
)
def test_each_example_has_its_loss(loss: Any) -> None:
    assert torch.equal(of_each(loss, SCORES, CLASSES, 2), EACH)
    assert of_all(loss, SCORES, CLASSES, 2) == pytest.approx(float(EACH.sum()))


def test_a_module_keeps_its_reduction() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(of_each(loss, SCORES, CLASSES, 2), EACH * torch.tensor([1.0, 3.0]))
    assert loss.reduction == "mean"


def test_several_numbers_are_averaged() -> None:
    outputs, targets = torch.rand(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
    expected = F.cross_entropy(outputs, targets, reduction="none").mean((1, 2))
    torch.testing.assert_close(of_each(F.cross_entropy, outputs, targets, 2), expected)


def test_a_batch_has_the_loss_that_it_returns_or_its_mean() -> None:
    assert of_batch(F.cross_entropy, SCORES, CLASSES) == F.cross_entropy(SCORES, CLASSES)
    assert of_batch(nn.CrossEntropyLoss(reduction="sum"), SCORES, CLASSES) == EACH.sum()
    assert of_batch(nn.CrossEntropyLoss(reduction="none"), SCORES, CLASSES) == EACH.mean()


def test_one_number_is_the_mean_where_losses_are_added() -> None:
    assert of_all(lambda outputs, targets: torch.tensor(0.5), SCORES, CLASSES, 2) == 1.0


def test_torch_gets_the_logits_and_you_get_all() -> None:
    outputs = {"a": SCORES, "logits": SCORES}
    assert torch.equal(of_each(F.cross_entropy, outputs, CLASSES, 2), EACH)
    assert torch.equal(of_each(own, outputs, CLASSES, 2), EACH)


@pytest.mark.parametrize(
    "outputs",
    [
        SCORES,
        {"logits": SCORES},
        {"out": SCORES, "aux": -SCORES},
        SimpleNamespace(logits=SCORES),
        (SCORES, 1),
        [SCORES],
    ],
)
def test_logits_are_found(outputs: Any) -> None:
    assert logits(outputs) is SCORES


@pytest.mark.parametrize(("outputs", "said"), [({"a": 1, "b": 2}, "a dict with a, b"), ((), "a tuple"), (None, "None")])
def test_unknown_outputs_ask_for_a_loss(outputs: Any, said: str) -> None:
    with pytest.raises(TypeError, match=rf"the network returns a.*{said.split()[-1]}.*Pass loss="):
        logits(outputs)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (F.cross_entropy, SCORES, torch.rand(2)),  # numbers, for a loss of classes
        (F.cross_entropy, SCORES, torch.tensor([0, 3])),  # no such class
        (F.mse_loss, torch.rand(4, 1), torch.rand(4)),  # PyTorch would compare each with each other
        (nn.MSELoss(), torch.rand(4), torch.rand(4, 1)),
        (F.binary_cross_entropy_with_logits, SCORES, CLASSES),
        (nn.CrossEntropyLoss(), torch.rand(2, 3, 4, 4), torch.zeros(2, 5, 5).long()),
    ],
)
@pytest.mark.parametrize("way", [lambda *a: of_each(*a, n=len(a[1])), of_batch, lambda *a: of_all(*a, n=len(a[1]))])
def test_a_wrong_pair_says_what_to_pass(way: Any, loss: Any, outputs: Tensor, targets: Tensor) -> None:
    message = r"does not take outputs of shape \(.*\) and targets \(torch\..*, shape \(.*\)\): .*Classes are int64"
    with pytest.raises(ValueError, match=message):
        way(loss, outputs, targets)


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.rand(3), 0.5, None])
def test_a_loss_without_a_number_for_each_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"one number for each example, shape \(2,\), or several, \(2, ...\)"):
        of_each(lambda outputs, targets: value, SCORES, CLASSES, 2)


def test_right_answers_are_counted_where_targets_are_classes() -> None:
    assert right_answers(SCORES, CLASSES) == (1, 2)
    assert right_answers({"logits": SCORES}, CLASSES.int()) == (1, 2)
    for other in (CLASSES.float(), SCORES, (SCORES > 1), None, CLASSES[:, None]):
        assert right_answers(SCORES, other) == (0, 0)
    assert right_answers(None, CLASSES) == right_answers(torch.rand(2), CLASSES) == (0, 0)


def test_pixels_without_a_class_do_not_count() -> None:
    scores = torch.zeros(1, 2, 1, 4)
    scores[0, 1, 0, :2] = 1  # classes 1, 1, 0, 0
    assert right_answers(scores, torch.tensor([[[1, 0, 0, -100]]])) == (2, 3)
    assert right_answers(scores, torch.tensor([[[1, 1, 255, 255]]])) == (2, 2)


def test_names_for_messages() -> None:
    functions = (F.cross_entropy, partial(F.mse_loss), nn.MSELoss(), own)
    assert [name_of(f) for f in functions] == ["cross_entropy", "mse_loss", "MSELoss", "own"]
