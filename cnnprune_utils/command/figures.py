"""The figures of a run, drawn from the files of its steps."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..book import plots
from ..files import write
from ..plan import Plan
from .folder import STEPS, RunFolder

FIRST = {"train": "epoch", "finetune": "epoch", "ranks": "layer", "removed": "layer", "loop": "step"}
FIRST |= {"comparison": "model"}
"""Table -> a column that it must have."""


def draw(folder: RunFolder, step: str) -> None:
    """Draw the figure of ``step``, which is done, unless it exists."""
    if step not in FIGURES:
        return
    name, figure_of = FIGURES[step]
    file = folder.file(f"figures/{name}.png")
    if not file.exists():
        figure, content = figure_of(folder), BytesIO()
        figure.savefig(content, format="png", dpi=150)
        plt.close(figure)
        file.parent.mkdir(exist_ok=True)
        write(file, content.getvalue())


def table(folder: RunFolder, name: str) -> pd.DataFrame:
    """Return the table ``name``.csv.

    Raises:
        ValueError: it is damaged.
    """
    file = folder.file(f"{name}.csv")
    step = next((step for step in STEPS if file in folder.files(step)), "run")
    try:
        rows = pd.read_csv(file)
        if FIRST[name] not in rows:
            raise ValueError(f"it has no column {FIRST[name]}")
    except ValueError as error:  # pandas' own errors are of this kind
        raise ValueError(
            f"{file} is damaged: {error}. `cnnprune {step} {folder.path} --redo` makes it again"
        ) from error
    return rows


def _training(folder: RunFolder) -> Figure:
    left, _ = plots.learning_curves(table(folder, "train"), title="The original network learns")
    return _figure_of(left)


def _ranks(folder: RunFolder) -> Figure:
    left, _ = plots.score_bars(table(folder, "ranks"), title="What each filter is worth")
    left.set_ylabel(f"raw score ({folder.settings().scoring.criterion})")
    if legend := left.get_legend():
        legend.set_loc("best")
    return _figure_of(left)


def _accuracy(folder: RunFolder) -> Figure:
    plan = Plan.from_json(folder.file("plan.json").read_text())
    histories = {"original": table(folder, "train"), "fine-tuned": table(folder, "finetune")}
    title = f"What fine-tuning brings back, without {plan.n_filters} filters"
    return _figure_of(plots.accuracy_curves(histories, title=title))


def _shares(folder: RunFolder) -> Figure:
    costs = table(folder, "comparison").set_index("model")[["parameters", "macs", "file_kb"]]
    return _figure_of(plots.shares(costs.div(costs.iloc[0]), title="What is left of the original's costs"))


def _figure_of(axes: Axes) -> Figure:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


FIGURES: dict[str, tuple[str, Callable[[RunFolder], Figure]]] = {
    "train": ("training", _training),
    "score": ("ranks", _ranks),
    "finetune": ("accuracy", _accuracy),
    "compare": ("shares", _shares),
}
"""Step -> the name of its figure, and the function that draws it."""
