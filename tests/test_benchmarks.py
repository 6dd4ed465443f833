"""`make bench` runs, and prints every table; what it measures is the business of the benchmarks."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import large, recipe, recovery, scoring, timing, usual_recipe
from cnnprune_utils.batches import Split
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fetch import fetch
from cnnprune_utils.metrics import parameters
from cnnprune_utils.surgery import prune

TINY = {
    "speed": {"usual_epochs": 1, "at_most": 64},
    "scoring": {"n_images": 20, "rounds": 1},
    "accuracy": {"seeds": range(2), "at_most": 64},
    "scaling": {"sizes": [10, 20, 30], "factors": [1, 2], "n_images": 10, "rounds": 1},
    "memory": {"chapters": "no such chapter"},
    "rival": {"seeds": range(2), "at_most": 64},
    "choices": {"seeds": range(2), "at_most": 64},
    "large": {"n_images": 4, "rounds": 1},
    "reach": {"networks": ("squeezenet1_1",)},
    "sources": {"n_images": 20, "rounds": 1},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setattr(large, "NETWORKS", {"resnet18": large.NETWORKS["resnet18"]})
    monkeypatch.setattr(recipe, "TRAIN_EPOCHS", 1)
    monkeypatch.setattr(recipe, "TUNE_EPOCHS", 2)
    monkeypatch.setattr(recipe, "LEARNS", -1.0)


def test_every_table_has_its_target_or_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--quick"])
    shown = capsys.readouterr().out
    assert re.findall(r"^(\d+)\. ", shown, flags=re.MULTILINE) == [str(n) for n in range(1, 11)]
    assert re.search(r"^usual +[\d,.]+ +23,617 +- +1\.0$", shown, flags=re.MULTILINE), "sampled: no accuracy"
    assert re.search(r"^ours +[\d,.]+ +23,737 +0\.\d{4} +[\d.]+$", shown, flags=re.MULTILINE)
    assert "SAMPLED: 1 of each 10 epochs of the usual recipe ran" in shown
    for way, size in zip(recovery.WAYS, ("23,737", "23,737", "23,617", "23,617", "63,122"), strict=True):
        rows = re.findall(rf"^{way} +{size}(?: +-?\d+\.\d\d){{5}}$", shown, flags=re.MULTILINE)
        assert len(rows) == (1 if way == recovery.CONTROL else 2), way
    assert len(re.findall("R squared", shown)) == 3
    assert "nan" not in shown


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["spede"])
    assert (
        "no table spede; there are speed, scoring, accuracy, scaling, memory, rival, choices, large, reach, sources"
        in capsys.readouterr().err
    )


def test_interleaved_makes_every_call_in_turn() -> None:
    made: list[str] = []
    seconds = timing.interleaved({name: lambda name=name: made.append(name) for name in "ab"}, rounds=3)
    assert made == list("abababab")
    assert seconds.shape == (3, 2)


def test_the_usual_recipes_scores() -> None:
    """Its plan is that of gradient times map, taken by hand from one batch."""
    torch.manual_seed(0)
    model = CNN()
    (images, labels), *_ = usual_recipe.loaders(fetch().folder.parents[1], at_most=32)[0]
    maps = [images]
    for module in model.network[:6]:
        maps.append(module(maps[-1]))
    cost = torch.nn.functional.cross_entropy(model.network[6:](maps[-1]), labels)
    expected = {}
    for name, i in usual_recipe.RELU_BEHIND.items():
        (gradient,) = torch.autograd.grad(cost, maps[i + 1], retain_graph=True)
        scores = (maps[i + 1] * gradient).abs().mean((0, 2, 3))
        expected[name] = tuple(sorted(scores.argsort()[: usual_recipe.REMOVED[name]].tolist()))
    plan = usual_recipe.make_plan(model, [(images, labels)])
    assert plan.remove == expected
    assert parameters(prune(model, plan)) == 23_617


def test_the_interval_of_the_mean_is_students_t() -> None:
    lost = [0.1, 0.2, 0.3, 0.4, 0.5]
    rows = pd.DataFrame({"way": "one", "seed": range(5), "parameters": 10, "baseline": 90.0, "lost": lost})
    found = recovery.summary(rows).loc["one"]
    half = 2.776445 * math.sqrt(0.025 / 5)  # t(0.975, 4) times the standard error
    assert found["mean_lost"] == pytest.approx(0.3)
    assert (found["low"], found["high"]) == pytest.approx((0.3 - half, 0.3 + half))


def test_the_control_is_taken_off_seed_by_seed() -> None:
    lost = {("one", 0): 1.0, ("one", 1): 3.0, (recovery.CONTROL, 0): -0.5, (recovery.CONTROL, 1): 0.25}
    rows = pd.DataFrame([(way, seed, value) for (way, seed), value in lost.items()], columns=["way", "seed", "lost"])
    assert recovery.behind_the_control(rows)["lost"].tolist() == [1.5, 2.75]


def test_the_slope_is_milliseconds_for_one_more() -> None:
    table = pd.DataFrame({"images": [1000, 2000, 4000], "taylor_s": [0.5, 0.7, 1.1]})
    assert scoring.slope(table) == pytest.approx((0.2, 1.0))


def test_a_plain_pass_leaves_no_gradient_behind() -> None:
    model = CNN()
    scoring.forward_backward(model, Split(torch.rand(4, 1, 28, 28), torch.arange(4)))
    assert all(parameter.grad is None for parameter in model.parameters())
