"""The Taylor score with one vote for each image, and the study of what it is worth."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from random_networks import one_thread, randomize  # noqa: F401
from torch import Tensor, nn

from benchmarks import deeper, recipe, voting
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.criteria import taylor
from cnnprune_utils.gates import gate_gradients
from cnnprune_utils.plan import Scores


def split(n: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 28, 28, generator=generator), torch.randint(10, (n,), generator=generator))


@pytest.fixture
def model() -> nn.Module:
    return randomize(ResNet((4, 8, 12)))


def close(one: Scores, other: Scores) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-3) for name in one)


def test_votes_are_the_shares_of_each_image(model: nn.Module) -> None:
    data = split(12)
    votes = voting.one_vote(model, data, batch_size=5)
    for name, values in votes.items():
        slopes = torch.cat([batch[name] for batch in gate_gradients(model, data)])
        by_hand = [sum(abs(float(row[k])) / float(row.abs().sum()) for row in slopes) for k in range(slopes.shape[1])]
        assert values.tolist() == pytest.approx(by_hand, rel=1e-3)
        assert float(values.sum()) == pytest.approx(12, rel=1e-4)  # twelve images, twelve votes


def test_an_image_has_one_vote_however_sure_the_network_is(model: nn.Module) -> None:
    """Multiplied by a number for each class, the losses give the same votes, and other Taylor scores."""

    def loud(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.linspace(0.01, 10, 10)[targets] * F.cross_entropy(outputs, targets, reduction="none")

    data = split(12)
    assert close(voting.one_vote(model, data), voting.one_vote(model, data, loss=loud))
    assert not close(taylor(model, data), taylor(model, data, loss=loud))


def test_an_image_without_slopes_votes_for_nobody(model: nn.Module) -> None:
    def half(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none") * (targets < 5)

    data = split(12)
    votes = voting.one_vote(model, data, loss=half)
    assert {round(float(values.sum()), 3) for values in votes.values()} == {int((data.targets < 5).sum())}


@pytest.mark.filterwarnings("ignore:after .* batch")
def test_the_study_has_each_criterion_at_each_budget(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RESIDUAL_BATCH", 16)
    monkeypatch.setattr(deeper, "NARROWER", {"half": (3, 6, 9), "quarter": (2, 4, 6)})
    before = copy.deepcopy(model.state_dict())
    table = voting.votes(model.requires_grad_(), Splits(split(10_000), split(20, 1), split(20, 2)), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    made = list(zip(table["budget"], table["criterion"], strict=True))
    assert made == [(budget, name) for budget in ("half", "quarter") for name in voting.VOTERS]
    assert table[["cut", "statistics", "epoch"]].stack().between(0, 1).all()
