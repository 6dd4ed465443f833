"""Every figure of the book. Each function takes data and a title that answers its question, and returns the Axes.

The palette is Okabe and Ito's, safe for colour-blind readers. A layer, a stage and a way of choosing filters
keep their colour in all chapters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit
from torch import Tensor

from ..batches import Split
from ..structure import Layer
from .fashion_mnist import CLASS_NAMES

LAYER_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
STAGE_COLORS = {
    "original": "#000000",
    "pruned": "#D55E00",
    "fine-tuned": "#0072B2",
    "one at a time": "#009E73",
    "from scratch": "#CC79A7",
}
METHOD_COLORS = {
    "the best": "#000000",
    "original": "#000000",
    "taylor": "#0072B2",
    "lowest taylor score first": "#0072B2",
    "highest taylor score first": "#009E73",
    "random": "#E69F00",
    "taylor, scored again": "#56B4E9",
    "loop": "#56B4E9",
    "closed gates": "#D55E00",
    "choose": "#CC79A7",
    "from scratch": "#CC79A7",
    "torch-pruning": "#D55E00",
}
REMOVED = "#D55E00"
UNREAD = "#F3B98B"  # a lighter REMOVED
KEPT = "#BBBBBB"
WIDTH = 7.5  # inches: the width of a page
NARROW = 6.0  # inches: what a phone shrinks least

if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:  # in a notebook: at twice the density
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("retina")


def layer_colors(layers: Iterable[str]) -> dict[str, str]:
    """Return a colour for each layer name, in the order in which the names first appear."""
    names = list(dict.fromkeys(layers))
    return {name: LAYER_COLORS[i % len(LAYER_COLORS)] for i, name in enumerate(names)}


def method_color(name: str, i: int) -> str:
    """Return the colour of a way of choosing filters; of one that has none of its own, the ``i``-th of the layers'."""
    known = name.lower().removesuffix(", scored once").partition(" (")[0]
    return METHOD_COLORS.get(known, LAYER_COLORS[i % len(LAYER_COLORS)])


def class_grid(split: Split, *, title: str, per_class: int = 8) -> Figure:
    """Draw the first ``per_class`` images of each class, one row per class."""
    figure, grid = plt.subplots(10, per_class, figsize=(WIDTH, WIDTH * 10 / (per_class + 3)), squeeze=False)
    for label, (row, name) in enumerate(zip(grid, CLASS_NAMES, strict=True)):
        for axes, image in zip(row, split.inputs[split.targets == label], strict=False):
            _picture(axes, image[0])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 0.99))
    return figure


def learning_curves(history: pd.DataFrame, *, title: str) -> tuple[Axes, Axes]:
    """Draw the training and validation loss, and beside it the validation accuracy, against the epoch."""
    _, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3), layout="constrained")
    trained = history[history["epoch"] > 0]
    left.plot(trained["epoch"], trained["train_loss"], marker="o", color=LAYER_COLORS[0], label="training images")
    left.plot(
        trained["epoch"], trained["validation_loss"], marker="s", color=LAYER_COLORS[1], label="validation images"
    )
    left.set(xlabel="epoch", ylabel="mean loss", xticks=trained["epoch"])
    left.legend(frameon=False)
    right.plot(trained["epoch"], 100 * trained["validation_accuracy"], marker="s", color=LAYER_COLORS[1])
    right.set(xlabel="epoch", ylabel="validation accuracy (%)", xticks=trained["epoch"])
    left.figure.suptitle(title)
    _plain(left, right)
    return left, right


def accuracy_curves(
    histories: Mapping[str, pd.DataFrame], *, title: str, colors: Mapping[str, str] = STAGE_COLORS
) -> Axes:
    """Draw validation accuracy against the epoch, one line per history; epoch 0 is before the first update."""
    axes = _axes(4)
    for i, (name, history) in enumerate(histories.items()):
        color = colors.get(name, LAYER_COLORS[i % len(LAYER_COLORS)])
        axes.plot(
            history["epoch"], 100 * history["validation_accuracy"], marker="osD^v"[i % 5], color=color, label=name
        )
    axes.set(xlabel="epoch (0: before the first update)", ylabel="validation accuracy (%)", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return axes


def cuts_and_updates(walk: pd.DataFrame, *, at_once: float, title: str) -> Axes:
    """Draw accuracy while filters are removed one by one, each followed by updates; dashed: all removed ``at_once``.

    ``walk`` has the columns ``removed``, ``after the cut``, ``after the updates``.
    """
    axes = _axes(3.5)
    cut, updated = 100 * walk["after the cut"], 100 * walk["after the updates"]
    path = np.column_stack([walk["removed"], walk["removed"] + 0.5]).ravel()  # the updates come between two cuts
    axes.plot(path, np.column_stack([cut, updated]).ravel(), color=KEPT, zorder=1)
    axes.scatter(walk["removed"], cut, marker="v", color=REMOVED, label="after the cut", zorder=2)
    axes.scatter(walk["removed"] + 0.5, updated, marker="^", color=LAYER_COLORS[0], label="after the updates", zorder=2)
    axes.axhline(100 * at_once, color=REMOVED, ls="--", lw=1, label="all cuts at once")
    axes.set(xlabel="filters removed", ylabel="validation accuracy (%)", title=title)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.1))
    return axes


def closing_gate(image: Tensor, rows: Mapping[str, Tensor], gated: int, *, title: str) -> Figure:
    """Draw an image (1, H, W), and a row of maps (filters, H, W) for each name, all on one scale of grey.

    The maps of the filter ``gated`` are framed.
    """
    n = len(next(iter(rows.values())))
    brightest = max(float(maps.max()) for maps in rows.values()) or 1.0
    figure, grid = plt.subplots(len(rows), n + 1, figsize=(NARROW, 0.65 * len(rows) + 0.7), layout="constrained")
    for row, (name, maps) in zip(grid, rows.items(), strict=True):
        _picture(row[0], image[0])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, picture in zip(row[1:], maps, strict=True):
            _picture(axes, picture, vmax=brightest)
        row[1 + gated].spines[:].set(visible=True, color=REMOVED, linewidth=2)
    for axes, name in zip(grid[0], ["image", *map(str, range(n))], strict=True):
        axes.set_title(name, fontsize=10)
    figure.suptitle(title)
    return figure


def losses_along_gate(gate: Sequence[float], changes: Tensor, *, shown: int, title: str) -> Axes:
    """Draw how the losses of single images change as a gate closes: thin, the first ``shown``; bold, the mean of all.

    ``changes`` has a row for each step of the gate and a column for each image.
    """
    axes = _axes(3.8, NARROW)
    thin = changes[:, :shown].numpy(force=True)
    for line in thin.T:
        axes.plot(gate, line, color=REMOVED if line[-1] > 0 else LAYER_COLORS[0], lw=0.6, alpha=0.5)
    axes.plot(gate, changes.mean(1).numpy(force=True), color="black", lw=3, label="mean")
    axes.set(xlabel="gate (1: open, 0: closed)", ylabel="change in loss", title=title, xlim=(1.03, -0.03))
    up, down = (Line2D([], [], color=color) for color in (REMOVED, LAYER_COLORS[0]))
    mean = Line2D([], [], color="black", lw=3)
    labels = ["an image, ends higher", "an image, ends lower", f"mean of {changes.shape[1]:,} images"]
    axes.legend([up, down, mean], labels, frameon=False, loc="upper left")
    return axes


def loss_along_gate(gate: Sequence[float], change: Sequence[float], slope: float, *, title: str) -> Axes:
    """Draw how the mean loss changes as a gate closes from 1 to 0, and the straight line given by its slope at 1."""
    axes = _axes(3.5, NARROW)
    end = change[int(np.argmin(gate))]
    axes.plot(gate, change, marker="o", color="black", label="measured")
    axes.plot([1, 0], [0, -slope], "--", color=LAYER_COLORS[5], label="straight on, by the slope at 1")
    axes.annotate(
        "", (0, end), (0, -slope), arrowprops={"arrowstyle": "<->", "color": KEPT, "shrinkA": 0, "shrinkB": 0}
    )
    axes.annotate("the bend ", (0, (end - slope) / 2), ha="right", va="center")
    axes.set(xlabel="gate (1: open, 0: closed)", ylabel="change in mean loss", title=title, xlim=(1.03, -0.03))
    axes.legend(frameon=False, loc="upper left")
    return axes


def promises_and_sizes(table: pd.DataFrame, *, title: str) -> tuple[Axes, Axes]:
    """Draw two guesses for every filter on two sets of images, side by side, the first filter at the bottom.

    ``table`` has a row for each filter and set, and the columns ``images`` ("training" or "validation"), ``filter``,
    ``promise``, ``error`` (its standard error; the bars show two of them) and ``size``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(NARROW, 4.2), sharey=True, layout="constrained")
    for i, (images, rows) in enumerate(table.groupby("images", sort=False)):
        look = {"color": LAYER_COLORS[i], "label": f"{images} images"}
        at = np.arange(len(rows)) + (0.15, -0.15)[i]  # so that no bar hides another
        left.errorbar(rows["promise"], at, xerr=2 * rows["error"], fmt="os"[i], ms=5, **look)
        right.plot(rows["size"], at, "os"[i], ms=5, **look)
        left.set_yticks(range(len(rows)), rows["filter"])
    left.axvline(0, color="black", lw=0.8)
    left.set_xlabel("$-$ mean slope")
    right.set(xlabel="mean size of the slopes", xlim=(0, None))
    _plain(left, right)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return left, right


def score_bars(ranks: pd.DataFrame, *, title: str) -> tuple[Axes, Axes]:
    """Draw the scores of all filters, raw and normalised by layer, side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
    for axes, column in ((left, "score"), (right, "normalized")):
        _bars(axes, ranks, column)
    left.set(ylabel="raw Taylor score")
    right.set(ylabel="score / norm of its layer")
    left.legend(handles=_legend(ranks), frameon=False, loc="upper left")
    figure.suptitle(title)
    return left, right


def rank_ladder(ranks: pd.DataFrame, *, title: str, n_removed: int) -> Axes:
    """Draw all filters from the least to the most important, and a dashed line below the first ``n_removed``."""
    ordered = ranks.sort_values("rank")
    colors = layer_colors(ranks["layer"])
    axes = _axes(0.28 * len(ranks) + 1)
    labels = [f"{row.layer}, filter {row.filter}" for row in ordered.itertuples()]
    bars = axes.barh(labels, ordered["normalized"], color=[colors[name] for name in ordered["layer"]])
    axes.bar_label(bars, labels=[f" {rank}" for rank in ordered["rank"]], fontsize=8)
    axes.invert_yaxis()
    axes.axhline(n_removed - 0.5, color=REMOVED, ls="--")
    axes.annotate(
        "leaves ", (1, n_removed - 0.6), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=REMOVED
    )
    axes.set(xlabel="normalised score (the number at a bar is its rank; rank 0 leaves first)", title=title)
    axes.legend(handles=_legend(ranks), frameon=False, loc="upper right")
    return axes


def feature_maps(images: Tensor, maps: Mapping[str, Tensor], *, title: str) -> Figure:
    """Draw images (n, 1, H, W) in the top row, and below them a row of feature maps (n, H, W) per named filter."""
    rows = {"image": images[:, 0], **maps}
    figure, grid = plt.subplots(len(rows), len(images), figsize=(WIDTH, 0.95 * len(rows) + 0.5), squeeze=False)
    for row, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            _picture(axes, picture, vmax=float(pictures.max()) or 1.0)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title)
    figure.tight_layout(pad=0.4)
    return figure


def stability(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw the rank correlation of samples with our ranking against their size; columns ``n``, ``correlation``."""
    axes = _axes(3.5)
    axes.plot(table["n"], table["correlation"], "o", color=KEPT, ms=4, label="one random sample")
    worst = table.groupby("n")["correlation"].min()
    axes.plot(worst.index, worst, marker="s", color=LAYER_COLORS[0], label="the worst sample of that size")
    axes.set(xscale="log", xlabel="images scored", ylabel="rank correlation with our ranking", title=title)
    axes.set_xticks(worst.index, [f"{n:,}" for n in worst.index])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    return axes


def surgery_picture(layers: Sequence[Layer], kept: Mapping[str, Sequence[int]], n_inputs: int, *, title: str) -> Figure:
    """Draw the blocks that are removed from the weights of a chain of ``layers``: a row per filter, a column per input.

    The last panel shows the linear layer, whose columns come in one block for each filter of the last layer.
    """
    widths = [n_inputs, *(layer.out_channels for layer in layers)]
    stays = [list(range(n_inputs)), *(list(kept[layer.name]) for layer in layers)]
    figure, panels = plt.subplots(1, len(layers) + 1, figsize=(WIDTH, 3.2), layout="constrained")
    for i, axes in enumerate(panels):
        last = i == len(layers)
        rows, row_stays = (1, [0]) if last else (widths[i + 1], stays[i + 1])
        for r in range(rows):
            for c in range(widths[i]):
                color = REMOVED if r not in row_stays else KEPT if c in stays[i] else UNREAD
                axes.add_patch(Rectangle((c, r), 0.88, 0.88, color=color))
        columns = layers[-1].places[-1]  # of the linear layer
        name = columns.tensor.removesuffix(".weight") if last else layers[i].name
        blocks = f"blocks of {len(columns.indices[0])} columns" if last else "reads channel"
        axes.set(xlim=(0, widths[i]), ylim=(rows, 0), aspect="equal", title=name, xlabel=blocks)
        axes.set_xticks(np.arange(widths[i]) + 0.44, range(widths[i]))
        axes.set_yticks(np.arange(rows) + 0.44, ["all rows"] if last else list(range(rows)))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("filter")
    figure.legend(
        handles=[
            Patch(color=KEPT, label="stays"),
            Patch(color=REMOVED, label="removed: a filter"),
            Patch(color=UNREAD, label="removed: read a removed filter"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    figure.suptitle(title)
    return figure


def accuracy_against_removed(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw accuracy against filters removed; columns ``removed``, ``order``, ``accuracy``. Repeats: mean and range."""
    axes = _axes(4)
    for i, (name, group) in enumerate(table.groupby("order", sort=False)):
        runs = 100 * group.groupby("removed")["accuracy"].agg(["mean", "min", "max"])
        color = method_color(str(name), i)
        axes.plot(runs.index, runs["mean"], marker="osD"[i % 3], color=color, label=name)
        axes.fill_between(runs.index, runs["min"], runs["max"], color=color, alpha=0.15, lw=0)
    axes.set(xlabel="filters removed", ylabel="validation accuracy (%)", title=title)
    axes.figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return axes


def among_all(
    table: pd.DataFrame,
    ways: Mapping[str, pd.Series],
    *,
    title: str,
    landmarks: Mapping[str, tuple[int, float, float, float]] | None = None,
) -> Axes:
    """Draw the accuracy of every sub-network as a grey dot, and lines through those that some ways chose.

    ``table`` has a row per sub-network and the columns ``removed``, ``accuracy``; a way is the accuracy by number of
    filters removed. A landmark is one network, (removed, accuracy), and where its name stands, in the same units. The
    dots of one number are spread sideways, so that they do not hide each other.
    """
    axes = _axes(4.5)
    aside = np.random.default_rng(0).uniform(-0.3, 0.3, len(table))
    axes.scatter(table["removed"] + aside, 100 * table["accuracy"], s=3, color="#999999", lw=0, rasterized=True)
    for i, (name, accuracy) in enumerate(ways.items()):
        color = method_color(name, i)
        axes.plot(accuracy.index, 100 * accuracy, marker="osD^v"[i % 5], color=color, label=name)
    for name, (removed, share, x, y) in (landmarks or {}).items():
        axes.plot(removed, 100 * share, "o", mfc="none", mec="black", ms=9)
        axes.annotate(
            name,
            (removed, 100 * share),
            (x, 100 * y),
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "shrinkB": 5, "lw": 0.8},
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )
    axes.set(xlabel="filters removed", ylabel="validation accuracy (%)", title=title, ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return axes


def lost_to_best(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw points of accuracy lost against the best choice; columns ``removed``, ``way``, ``lost`` (0 to 1).

    Several rows: their mean, and a bar from the least to the most.
    """
    axes = _axes(4)
    ways = list(table.groupby("way", sort=False))
    for i, (name, group) in enumerate(ways):
        runs = 100 * group.groupby("removed")["lost"].agg(["mean", "min", "max"])
        beside = runs.index + 0.12 * (i - (len(ways) - 1) / 2)  # so that no bar hides another
        color = method_color(str(name), i)
        axes.plot(beside, runs["mean"], marker="osD^v"[i % 5], color=color, label=name)
        axes.vlines(beside, runs["min"], runs["max"], color=color, alpha=0.5)
    axes.set(xlabel="filters removed", ylabel="points lost against the best choice", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return axes


def correlation_dots(table: pd.DataFrame, *, title: str) -> list[Axes]:
    """Draw each criterion's correlation with the oracle, a panel per layer; columns ``layer, criterion, spearman``.

    A hollow dot for each row of a criterion, and a bar at their median. No interval: a correlation is bounded by 1, and
    five of them near the bound are not normal.
    """
    panels = [(str(layer), group) for layer, group in table.groupby("layer", sort=False)]
    figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.4), sharey=True, squeeze=False, layout="constrained")
    colors = dict(zip([layer for layer, _ in panels if not layer.startswith("all")], LAYER_COLORS, strict=False))
    for axes, (layer, group) in zip(row[0], panels, strict=True):
        color = colors.get(layer, "#000000")
        for i, (_, runs) in enumerate(group.groupby("criterion", sort=False)["spearman"]):
            axes.plot(runs, np.full(len(runs), i), "o", mfc="none", color=color, ms=6, alpha=0.7)
            axes.plot(runs.median(), i, "|", color=color, ms=15, mew=2.5)
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=layer, xlim=(-1.1, 1.1), xticks=[-1, 0, 1])
        axes.set_yticks(range(group["criterion"].nunique()), group["criterion"].unique())
        _plain(axes)
    row[0][0].invert_yaxis()
    figure.supxlabel("Spearman correlation with the oracle")
    figure.suptitle(title)
    return list(row[0])


def paired(differences: pd.DataFrame, *, title: str, xlabel: str) -> Axes:
    """Draw paired differences: a row for each column of ``differences``, a hollow dot for each of its rows.

    The full dot is the mean, its bar the 95 % interval of the mean (Student).
    """
    axes = _axes(1.0 + 0.48 * len(differences.columns))
    axes.axvline(0, color="black", lw=0.8)
    for i, (_, runs) in enumerate(differences.items()):
        axes.plot(runs, np.full(len(runs), i), "o", mfc="none", color=KEPT, ms=6)
        half = stdtrit(len(runs) - 1, 0.975) * runs.std() / np.sqrt(len(runs))
        axes.errorbar(runs.mean(), i, xerr=half, fmt="o", color=LAYER_COLORS[0], ms=5, capsize=3)
    axes.set_yticks(range(len(differences.columns)), [fill(str(name), 28) for name in differences.columns])
    axes.set_xlabel(xlabel)
    axes.invert_yaxis()
    plt.gcf().suptitle(title)
    return axes


def before_and_after(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw accuracy after training against accuracy before it; columns ``seed, before, after``, a marker for each seed.

    The dashed line is where training changes nothing.
    """
    axes = _axes(4.2)
    axes.plot([0, 100], [0, 100], "--", color=KEPT, lw=1)
    for i, (seed, runs) in enumerate(table.groupby("seed")):
        before, after, color = 100 * runs["before"], 100 * runs["after"], LAYER_COLORS[i % len(LAYER_COLORS)]
        axes.plot(before, after, "o^sDv"[i % 5], ms=4, alpha=0.7, color=color, label=f"network {seed}")
    axes.set(xlabel="before: eight filters removed (% right)", ylabel="after one epoch (% right)", title=title)
    axes.set(xlim=(0, 92), ylim=(0, 92))
    axes.legend(frameon=False, loc="lower right")
    return axes


def changes_against_removed(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw the change in loss against filters removed (the index of ``table``), a line per column, the last thick."""
    axes = _axes(3.5)
    for i, (name, changes) in enumerate(table.items()):
        last = i == len(table.columns) - 1
        color = "black" if last else LAYER_COLORS[i]
        axes.plot(
            table.index, changes, marker="sD^o"[-1 if last else i % 3], lw=2 if last else 1.2, color=color, label=name
        )
    axes.set(xlabel="filters removed", ylabel="change in mean loss", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper left")
    return axes


def accuracy_by_layer(accuracy: pd.Series, kinds: Mapping[str, str], *, title: str, xlabel: str) -> Axes:
    """Draw the accuracy (0 to 1) that belongs to each layer (the index), the first on top; ``kinds``: layer -> kind."""
    axes = _axes(0.32 * len(accuracy) + 1.3)
    colors = layer_colors(kinds[name] for name in accuracy.index)
    bars = axes.barh(list(accuracy.index), 100 * accuracy, color=[colors[kinds[name]] for name in accuracy.index])
    axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, title=title, xlim=(0, 100))
    legend = [Patch(color=color, label=kind) for kind, color in colors.items()]
    axes.figure.legend(handles=legend, frameon=False, loc="outside lower center", ncols=len(legend))
    return axes


def accuracy_against_costs(table: pd.DataFrame, costs: Mapping[str, str], *, title: str) -> list[Axes]:
    """Draw accuracy against each cost, a panel for each; a line joins the networks of one way.

    ``table`` has the columns ``way`` and ``accuracy`` (0 to 1), and those in ``costs``: column -> label of its axis.
    """
    figure, row = plt.subplots(1, len(costs), figsize=(WIDTH, 3.8), sharey=True, squeeze=False, layout="constrained")
    for axes, (cost, label) in zip(row[0], costs.items(), strict=True):
        for i, (way, networks) in enumerate(table.groupby("way", sort=False)):
            look = {"marker": "osD^vPX"[i % 7], "color": method_color(str(way), i), "alpha": 0.8, "ms": 5}
            axes.plot(networks[cost], 100 * networks["accuracy"], label=way, **look)
        axes.set_xlabel(label)
        _plain(axes)
    row[0][0].set_ylabel("test accuracy (%)")
    figure.legend(*row[0][0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return list(row[0])


def class_changes(changes: pd.Series, *, title: str) -> Axes:
    """Draw the points of accuracy that each class wins or loses, sorted."""
    axes = _axes(4)
    ordered = (100 * changes).sort_values()
    axes.barh(ordered.index, ordered, color=[REMOVED if value < 0 else LAYER_COLORS[0] for value in ordered])
    axes.axvline(0, color="black", lw=0.8)
    axes.set(xlabel="change in test accuracy (points)", title=title)
    return axes


def shares(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw shares, from 0 to 1, for each network (rows): of the original's costs, or of the images (columns)."""
    axes = _axes(4)
    width = 0.8 / len(table)
    for i, (name, row) in enumerate(table.iterrows()):
        at = np.arange(len(table.columns)) + (i - (len(table) - 1) / 2) * width
        bars = axes.bar(at, 100 * row, width, color=STAGE_COLORS.get(str(name), KEPT), label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(range(len(table.columns)), table.columns)
    axes.set(ylabel="%", title=title)
    axes.figure.legend(frameon=False, loc="outside lower center", ncols=len(table))
    return axes


def _axes(height: float, width: float = WIDTH) -> Axes:
    _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    _plain(axes)
    return axes


def _plain(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)


def _picture(axes: Axes, picture: Tensor, vmax: float = 1.0) -> None:
    axes.imshow(picture.numpy(force=True), cmap="gray", vmin=0, vmax=vmax)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, ranks: pd.DataFrame, column: str) -> None:
    colors = layer_colors(ranks["layer"])
    axes.bar(range(len(ranks)), ranks[column], color=[colors[name] for name in ranks["layer"]])
    axes.set_xticks(range(len(ranks)), ranks["filter"])
    axes.set_xlabel("filter")
    _plain(axes)


def _legend(ranks: pd.DataFrame) -> list[Patch | Line2D]:
    return [Patch(color=color, label=name) for name, color in layer_colors(ranks["layer"]).items()]
