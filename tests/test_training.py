"""The specification of cnnprune_utils.training, on images small enough to train in a moment."""

from __future__ import annotations

import copy
import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.training import best_device, evaluate, evaluating, fit, predict, seed_everything


def squares(n: int, seed: int) -> Split:
    """Noise with a bright square in one of four corners: the corner is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    labels = torch.arange(n) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[0, top : top + 3, left : left + 3] += 0.5
    return Split(images, labels)


class NeverRead:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test images were read: .{name}")

    def __len__(self) -> int:
        raise AssertionError("the test images were counted")


@pytest.fixture
def small() -> Splits:
    return Splits(squares(90, seed=0), squares(37, seed=1), NeverRead())


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 4)
    )


class ReadsTheUsualOrder(nn.Module):
    """``view`` refuses a feature map whose channels come last in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.linear = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.conv(x)).view(len(x), -1))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def always(outputs: list[float]) -> nn.Module:
    """A network that gives these outputs for every 1x1 image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, len(outputs)))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor(outputs))
    return model


# evaluate and predict


def test_no_batch_is_refused() -> None:
    images = Split(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"the data \(an empty list\) yield no batch"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), Splits([], images, images), epochs=1, learning_rate=1e-3)


def test_accuracy_and_loss_weigh_every_image_alike_also_in_a_short_last_batch() -> None:
    model = always([1.0, 0.0])
    split = Split(torch.rand(5, 1, 1, 1), torch.tensor([0, 0, 1, 0, 1]))  # batches of 2: right 2, 1, 0 of 2, 2, 1
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    result = evaluate(model, split, batch_size=2)
    assert result.accuracy == 3 / 5
    assert result.n == 5
    assert result.loss == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 36, 37, 1000])
def test_the_batch_size_changes_nothing(small: Splits, batch_size: int) -> None:
    model, split = network().eval(), small.validation
    outputs = model(split.inputs)
    result = evaluate(model, split, batch_size=batch_size)
    assert result.loss == pytest.approx(F.cross_entropy(outputs, split.targets).item(), rel=1e-5)
    assert torch.equal(predict(model, split, batch_size=batch_size), outputs.argmax(1))


def test_predict_gives_classes_on_the_cpu_in_the_order_of_the_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
        model[1].bias.zero_()
    classes = torch.tensor([2, 0, 1, 1, 2])
    predicted = predict(model, Split(F.one_hot(classes).float().view(5, 1, 1, 3), torch.zeros(5).long()), batch_size=2)
    assert predicted.tolist() == classes.tolist()
    assert predicted.dtype == torch.int64
    assert predicted.device.type == "cpu"


def test_measuring_leaves_statistics_flags_and_gradients_alone(small: Splits) -> None:
    model = network().train()
    model[1].eval()
    before, flags = state(model), [m.training for m in model.modules()]
    evaluate(model, small.validation)
    predict(model, small.validation)
    assert same(state(model), before)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_measuring_between_a_forward_and_its_backward_pass(small: Splits) -> None:
    model = network().train()
    loss = F.cross_entropy(model(small.train.inputs), small.train.targets)
    evaluate(model, small.validation)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_flags_come_back_after_an_error() -> None:
    model = network().train()
    model[1].eval()
    inside: list[bool] = []

    def fail_inside() -> None:
        with evaluating(model):
            inside.extend(m.training for m in model.modules())
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail_inside()
    assert inside == [False] * 6
    assert [m.training for m in model] == [True, False, True, True, True]


def test_seed_everything_seeds_python_numpy_and_torch() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert not set(draws()) & set(first)


def test_best_device_can_compute() -> None:
    assert torch.ones(2, device=best_device()).sum().item() == 2


# fit: what it returns


def test_fit_learns_and_its_history_says_what_happened(small: Splits) -> None:
    model = network()
    before = evaluate(model, small.validation)
    history = fit(model, small, epochs=8, learning_rate=1e-2, batch_size=16)
    after = evaluate(model, small.validation)
    columns = ["epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds"]
    assert list(history.columns) == columns
    assert history["epoch"].tolist() == list(range(9))
    assert history["train_loss"].isna().tolist() == [True] + [False] * 8
    assert tuple(history.loc[0, columns[2:4]]) == (before.loss, before.accuracy)
    assert tuple(history.loc[8, columns[2:4]]) == (after.loss, after.accuracy)
    assert (history["seconds"] > 0).all()
    assert after.accuracy > 0.95
    assert history.loc[8, "train_loss"] < 0.5 * history.loc[1, "train_loss"]


def test_the_train_loss_weighs_every_image_alike() -> None:
    model = always([1.0, 0.0])
    split = Split(torch.rand(5, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1]))
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    for seed in range(3):  # the image that is alone in its batch changes; the mean over images does not
        history = fit(model, Splits(split, split, split), epochs=1, batch_size=4, learning_rate=1e-12, seed=seed)
        assert history.loc[1, "train_loss"] == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-6)


def test_a_teacher_counts_half_and_stays_as_it_is(small: Splits) -> None:
    """One update of one batch, by hand."""
    torch.manual_seed(1)
    teacher, model = network().train(), network()
    split, before = small.train.subset(8), state(teacher)
    expected = copy.deepcopy(model)
    outputs, taught = expected(split.inputs), teacher.eval()(split.inputs).softmax(1).detach()
    teacher.train()
    cost = 0.5 * F.cross_entropy(outputs, split.targets) - 0.5 * (taught * outputs.log_softmax(1)).sum(1).mean()
    log = fit(
        model, Splits(split, small.validation, small.test), epochs=1, learning_rate=1e-2, batch_size=8, teacher=teacher
    )
    assert log["train_loss"].iloc[-1] == pytest.approx(cost.item(), rel=1e-5)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(teacher).items())


def test_with_a_teacher_whose_answers_are_the_labels_it_is_the_same_training(small: Splits) -> None:
    class Knows(nn.Module):
        n_classes = network()(small.train.inputs[:1]).shape[1]

        def forward(self, images: Tensor) -> Tensor:
            same = (images[:, None] == small.train.inputs[None]).flatten(2).all(2)
            return 1000.0 * F.one_hot(small.train.targets[same.int().argmax(1)], self.n_classes)

    model, taught = network(), network()
    fit(model, small, epochs=1, learning_rate=1e-2, batch_size=16)
    fit(taught, small, epochs=1, learning_rate=1e-2, batch_size=16, teacher=Knows())
    for ours, theirs in zip(model.parameters(), taught.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_learning_rate_rises_to_its_highest_and_falls_to_nearly_nothing(
    small: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class Recording(torch.optim.Adam):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "Adam", Recording)
    fit(network(), small, epochs=5, batch_size=9, learning_rate=0.02)
    assert len(rates) == 50
    assert max(rates) == pytest.approx(0.02, rel=1e-3)
    assert rates[0] < 0.1 * max(rates)
    assert rates[-1] < 1e-4 * max(rates)


# fit: what it reads, and what it leaves


def test_fit_never_reads_the_test_images(small: Splits) -> None:
    with pytest.raises(AssertionError, match="were read"):
        small.test.inputs  # noqa: B018 - the alarm works
    fit(network(), small, epochs=1, learning_rate=1e-2)


def test_validation_images_are_not_trained_on(small: Splits) -> None:
    weights = []
    for validation in (small.validation, squares(5, seed=9)):
        model = network()
        fit(model, Splits(small.train, validation, small.test), epochs=2, learning_rate=1e-2)
        weights.append(state(model))
    assert same(*weights)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small: Splits) -> None:
    def fitted(seed: int) -> dict[str, Tensor]:
        model = network()
        torch.manual_seed(seed + 100)  # not this generator draws the order
        fit(model, small, epochs=2, learning_rate=1e-2, batch_size=16, seed=seed)
        return state(model)

    first = fitted(0)
    assert same(first, fitted(0))
    assert not same(first, fitted(1))


def test_fit_does_not_move_the_global_generator(small: Splits) -> None:
    model = network()
    before = torch.get_rng_state()
    fit(model, small, epochs=1, learning_rate=1e-2)
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_parameters_stay_bit_for_bit_and_frozen(small: Splits) -> None:
    model = network()
    model[0].requires_grad_(False)
    before = state(model)
    fit(model, small, epochs=1, learning_rate=1e-2)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not changed & {"0.weight", "0.bias"}
    assert {"1.weight", "1.bias", "4.weight", "4.bias"} <= changed
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]


def test_a_second_fit_trains_the_layer_that_replaced_another_and_not_the_old_one(small: Splits) -> None:
    model = network()
    fit(model, small, epochs=1, learning_rate=1e-2)
    old, new = model[4], nn.Linear(3 * 64, 4)
    old_before, new_before = state(old), state(new)
    model[4] = new
    fit(model, small, epochs=1, learning_rate=1e-2)
    assert same(state(old), old_before)
    assert not torch.equal(new.weight, new_before["weight"])


def test_two_fits_are_alike_since_no_optimizer_outlives_one(small: Splits) -> None:
    model = network()
    start = state(model)
    fit(model, small, epochs=2, learning_rate=1e-2)
    first = state(model)
    model.load_state_dict(start)
    fit(model, small, epochs=2, learning_rate=1e-2)
    assert same(state(model), first)


@pytest.mark.parametrize(("batch_size", "epochs", "share"), [(90, 20, "12%"), (10, 4, "2%"), (9, 5, None)])
def test_statistics_of_too_few_batches_are_told(small: Splits, batch_size: int, epochs: int, share: str | None) -> None:
    """20 and 36 batches leave 0.9 ** 20 and 0.9 ** 36 of what was there; 50 leave less than a hundredth."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(network(), small, epochs=epochs, learning_rate=1e-3, batch_size=batch_size)
    assert [str(one.message).split(", ")[1].split(" of a")[0] for one in told] == ([share] if share else [])


@pytest.mark.parametrize("change", ["eval", "momentum", "trained"])
def test_statistics_that_are_not_young_are_not_told(small: Splits, change: str) -> None:
    model = network()
    if change == "eval":
        model[1].eval()  # it keeps its statistics
    elif change == "momentum":
        model[1].momentum = None  # a mean over all batches
    else:
        model[1].num_batches_tracked += 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, small, epochs=1, learning_rate=1e-3, batch_size=90)


def test_fit_trains_in_train_mode_and_restores_the_flags(small: Splits) -> None:
    model = network().eval()
    model[2].train()
    seen: list[tuple[int, bool]] = []
    model[1].register_forward_hook(lambda module, inputs, _: seen.append((len(inputs[0]), module.training)))
    fit(model, small, epochs=2, learning_rate=1e-2, batch_size=90)
    assert [training for n, training in seen if n == 90] == [True, True]
    assert not any(training for n, training in seen if n == 37)
    assert [m.training for m in model] == [False, False, True, False, False]
    assert not torch.equal(model[1].running_mean, torch.zeros(3))


def test_gradients_from_before_are_not_applied_and_none_are_left(small: Splits) -> None:
    clean, stale = network(), network()
    for parameter in stale.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    fit(clean, small, epochs=1, learning_rate=1e-2)
    fit(stale, small, epochs=1, learning_rate=1e-2)
    assert same(state(clean), state(stale))
    assert all(p.grad is None for p in stale.parameters())


# fit: the order in memory


def test_on_a_cpu_batches_come_with_channels_last(small: Splits) -> None:
    model = network()
    strides: set[int] = set()

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            strides.add(inputs[0].stride(1))

    model[2].register_forward_pre_hook(look)
    fit(model, small, epochs=1, learning_rate=1e-2)
    assert strides == {1}


def test_a_network_that_needs_the_usual_order_trains_as_well(small: Splits) -> None:
    torch.manual_seed(0)
    usual = ReadsTheUsualOrder()
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 4))
    histories = [fit(model, small, epochs=3, learning_rate=1e-2).drop(columns="seconds") for model in (usual, other)]
    assert np.allclose(*histories, rtol=1e-4, equal_nan=True)


# fit: errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive number"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(small: Splits, wrong: dict[str, Any], message: str) -> None:
    model = network()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        fit(model, small, **{"epochs": 1, "learning_rate": 0.01} | wrong)
    assert same(state(model), before)


def test_a_model_with_nothing_to_train_is_refused(small: Splits) -> None:
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(network().requires_grad_(False), small, epochs=1, learning_rate=1e-2)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(nn.Flatten(), small, epochs=1, learning_rate=1e-2)


def test_a_loss_that_is_not_finite_names_the_epoch_and_puts_the_model_back(small: Splits) -> None:
    model = network().eval()
    before = state(model)
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 1 .*[Ll]ower the learning rate: it was 1e\+30"):
        fit(model, small, epochs=3, learning_rate=1e30)
    assert same(state(model), before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training for m in model.modules())


def test_an_error_in_the_network_leaves_no_gradients_and_the_flags_as_they_were(small: Splits) -> None:
    model = network().eval()

    def fails_when_training(module: nn.Module, *_: Any) -> None:
        if module.training and model[4].weight.grad is None and model[0].weight.abs().sum() != start:
            raise KeyError("mine")

    start = model[0].weight.abs().sum().item()
    model.register_forward_hook(fails_when_training)
    with pytest.raises(KeyError, match="mine"):
        fit(model, small, epochs=1, learning_rate=1e-2, batch_size=30)
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
