"""What the study of the deeper network measures: budgets, controls, and a teacher who runs once."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from random_networks import one_thread, randomize  # noqa: F401
from torch import nn

from benchmarks import deeper, recipe
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.training import evaluate, fit


def split(n: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 28, 28, generator=generator), torch.randint(10, (n,), generator=generator))


SPLITS = Splits(split(48), split(20, 1), split(20, 2))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(recipe, "RESIDUAL_BATCH", 16)
    monkeypatch.setattr(deeper, "NARROWER", {"quarter": (2, 4, 6)})
    monkeypatch.setattr(deeper, "LONG", 2)
    monkeypatch.setattr(deeper, "STEPS", 2)  # with one batch after each
    monkeypatch.setattr(recipe, "RESIDUAL_EPOCHS", 1)
    return randomize(ResNet((4, 8, 12))).requires_grad_()  # torch-pruning needs every gradient


def test_a_teacher_who_runs_once_is_the_teacher_of_fit(model: nn.Module) -> None:
    lessons = deeper.taught(SPLITS, model)
    outputs = torch.randn(48, 10, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        probabilities = model.eval()(SPLITS.train.inputs).softmax(1)
    both = F.cross_entropy(outputs, SPLITS.train.targets) + F.cross_entropy(outputs, probabilities)
    assert F.cross_entropy(outputs, lessons.train.targets).item() == pytest.approx(both.item() / 2, rel=1e-5)
    assert lessons.validation is SPLITS.validation


@pytest.mark.filterwarnings("ignore:after .* batch")
def test_the_front_has_its_controls(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    table = deeper.front(model, SPLITS, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    made = table.groupby("way", sort=False)[["epochs", "teacher"]].apply(lambda rows: list(map(tuple, rows.to_numpy())))
    after_the_cut = [(0, False), (1, False), (2, True)]
    assert made.to_dict() == {
        "original": [(0, False), (2, False)],
        **{way: after_the_cut[: 3 if way in deeper.TRAINED_LONG["quarter"] else 2] for way in deeper.CUTS},
        "loop": [(2, True)],
        "from scratch": [(1, False), (2, True), (3, False)],
    }
    scratch = ResNet((2, 4, 6))
    of_scratch = table[table["way"] == "from scratch"]
    assert of_scratch["macs"].eq(macs(scratch)).all()
    assert of_scratch["parameters"].eq(parameters(scratch)).all()
    assert of_scratch["widths"].eq("2 2 2 4 4 4 6 6 6").all()
    cut = table[~table["way"].isin(["original", "from scratch"])]
    assert cut["macs"].le(macs(scratch)).all()
    assert cut["macs"].gt(0.5 * macs(scratch)).all()
    assert table.loc[0, "validation"] == evaluate(model, SPLITS.validation).accuracy
    assert table.loc[table["way"].eq("original"), "parameters"].eq(parameters(model)).all()


@pytest.mark.filterwarnings("ignore:after .* batch")
def test_the_loop_has_as_many_updates_as_the_others(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(network: nn.Module, splits: Splits, *, epochs: int, batch_size: int, **how: Any) -> pd.DataFrame:
        seen.append(epochs * len(splits.train) // batch_size)
        return fit(network, splits, epochs=epochs, batch_size=batch_size, **how)

    monkeypatch.setattr(recipe, "fit", counted)
    monkeypatch.setattr(deeper, "LONG", 4)
    small = deeper.loop(model, SPLITS, deeper.taught(SPLITS, model), macs(ResNet((2, 4, 6))), seed=0)
    assert seen == [3, 3, 6]  # 48 images in batches of 16, four epochs: half between, half after
    assert macs(small) <= macs(ResNet((2, 4, 6)))


def test_filter_by_filter_until_it_fits(model: nn.Module) -> None:
    budget = macs(ResNet((2, 4, 6)))
    small = deeper.by_torch_pruning(model, SPLITS, budget, seed=0)
    assert 0.8 * budget < macs(small, SPLITS.train.inputs[:1]) <= budget
