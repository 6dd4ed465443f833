"""The committed checkpoints are what the chapters' calls give, and what the chapters say of them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch

from benchmarks import recipe
from cnnprune_utils.batches import Splits
from cnnprune_utils.book import checkpoint, training_history
from cnnprune_utils.book.shipped import CHECKPOINTS
from cnnprune_utils.metrics import parameters
from cnnprune_utils.training import evaluate

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def source(chapter: str) -> str:
    cells = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells)  # the control's call stands in the text


def test_chapter_1_trains_as_the_recipe_does() -> None:
    assert f"fit(model, splits, epochs={recipe.TRAIN_EPOCHS}, learning_rate=1e-2)" in source("01_train")


def test_chapter_5_follows_the_recipe() -> None:
    calls = source("05_fine_tune")
    assert f"fit(tuned, splits, epochs={recipe.TUNE_EPOCHS}, learning_rate=1e-2)" in calls
    assert f"fit(scratch, splits, epochs={recipe.TRAIN_EPOCHS + recipe.TUNE_EPOCHS}, learning_rate=1e-2)" in calls


def test_the_baseline_gives_the_chapters_plan(splits: Splits) -> None:
    baseline = checkpoint("baseline")
    plan = recipe.make_plan(baseline, splits)
    assert dict(plan.remove) == {"network.0": (0,), "network.2": (2, 3), "network.4": (0, 1, 2, 4, 5)}


@pytest.mark.parametrize(("name", "widths"), [("baseline", (2, 4, 8)), ("tuned", (1, 2, 3)), ("scratch", (1, 2, 3))])
def test_checkpoints_are_trained(splits: Splits, name: str, widths: tuple[int, ...]) -> None:
    model = checkpoint(name)
    assert model.widths == widths
    assert evaluate(model, splits.validation).accuracy > 0.88


def test_the_deeper_network_is_good_and_small(splits: Splits) -> None:
    model = checkpoint("residual")
    assert evaluate(model, splits.test).accuracy >= 0.925
    assert parameters(model) < 200_000
    assert (CHECKPOINTS / "residual.safetensors").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("baseline", recipe.TRAIN_EPOCHS),
        ("scratch", recipe.TRAIN_EPOCHS + recipe.TUNE_EPOCHS),
        ("residual", recipe.RESIDUAL_EPOCHS),
    ],
)
def test_a_history_ends_at_its_checkpoint(splits: Splits, name: str, epochs: int) -> None:
    rows, model = training_history(name), checkpoint(name)
    assert rows["epoch"].tolist() == list(range(epochs + 1))
    assert rows["validation_accuracy"].iloc[-1] == pytest.approx(evaluate(model, splits.validation).accuracy)


def test_a_dead_filter_of_chapter_3_opens_on_one_training_image(splits: Splits) -> None:
    """Filter 2 of network.2, and filter 3 on none: dead is what the images say that were looked at."""
    layers = checkpoint("baseline").network[:3]
    with torch.no_grad():
        open_on = [layers(images).amax((2, 3)) > 0 for images, _ in splits.train.batches(1000)]
    assert torch.cat(open_on).sum(0)[2:].tolist() == [1, 0]
