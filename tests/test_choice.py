"""Filters chosen by closed gates: a criterion proposes, measuring decides, and what helps is taken back."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from random_networks import Net, assert_unchanged, one_thread, randomize, snapshot  # noqa: F401
from torch import nn

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.choice import choose
from cnnprune_utils.criteria import magnitude, taylor
from cnnprune_utils.exhaustive import all_subnetworks, percentile
from cnnprune_utils.gates import mask
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate


def cnn(seed: int = 0) -> CNN:
    return randomize(CNN((2, 3, 4), image_size=6, n_classes=3), seed)


def split(n: int = 60, shape: tuple[int, ...] = (1, 6, 6)) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, *shape, generator=generator), torch.randint(3, (n,), generator=generator))


def exchanges(plan: Plan, widths: dict[str, int]) -> list[Plan]:
    """Every plan with one filter back and another one gone, and no layer emptied."""
    gone = {(name, k) for name, filters in plan.remove.items() for k in filters}
    rest = {(name, k) for name, n in widths.items() for k in range(n)} - gone
    plans = [
        Plan({name: [k for layer, k in (gone - {back}) | {out} if layer == name] for name in widths})
        for back, out in product(gone, rest)
    ]
    return [p for p in plans if all(len(p.remove.get(name, ())) < n for name, n in widths.items())]


@pytest.mark.parametrize("criterion", [taylor, magnitude])
def test_a_shortlist_of_one_follows_the_criterion(criterion) -> None:
    """In the model's numbering, which shifts in the network that is left."""
    model, images = cnn(), split()
    left = {"network.0": [0, 1], "network.2": [0, 1, 2], "network.4": [0, 1, 2, 3]}
    network: nn.Module = model
    gone: dict[str, list[int]] = {name: [] for name in left}
    for n in range(1, 7):
        plan = lowest(rank(criterion(network, images)), 1)
        ((name, (k,)),) = plan.remove.items()
        gone[name].append(left[name].pop(k))
        network = prune(network, plan)
        assert choose(model, images, n, criterion=criterion, shortlist=1) == Plan(gone)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 3, 5])
def test_no_exchange_lowers_the_loss(seed: int, n: int) -> None:
    model, images = cnn(seed), split()
    plan = choose(model, images, n, shortlist=9)
    loss = evaluate(mask(model, plan), images).loss
    widths = {"network.0": 2, "network.2": 3, "network.4": 4}
    assert plan.n_filters == n
    assert all(loss <= evaluate(mask(model, other), images).loss + 1e-6 for other in exchanges(plan, widths))


def test_a_filter_comes_back_for_a_better_pair() -> None:
    """Four filters add 1.4, -0.9, 1.3 and 1.6 to one of two outputs, on images of which three in four are of its class:
    the loss is lowest where the sum is ln 3 = 1.1. Alone, 1.6 leaves; of all pairs, 1.4 and 1.3.
    """
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[3].weight.copy_(torch.tensor([[1.4, -0.9, 1.3, 1.6], [0.0] * 4]))
    images = Split(torch.ones(4, 1, 1, 1), torch.tensor([0, 0, 0, 1]))
    for floor in (1, 2):
        chosen = {n: choose(network, images, n, keep_at_least=floor).remove["0"] for n in (1, 2)}
        assert chosen == {1: (3,), 2: (0, 2)}


def test_on_the_books_network_it_is_among_the_best(splits: Splits) -> None:
    model, images = checkpoint("baseline"), splits.validation.subset(300)
    table = all_subnetworks(model, images)
    for n in (3, 6, 8):
        assert percentile(table, choose(model, images, n)) >= 99


def test_channels_that_meet_leave_together() -> None:
    convolutions = {name: nn.Conv2d(1 if name == "a" else 4, 4, 3, padding=1) for name in "abc"}
    model = Net(
        lambda self, x: self.out((self.c((a := self.norm(self.a(x)).relu()) + self.b(a))).mean((2, 3))),
        **convolutions,
        norm=nn.BatchNorm2d(4),
        out=nn.Linear(4, 3),
    )
    plan = choose(randomize(model).train(), split(), 3, shortlist=2)
    assert plan.n_filters == 3
    assert set(plan.remove) <= {"a", "c"}
    prune(model, plan)


def test_each_layer_keeps_its_floor() -> None:
    model = cnn()
    plan = choose(model, split(), 3, keep_at_least=2)
    widths = {"network.0": 2, "network.2": 3, "network.4": 4}
    assert all(n - len(plan.remove.get(name, ())) >= 2 for name, n in widths.items())
    with pytest.raises(ValueError, match="cannot remove 4 of 9 filters: with keep_at_least=2"):
        choose(model, split(), 4, keep_at_least=2)
    with pytest.raises(ValueError, match="shortlist=0 and keep_at_least=1 must be at least 1"):
        choose(model, split(), 1, shortlist=0)
    assert choose(model, split(), 0) == Plan({})


def test_a_criterion_that_raises_changes_nothing() -> None:
    model = cnn().train()
    before = snapshot(model)
    choose(model, split(), 4)
    assert_unchanged(model, before)

    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no scores today")

    with pytest.raises(RuntimeError, match="no scores today"):
        choose(model, split(), 2, criterion=broken)
    assert_unchanged(model, before)


def test_the_choice_is_the_same_in_every_process() -> None:
    """Sets of names come in another order in each process."""
    code = "import sys; sys.path.insert(0, 'tests'); from test_choice import *; print(choose(cnn(3), split(), 5))"
    root = Path(__file__).resolve().parent.parent
    outputs = set()
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        outputs.add(subprocess.check_output([sys.executable, "-c", code], cwd=root, env=environment, text=True))
    assert len(outputs) == 1
