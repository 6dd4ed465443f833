"""The loop: where it stops, which filters leave, what the history says; and a kill costs at most one step."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from random_networks import assert_unchanged, one_thread, randomize, snapshot  # noqa: F401
from torch import Tensor, nn
from tqdm import tqdm

from cnnprune_utils import criteria, loop
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.criteria import CRITERIA, magnitude, taylor
from cnnprune_utils.flow import Flow
from cnnprune_utils.gates import mask
from cnnprune_utils.loop import Compressed, Target, TargetMissed, compress
from cnnprune_utils.metrics import macs, macs_per_filter, parameters
from cnnprune_utils.plan import Plan, Scores, lowest, rank
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, fit, measured

# Most tests are small: the warnings of that have tests of their own.
pytestmark = pytest.mark.filterwarnings("ignore:update=.* asks for more", "ignore:.*a standard error of")

MEASURED = ["loss_before", "accuracy_before", "loss_after", "accuracy_after"]


class NeverRead:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test images were read: .{name}")


def squares(n: int, seed: int) -> Split:
    """Noise with a faint square in one of four corners: the corner is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 1, 8, 8, generator=generator)
    labels = torch.arange(n) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[0, top : top + 3, left : left + 3] += 0.4
    return Split(images, labels)


SPLITS = Splits(squares(120, seed=0), squares(50, seed=1), NeverRead())
SCORED = SPLITS.train.subset(120, seed=0)  # what compress scores on, by default
FEW: dict[str, Any] = {"update": 3, "batch_size": 32, "learning_rate": 0.01}
NONE: dict[str, Any] = {"update": 0, "batch_size": 32}


@pytest.fixture(scope="module")
def trained() -> CNN:
    torch.manual_seed(0)
    model = CNN((2, 3, 4), image_size=8, n_classes=4)
    fit(model, SPLITS, epochs=15, batch_size=32, learning_rate=0.03)
    assert evaluate(model, SPLITS.validation).accuracy > 0.8
    return model


def dropping(seed: int = 0) -> nn.Sequential:
    """BatchNorm and dropout, and no CNN of ours: its files need the plan, its updates draw random numbers."""
    first = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(0.2), nn.MaxPool2d(2)]
    second = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
    return randomize(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4 * 16, 4)), seed)


class Residual(nn.Module):
    """A stem and two blocks, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.head = nn.Linear(4, 4)

    @staticmethod
    def block() -> nn.Sequential:
        first = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()
        return nn.Sequential(*first, nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


def assert_same(a: Compressed, b: Compressed) -> None:
    """Bit for bit, but for the seconds."""
    assert_same_network(a.network, b.network)
    assert a.plan == b.plan
    pd.testing.assert_frame_equal(
        a.history.drop(columns="seconds"), b.history.drop(columns="seconds"), check_exact=True
    )


def assert_same_network(a: nn.Module, b: nn.Module) -> None:
    assert repr(a) == repr(b)
    assert [m.training for m in a.modules()] == [m.training for m in b.modules()]
    assert [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]
    assert a.state_dict().keys() == b.state_dict().keys()
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def script(monkeypatch: pytest.MonkeyPatch, *accuracies: float) -> None:
    """Measure these accuracies, step by step, instead of the real ones."""
    values = iter(accuracies)
    for method in ("measured_only", "updated"):
        scripted = lambda *_: [0.0, (accuracy := next(values)), 0.0, accuracy]  # noqa: E731
        monkeypatch.setattr(loop._Training, method, scripted)


# Target


@pytest.mark.parametrize(
    "arguments",
    [{}, {"filters": 1, "macs": 1}, {"parameters": 1, "macs": 1, "points": 1}, {"filters": -1}, {"macs": -5}]
    + [{"points": points} for points in (-0.1, 101, float("nan"))],
)
def test_a_target_is_one_size_or_points_or_both(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^Target\(.*: (give one of|a size must)"):
        Target(**arguments)


def test_a_target_prints_what_was_asked_for() -> None:
    assert repr(Target(macs=9, points=0.5)) == "Target(macs=9, points=0.5)"


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target(filters=3), [False, True, True]),
        (Target(parameters=80), [False, True, True]),
        (Target(macs=79), [False, False, True]),
        (Target(points=1), [False, False, False]),
    ],
)
def test_a_size_is_reached_at_it_and_beyond(target: Target, reached: list[bool]) -> None:
    rows = [{"removed": 2, "parameters": 90, "macs": 90}, {"removed": 3, "parameters": 80, "macs": 80}]
    rows += [{"removed": 4, "parameters": 70, "macs": 70}]
    assert [target.reached(row) for row in rows] == reached


# Where it stops


@pytest.mark.parametrize(
    ("target", "step"), [(Target(filters=3), 1), (Target(parameters=800), 1), (Target(macs=5000), 3)]
)
def test_it_stops_as_soon_as_the_size_is_reached(trained: CNN, target: Target, step: int) -> None:
    network, plan, history = compress(trained, SPLITS, target=target, step=step, **FEW)
    assert [target.reached(row) for _, row in history.iterrows()] == [False] * (len(history) - 1) + [True]
    last = history.iloc[-1]
    assert (last["removed"], last["parameters"]) == (plan.n_filters, parameters(network))


def test_the_last_step_removes_only_what_is_missing(trained: CNN) -> None:
    history = compress(trained, SPLITS, target=Target(filters=6), step=4, **NONE).history
    assert history["removed"].tolist() == [0, 4, 6]


@pytest.mark.parametrize("target", [Target(parameters=300), Target(macs=9000)])
def test_filters_leave_in_the_order_of_their_ranks(trained: CNN, target: Target) -> None:
    network, _, history = compress(trained, SPLITS, target=target, step=4, **NONE)
    before, removed = history["removed"].iloc[-2:]
    start = compress(trained, SPLITS, target=Target(filters=int(before)), step=4, **NONE).network
    ranks = rank(taylor(start, SPLITS.train))
    for n in range(1, removed - before + 1):
        smaller = prune(start, lowest(ranks, n))
        size = {"parameters": parameters(smaller), "macs": macs(smaller, SPLITS.train.inputs)}
        assert target.reached({"removed": before + n, **size}) == (n == removed - before)
    assert_same_network(smaller, network)


@pytest.mark.parametrize("target", [Target(filters=0), Target(parameters=10**6), Target(macs=12_289 * 4)])
def test_a_size_that_is_reached_gives_a_copy(trained: CNN, target: Target) -> None:
    network, plan, history = compress(trained, SPLITS, target=target)
    assert_same_network(network, trained)
    assert not {id(p) for p in network.parameters()} & {id(p) for p in trained.parameters()}
    assert (plan, len(history)) == (Plan({}), 1)


def test_points_alone_give_the_smallest_network(trained: CNN) -> None:
    network, plan, history = compress(trained, SPLITS, target=Target(points=10), **NONE)
    lost = 100 * (history["accuracy_after"][0] - history["accuracy_after"])
    within = history[lost <= 10 + 1e-9].iloc[-1]
    assert 0 < within["removed"] < history["removed"].iloc[-1]  # it had to look beyond the limit
    assert plan.n_filters == within["removed"]
    assert parameters(network) == within["parameters"]
    assert evaluate(network, SPLITS.validation).accuracy == within["accuracy_after"]


@pytest.mark.parametrize(
    ("accuracies", "steps", "best"),
    [
        ([0.9, 0.8, 0.8, 0.8], 3, 0),  # beyond from the first step on
        ([0.9, 0.89, 0.8, 0.89, 0.8, 0.8, 0.8], 6, 3),  # back within: the count starts again
        ([0.9, 0.9, 0.9, 0.8, 0.8, 0.9, 0.9], 6, 6),  # until the floors
        ([0.9, 0.91, 0.8, 0.8, 0.88], 4, 1),
    ],
)
def test_points_alone_go_on_until_patience_ends(
    trained: CNN, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], steps: int, best: int
) -> None:
    script(monkeypatch, *accuracies)
    network, plan, history = compress(trained, SPLITS, target=Target(points=1))
    assert history["step"].tolist() == list(range(steps + 1))
    assert (plan.n_filters, parameters(network)) == tuple(history.loc[best, ["removed", "parameters"]])


@pytest.mark.parametrize(("n", "lost", "points"), [(1000, 3, 0.3), (50, 1, 2), (7, 2, 200 / 7), (5000, 50, 1)])
def test_a_loss_of_exactly_the_limit_is_within_it(
    trained: CNN, monkeypatch: pytest.MonkeyPatch, n: int, lost: int, points: float
) -> None:
    right = round(0.9 * n)
    script(monkeypatch, right / n, (right - lost) / n, *[(right - lost - 1) / n] * 3)
    assert compress(trained, SPLITS, target=Target(points=points)).plan.n_filters == 1


def test_size_and_points_give_the_size_if_allowed(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, 0.9, 0.9, 0.88, 0.895)
    assert compress(trained, SPLITS, target=Target(filters=3, points=1)).plan.n_filters == 3


@pytest.mark.parametrize(
    ("accuracies", "steps", "closest", "message"),
    [
        (
            [0.9, 0.9, 0.893, 0.88, 0.87, 0.86],
            5,
            2,
            "filters=2, which loses 0.70 points; the next step, filters=3, loses 2.00",
        ),
        (
            [0.9, 0.9, 0.9, 0.9, 0.9, 0.88],
            5,
            4,
            "filters=4, which loses 0.00 points; the next step, filters=5, loses 2.00",
        ),
    ],
    ids=["patience", "at the size"],
)
def test_the_error_has_the_closest_network(
    trained: CNN, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], steps: int, closest: int, message: str
) -> None:
    script(monkeypatch, *accuracies)
    with pytest.raises(TargetMissed, match=rf"^Target\(filters=5, points=1\) was missed.*{message}") as raised:
        compress(trained, SPLITS, target=Target(filters=5, points=1))
    network, plan, history = raised.value.closest
    assert len(history) == steps + 1
    assert plan.n_filters == closest
    assert repr(network) == repr(prune(trained, plan))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            Target(filters=5),
            r"^Target\(filters=5\) is out of reach.*keep_at_least=2 in each of 3.*closest is filters=3\.$",
        ),
        (Target(parameters=600), r"is out of reach.* the closest is parameters=612\.$"),
        (Target(macs=1, points=100), r"^Target\(macs=1, points=100\) is out of reach.* the closest is macs=6272\.$"),
    ],
)
def test_what_the_floors_rule_out_is_refused_at_once(trained: CNN, target: Target, message: str) -> None:
    def never(*_: Any, **__: Any) -> Scores:
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        compress(trained, SPLITS, target=target, keep_at_least=2, criterion=never)


def test_the_closest_size_that_is_named_can_be_reached(trained: CNN) -> None:
    _, _, history = compress(trained, SPLITS, target=Target(parameters=612), keep_at_least=2, **NONE)
    assert history.iloc[-1][["network.0", "network.2", "network.4"]].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "wrong", ["step", "batch_size", "shortlist", "n_images", "keep_at_least", "patience", "update"]
)
def test_numbers_out_of_range_are_refused(trained: CNN, wrong: str) -> None:
    with pytest.raises(
        ValueError, match=f"{wrong}.*{-1 if wrong == 'update' else 0}.* must be at least|at least 1.*{wrong}"
    ):
        compress(trained, SPLITS, target=Target(filters=1), **{wrong: -1 if wrong == "update" else 0})


# Which filters leave


@pytest.mark.parametrize("build", [lambda: CNN((2, 3, 4), image_size=8, n_classes=4), dropping, Residual])
@pytest.mark.parametrize(("step", "shortlist"), [(1, 1), (2, 3)])
def test_the_plan_is_in_the_original_numbering(build: Callable[[], nn.Module], step: int, shortlist: int) -> None:
    model = randomize(build(), seed=3)
    network, plan, _ = compress(model, SPLITS, target=Target(filters=5), step=step, shortlist=shortlist, **NONE)
    assert plan.n_filters == 5
    assert_same_network(prune(model, plan), network)
    with torch.no_grad():
        images = SPLITS.validation.inputs
        assert torch.equal(prune(model, plan).eval()(images), copy.deepcopy(network).eval()(images))


def test_with_updates_the_plan_gives_the_same_shapes() -> None:
    model = dropping()
    network, plan, _ = compress(model, SPLITS, target=Target(filters=4), **FEW)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in prune(model, plan).state_dict().items()}


def one_by_one(model: nn.Module, n: int, choose: Callable[[nn.Module], tuple[str, int]]) -> nn.Module:
    """The loop without updates, spelled out."""
    for _ in range(n):
        name, k = choose(model)
        model = prune(model, Plan({name: (k,)}))
    return model


def by_rank(model: nn.Module, criterion: Callable[..., Scores]) -> list[tuple[str, int]]:
    """The filters that may leave ``model``, lowest first."""
    ranks = rank(criterion(model, SCORED)).sort_values("rank")
    widths = ranks["layer"].value_counts()
    return [(name, k) for name, k in zip(ranks["layer"], ranks["filter"], strict=True) if widths[name] > 1]


def loss_without(model: nn.Module, name: str, k: int) -> float:
    return evaluate(mask(model, Plan({name: (k,)})), SCORED).loss


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_drives_it(trained: CNN, name: str) -> None:
    network = compress(trained, SPLITS, target=Target(filters=2), criterion=CRITERIA[name], **NONE).network
    assert_same_network(network, one_by_one(trained, 2, lambda model: by_rank(model, CRITERIA[name])[0]))


def wrong(model: nn.Module, split: Split, *, loss: object = None, batch_size: int = 256) -> Scores:
    """The filters that matter most leave first."""
    return {name: -scores for name, scores in taylor(model, split).items()}


@pytest.mark.parametrize("shortlist", [4, None])
def test_closed_gates_decide_among_the_shortlist(trained: CNN, shortlist: int | None) -> None:
    def cheapest(model: nn.Module) -> tuple[str, int]:
        return min(by_rank(model, wrong)[:shortlist], key=lambda candidate: loss_without(model, *candidate))

    options: dict[str, Any] = {"target": Target(filters=3), "criterion": wrong, **NONE}
    decided = compress(trained, SPLITS, shortlist=shortlist, **options)
    assert_same_network(decided.network, one_by_one(trained, 3, cheapest))
    assert decided.history["loss_after"].iloc[-1] < compress(trained, SPLITS, **options).history["loss_after"].iloc[-1]


def test_the_shortlist_is_measured_with_closed_gates() -> None:
    model = randomize(CNN((4, 4, 4), image_size=8, n_classes=4))
    queue = by_rank(model, magnitude)
    alone = sorted(queue, key=lambda candidate: loss_without(model, *candidate))
    chosen: dict[str, tuple[int, ...]] = {}
    for _ in range(3):
        plans = [Plan({**chosen, name: (*chosen.get(name, ()), k)}) for name, k in queue]
        losses = [evaluate(mask(model, plan), SCORED).loss for plan in plans]
        best = losses.index(min(losses))
        chosen = dict(plans[best].remove)
        del queue[best]
    options: dict[str, Any] = {"criterion": magnitude, "step": 3, "shortlist": None, **NONE}
    assert compress(model, SPLITS, target=Target(filters=3), **options).plan == Plan(chosen)
    assert {(name, k) for name, filters in chosen.items() for k in filters} != set(alone[:3])


@pytest.mark.parametrize(("step", "keep_at_least", "left"), [(1, 3, [2, 3, 3]), (3, 2, [2, 2, 2])])
def test_the_floor_stays_in_every_layer(trained: CNN, step: int, keep_at_least: int, left: list[int]) -> None:
    def last_layer_first(model: nn.Module, split: Split, *, loss: object, batch_size: int) -> Scores:
        return {name: 0 * scores if name == "network.4" else scores for name, scores in magnitude(model).items()}

    options: dict[str, Any] = {"criterion": last_layer_first, "step": step, "keep_at_least": keep_at_least, **NONE}
    history = compress(trained, SPLITS, target=Target(points=100), **options).history
    assert history.iloc[-1][["network.0", "network.2", "network.4"]].tolist() == left


def test_widths_stay_multiples(trained: CNN) -> None:
    target = Target(parameters=parameters(trained) * 2 // 3, multiple_of=2)
    found = compress(trained, SPLITS, target=target, step=1, **NONE)
    left = {layer.name: layer.out_channels for layer in prunable_layers(found.network)}
    assert all(n % 2 == 0 for name, n in left.items() if name in found.plan.remove)
    assert target.reached(found.history.iloc[-1].to_dict())
    with pytest.raises(ValueError, match=r"shortlist=2 decides filter by filter"):
        compress(trained, SPLITS, target=target, shortlist=2, **NONE)


@pytest.mark.parametrize("exclude", ["network.4", ["network.4"], lambda name: name == "network.4"])
def test_excluded_layers_lose_nothing(trained: CNN, exclude: Any) -> None:
    found = compress(trained, SPLITS, target=Target(filters=3), step=2, exclude=exclude, **NONE)
    assert "network.4" not in found.plan.remove
    assert found.plan.n_filters == 3
    with pytest.raises(ValueError, match="out of reach"):
        compress(trained, SPLITS, target=Target(filters=4), exclude=exclude, **NONE)


def test_the_network_is_followed_once(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(Flow, "run", lambda self, *inputs, run=Flow.run: runs.append(1) or run(self, *inputs))
    compress(trained, SPLITS, target=Target(filters=5), step=1, **NONE)
    assert len(runs) == 3  # in eval mode without and with gradients, and in train mode


def test_the_macs_penalty_goes_by_the_present_shares(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def shares(model: nn.Module, images: Tensor) -> dict[str, float]:
        measured.append(parameters(model))
        return macs_per_filter(model, images)

    monkeypatch.setattr(loop, "macs_per_filter", shares)
    without = compress(trained, SPLITS, target=Target(filters=3), **NONE)
    assert measured == []
    _, plan, history = compress(trained, SPLITS, target=Target(filters=3), macs_penalty=1e6, **NONE)
    assert measured == history["parameters"].tolist()[:-1]
    ((layer, _),) = lowest(
        rank(taylor(trained, SCORED), macs_penalty=1e6, macs=macs_per_filter(trained, SCORED.inputs)), 1
    ).remove.items()
    assert history.loc[1, layer] == history.loc[0, layer] - 1
    assert plan != without.plan


def test_the_same_images_score_in_every_step(trained: CNN) -> None:
    seen = []

    def watching(model: nn.Module, split: Split, *, loss: object, batch_size: int) -> Scores:
        seen.append((split.inputs, split.targets, batch_size))
        return magnitude(model)

    compress(trained, SPLITS, target=Target(filters=2), criterion=watching, n_images=70, seed=5, update=0, batch_size=9)
    expected = SPLITS.train.subset(70, seed=5)
    assert len(seen) == 2
    assert all(torch.equal(x, expected.inputs) and torch.equal(y, expected.targets) and n == 9 for x, y, n in seen)


def test_a_depthwise_of_one_channel_is_no_layer() -> None:
    layers = [nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()]
    model = randomize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 36, 4)))
    _, plan, history = compress(model, SPLITS, target=Target(filters=4), macs_penalty=0.1, **NONE)
    assert {name: len(filters) for name, filters in plan.remove.items()} == {"0": 2, "3": 2}
    assert list(history)[2:5] == ["0", "3", "parameters"]
    assert history.iloc[-1][["0", "3"]].tolist() == [1, 1]


def test_residual_networks_go_down_to_their_floors() -> None:
    model = randomize(Residual())
    layers = {layer.name: layer.out_channels for layer in prunable_layers(model)}
    free = sum(layers.values()) - len(layers)
    network, plan, history = compress(model, SPLITS, target=Target(filters=free), **FEW)
    assert plan.n_filters == free
    assert history.iloc[-1][list(layers)].tolist() == [1] * len(layers)
    with pytest.raises(ValueError, match=f"in each of {len(layers)} prunable layers, the closest is filters={free}"):
        compress(model, SPLITS, target=Target(filters=free + 1))
    network(SPLITS.train.inputs)


def test_a_network_without_layers_is_its_own_smallest() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    assert len(compress(model, SPLITS, target=Target(points=1)).history) == 1
    with pytest.raises(ValueError, match="in each of 0 prunable layers, the closest is filters=0"):
        compress(model, SPLITS, target=Target(filters=1))


# The history, and the updates


def test_the_history_has_one_row_a_step(trained: CNN) -> None:
    history = compress(trained, SPLITS, target=Target(filters=5), step=2, **FEW).history
    layers = ["network.0", "network.2", "network.4"]
    assert list(history) == ["step", "removed", *layers, "parameters", "macs", *MEASURED, "seconds"]
    assert history["step"].tolist() == [0, 1, 2, 3]
    assert history["removed"].tolist() == [0, 2, 4, 5]
    assert history.loc[0, layers].tolist() == [2, 3, 4]
    assert (history["removed"] == 9 - history[layers].sum(axis=1)).all()
    assert (history["seconds"] > 0).all()
    for _, row in history.iterrows():
        target = Target(filters=int(row["removed"]))
        network = compress(trained, SPLITS, target=target, step=2, **FEW).network
        assert (row["parameters"], row["macs"]) == (parameters(network), macs(network, SPLITS.train.inputs))
        measured = evaluate(network, SPLITS.validation)
        assert (row["loss_after"], row["accuracy_after"]) == (measured.loss, measured.accuracy)
    assert history.loc[0, MEASURED[:2]].tolist() == history.loc[0, MEASURED[2:]].tolist()
    assert (history.loc[1:, "loss_before"] != history.loc[1:, "loss_after"]).all()


def test_without_updates_it_is_measured_once(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(loop, "measured", lambda *a, **k: calls.append(a) or measured(*a, **k))
    history = compress(trained, SPLITS, target=Target(filters=3), **NONE).history
    assert history["loss_before"].tolist() == history["loss_after"].tolist()
    assert history["accuracy_before"].tolist() == history["accuracy_after"].tolist()
    assert len(calls) == len(history) == 4


def test_a_step_is_prune_and_then_fit(trained: CNN) -> None:
    network, plan, history = compress(trained, SPLITS, target=Target(filters=2), step=2, seed=7, **FEW)
    by_hand = prune(trained, plan)
    before = evaluate(by_hand, SPLITS.validation)
    few = replace(SPLITS, train=SPLITS.train.subset(96, seed=8))
    fit(by_hand, few, epochs=1, batch_size=32, learning_rate=0.01, seed=8)
    assert_same_network(network, by_hand)
    assert history.loc[1, MEASURED[:2]].tolist() == [before.loss, before.accuracy]


def test_updates_see_each_training_image_at_most_once(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(loop, "fit", lambda model, splits, **k: seen.append(splits) or fit(model, splits, **k))
    compress(trained, SPLITS, target=Target(filters=1), update=1000, batch_size=32)
    assert [len(splits.train) for splits in seen] == [120]


# The same call, the same network; and nothing that is passed in changes


@pytest.mark.parametrize("build", [lambda: CNN((2, 3, 4), image_size=8, n_classes=4), dropping])
def test_the_same_call_gives_the_same_network(
    build: Callable[[], nn.Module],
) -> None:
    model = randomize(build(), seed=1)
    runs = []
    for drawn in (0, 1):
        torch.manual_seed(drawn)
        runs.append(compress(model, SPLITS, target=Target(filters=4), shortlist=2, **FEW))
    assert_same(*runs)


def test_another_seed_gives_another_network() -> None:
    losses = [
        compress(dropping(), SPLITS, target=Target(filters=1), seed=i, **FEW).history["loss_after"] for i in (0, 1)
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_dropout_is_seeded_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    monkeypatch.setattr(loop, "fit", lambda *a, **k: states.append(torch.get_rng_state()) or fit(*a, **k))
    compress(dropping(), SPLITS, target=Target(filters=2), seed=3, **FEW)
    for state, seed in zip(states, (4, 5), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            assert torch.equal(state, torch.get_rng_state())


def test_the_arguments_stay_as_they_were(trained: CNN) -> None:
    for model in (trained, dropping().eval()):
        before, images = snapshot(model), [s.inputs.clone() for s in (SPLITS.train, SPLITS.validation)]
        compress(model, SPLITS, target=Target(filters=2), shortlist=2, **FEW)
        assert_unchanged(model, before)
        assert torch.equal(images[0], SPLITS.train.inputs)
        assert torch.equal(images[1], SPLITS.validation.inputs)


@pytest.mark.parametrize("where", ["criterion", "fit", "prune"])
def test_they_do_so_after_an_error_too(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        torch.rand(3)
        raise RuntimeError("in the middle")

    model = dropping()
    before = snapshot(model)
    if where != "criterion":
        monkeypatch.setattr(loop, where, failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        compress(model, SPLITS, target=Target(filters=2), criterion=failing if where == "criterion" else taylor, **FEW)
    assert_unchanged(model, before)


def test_flags_of_the_model_stay_with_the_network() -> None:
    model = dropping().eval()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    network = compress(model, SPLITS, target=Target(filters=2), **FEW).network
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == frozen != set()
    assert not any(m.training for m in network.modules())


# From the disk


class Interrupted(Exception):
    pass


class Taylor:
    """``taylor``, which can be interrupted; ``calls`` counts them."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.interrupted_at, self.calls = interrupted_at, 0

    def __call__(self, model: nn.Module, split: Split, *, loss: object, batch_size: int) -> Scores:
        self.calls += 1
        if self.calls == self.interrupted_at:
            raise Interrupted
        return taylor(model, split, batch_size=batch_size)

    def __repr__(self) -> str:
        return "Taylor()"


def frozen_cnn() -> nn.Module:
    """A CNN's file is loaded without the model, so what is frozen, and the mode, are not in it."""
    return randomize(CNN((2, 3, 4), image_size=8, n_classes=4)).eval()


@pytest.mark.parametrize(
    ("build", "interrupted_at"), [(frozen_cnn, 1), (frozen_cnn, 3), (dropping, 2), (dropping, 4), (Residual, 3)]
)
def test_an_interrupted_run_goes_on(build: Callable[[], nn.Module], interrupted_at: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build()
    options: dict[str, Any] = {"target": Target(filters=5), **FEW}
    whole = compress(model, SPLITS, criterion=Taylor(), **options)
    with pytest.raises(Interrupted):
        compress(model, SPLITS, criterion=Taylor(interrupted_at), folder=tmp_path / "new" / "run", **options)
    criterion = Taylor()
    assert_same(compress(model, SPLITS, criterion=criterion, folder=tmp_path / "new" / "run", **options), whole)
    assert criterion.calls == 5 - (interrupted_at - 1)  # no step twice


@pytest.mark.parametrize("lost", ["state", "clean-up"])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interruption_between_files_loses_nothing(
    lost: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = dropping(), {"target": Target(filters=4), **FEW}
    whole = compress(model, SPLITS, **options)
    moves = iter(range(100))

    def replacing(source: Path, goal: Path) -> None:
        interrupted = goal.name == "compress.json" and next(moves) == at
        if not (interrupted and lost == "state"):
            os.rename(source, goal)
        if interrupted:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop.os, "replace", replacing)
        with pytest.raises(Interrupted):
            compress(model, SPLITS, folder=tmp_path, **options)
    (tmp_path / ".compress.json.part").write_text('{"rows": [')
    (tmp_path / ".step_3.safetensors.4711.part").write_bytes(b"half a fi")
    assert_same(compress(model, SPLITS, folder=tmp_path, **options), whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["compress.json", "step_4.safetensors"]


SLOW = """
import sys, time
from test_loop import *

def slowly(model, split, *, loss, batch_size):
    time.sleep(0.1)
    return taylor(model, split, batch_size=batch_size)

torch.set_num_threads(1)
compress(dropping(), SPLITS, target=Target(filters=5), criterion=slowly, folder=sys.argv[1], **FEW)
"""


def slowly(model: nn.Module, split: Split, *, loss: object, batch_size: int) -> Scores:
    return taylor(model, split, batch_size=batch_size)


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """The process gets no chance to clean up; where in its step the kill meets it is left to chance."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, tmp_path], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 120
    while not (tmp_path / "step_2.safetensors").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = json.loads((tmp_path / "compress.json").read_text())
    assert 2 <= len(state["rows"]) < 6
    options: dict[str, Any] = {"target": Target(filters=5), "criterion": slowly, **FEW}
    resumed = compress(dropping(), SPLITS, folder=tmp_path, **options)
    assert resumed.history["seconds"][: len(state["rows"])].tolist() == [row["seconds"] for row in state["rows"]]
    assert_same(resumed, compress(dropping(), SPLITS, **options))


def test_a_finished_run_returns_at_once(trained: CNN, tmp_path: Path) -> None:
    first = compress(trained, SPLITS, target=Target(filters=3), criterion=Taylor(), folder=tmp_path, **FEW)
    again = compress(trained, SPLITS, target=Target(filters=3), criterion=Taylor(1), folder=tmp_path, **FEW)
    assert_same(first, again)
    assert first.history["seconds"].tolist() == again.history["seconds"].tolist()


def test_the_closest_network_stays_on_disk(trained: CNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, 0.9, 0.9, 0.9, 0.8, 0.8)
    options: dict[str, Any] = {"target": Target(points=1), "folder": tmp_path}
    with pytest.raises(Interrupted):
        compress(trained, SPLITS, criterion=Taylor(5), **options)
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == ["step_2.safetensors", "step_4.safetensors"]
    script(monkeypatch, 0.8)
    network, plan, history = compress(trained, SPLITS, criterion=Taylor(), **options)
    assert_same_network(network, prune(trained, plan))
    assert (plan.n_filters, len(history)) == (2, 6)


def test_a_missed_target_is_missed_again_at_once(trained: CNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, 0.9, 0.9, 0.8, 0.8, 0.8)
    errors = []
    for criterion in (Taylor(), Taylor(1)):
        with pytest.raises(TargetMissed) as raised:
            compress(trained, SPLITS, target=Target(macs=8000, points=1), criterion=criterion, folder=tmp_path)
        errors.append(raised.value)
    assert str(errors[0]) == str(errors[1])
    assert_same(errors[0].closest, errors[1].closest)


def frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False)


def nudged(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model[0].bias.data[1] += 1e-6
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"learning_rate": 0.02}, r"learning_rate was 0\.01, is 0\.02"),
        ({"shortlist": None, "step": 2}, r"step was 1, is 2; shortlist was 1, is None"),
        ({"target": Target(filters=2, points=3)}, "target was .*'points': None.*, is .*'points': 3"),
        ({"criterion": magnitude}, "criterion was <function taylor>, is <function magnitude>"),
        ({"criterion": partial(criteria.random, seed=1)}, r"is functools\.partial\(<function random>, seed=1\)"),
        ({"model": nudged(dropping())}, "model was [0-9a-f]{64}, is [0-9a-f]{64}"),
        ({"model": frozen(dropping())}, "model was"),
        ({"model": nn.Sequential(*dropping()[:3], nn.Dropout2d(0.25), *dropping()[4:])}, "model was"),
        ({"splits": replace(SPLITS, train=SPLITS.train.subset(120))}, "splits was"),
        ({"splits": replace(SPLITS, validation=SPLITS.validation.subset(49))}, "splits was"),
    ],
)
def test_a_folder_of_another_run_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "model": dropping(),
        "splits": SPLITS,
        "target": Target(filters=2),
        "folder": tmp_path,
        **FEW,
    }
    with pytest.raises(Interrupted):
        compress(**{**arguments, "criterion": Taylor(1)})
    state = json.loads((tmp_path / "compress.json").read_text())
    state["settings"]["criterion"] = "<function taylor>"
    (tmp_path / "compress.json").write_text(json.dumps(state))
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"holds another run: .*{message}.*take another folder"):
        compress(**{**arguments, **change})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert compress(**arguments).plan.n_filters == 2


# Your own training, and your own measure


def test_a_function_trains_between_the_steps(trained: CNN) -> None:
    seen: list[tuple[int, bool]] = []

    def train(network: nn.Module) -> None:
        seen.append((parameters(network), network.training))
        fit(network.train(), SPLITS, epochs=1, batch_size=32, learning_rate=0.01)

    found = compress(trained.eval(), SPLITS, target=Target(filters=3), update=train)
    assert seen == [(n, False) for n in found.history["parameters"][1:]]
    assert not found.network.training
    assert (found.history["loss_after"] != found.history["loss_before"]).tolist() == [False, True, True, True]


def test_another_network_is_no_update(trained: CNN) -> None:
    with pytest.raises(TypeError, match="update returned another network: it must train the one that it gets"):
        compress(trained, SPLITS, target=Target(filters=1), update=copy.deepcopy)


@pytest.mark.parametrize("update", [0, 3])
def test_your_measure_stands_for_the_accuracy(trained: CNN, update: int) -> None:
    def smallness(network: nn.Module, data: Split) -> float:
        assert data is SPLITS.validation
        assert not network.training
        return 100 / parameters(network)

    found = compress(trained, SPLITS, target=Target(filters=2), **FEW | {"update": update}, evaluate=smallness)
    assert found.history["accuracy_after"].tolist() == [100 / n for n in found.history["parameters"]]
    assert found.history["loss_after"].isna().all()


def test_a_measure_is_a_number(trained: CNN) -> None:
    with pytest.raises(TypeError, match="evaluate must return a number, the higher the better, not 'good'"):
        compress(trained, SPLITS, target=Target(filters=1), **NONE, evaluate=lambda network, data: "good")  # type: ignore[return-value]


# Which filters


def test_per_layer_takes_the_same_share_of_each(trained: CNN) -> None:
    for step in (1, 9):
        found = compress(trained, SPLITS, target=Target(filters=5), **NONE, per_layer=True, step=step)
        assert [len(filters) for filters in found.plan.remove.values()] == [1, 2, 2]  # of 2, 3, 4
        assert len(found.history) == (6 if step == 1 else 2)


def test_normalize_is_that_of_rank(trained: CNN) -> None:
    for normalize in ("l2", "mean", None):
        found = compress(trained, SPLITS, target=Target(filters=4), **NONE, step=14, normalize=normalize)
        assert found.plan == lowest(rank(taylor(trained, SCORED), normalize=normalize), 4)


def test_a_shortlist_decides_over_all_layers(trained: CNN) -> None:
    with pytest.raises(ValueError, match="shortlist=2 decides over all layers: with per_layer=True, use shortlist=1"):
        compress(trained, SPLITS, target=Target(filters=1), shortlist=2, per_layer=True)


# Warnings


def test_too_few_images_for_the_points_are_said(trained: CNN) -> None:
    limit = Target(filters=1, points=1)
    with pytest.warns(UserWarning, match=r"on 50 validation examples an accuracy has a standard error of \d\.\d\d"):
        compress(trained, SPLITS, target=limit, **NONE)


def test_too_few_batches_are_said(trained: CNN) -> None:
    with pytest.warns(UserWarning, match="update=5 asks for more batches than splits.train has: each step gets 4"):
        compress(trained, SPLITS, target=Target(filters=1), update=5, batch_size=32)


def test_progress_is_told_in_every_unit(trained: CNN, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, text, **_: told.append(text))
    history = compress(trained, SPLITS, target=Target(filters=2), **NONE).history
    lost = 100 * (history["accuracy_after"].iloc[0] - history["accuracy_after"])
    columns = zip(history["parameters"], history["macs"], lost, strict=True)
    assert told == [f"{n:,} parameters, {m:,} MACs, {points:.2f} points lost" for n, m, points in columns]
