"""The figures show the data that they were given: numbers in percent where the axis says so, one colour a layer."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from cnnprune_utils.batches import Split
from cnnprune_utils.book import plots
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import rank
from cnnprune_utils.structure import prunable_layers

SCORES = {"network.0": torch.tensor([3.0, 4.0]), "network.2": torch.tensor([0.0, 5.0, 12.0])}


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Label -> its points, shape (n, 2)."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.lines}


def texts(figure: Figure) -> set[str]:
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(mpl.text.Text)}


def test_a_layer_has_its_colour_by_its_place() -> None:
    assert plots.layer_colors(["b", "a", "b"]) == {"b": plots.LAYER_COLORS[0], "a": plots.LAYER_COLORS[1]}
    many = plots.layer_colors(str(i) for i in range(20))
    assert many[str(len(plots.LAYER_COLORS))] == many["0"]


def test_class_grid_shows_each_class_in_its_row() -> None:
    labels = torch.arange(10).repeat(3)
    images = (labels / 9.0)[:, None, None, None].expand(30, 1, 4, 4).contiguous()
    figure = plots.class_grid(Split(images, labels), title="ten kinds", per_class=2)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [float(picture.max()) for picture in shown] == pytest.approx([k / 9 for k in range(10) for _ in range(2)])
    assert {"ten kinds", "Trouser", "Ankle boot"} <= texts(figure)


def test_learning_curves_are_in_percent() -> None:
    history = pd.DataFrame(
        {"epoch": [0, 1, 2], "train_loss": [np.nan, 0.7, 0.5], "validation_loss": [2.0, 0.6, 0.4]}
    ).assign(validation_accuracy=[0.1, 0.8, 0.9])
    left, right = plots.learning_curves(history, title="learning")
    assert lines(left)["training images"].tolist() == [[1, 0.7], [2, 0.5]]
    assert lines(left)["validation images"].tolist() == [[1, 0.6], [2, 0.4]]
    assert np.asarray(right.lines[0].get_ydata()) == pytest.approx([80, 90])


def test_accuracy_curves_keep_the_stage_colours() -> None:
    history = pd.DataFrame({"epoch": [0, 1], "validation_accuracy": [0.5, 0.75]})
    axes = plots.accuracy_curves({"fine-tuned": history, "anything": history}, title="curves")
    assert lines(axes)["fine-tuned"].tolist() == [[0, 50], [1, 75]]
    assert to_hex(axes.lines[0].get_color()) == plots.STAGE_COLORS["fine-tuned"].lower()


def test_updates_are_half_a_step_after_their_cut() -> None:
    walk = pd.DataFrame({"removed": [1, 2], "after the cut": [0.8, 0.6], "after the updates": [0.9, 0.7]})
    axes = plots.cuts_and_updates(walk, at_once=0.3, title="walk")
    assert np.asarray(axes.lines[0].get_xydata()) == pytest.approx(np.array([[1, 80], [1.5, 90], [2, 60], [2.5, 70]]))
    assert lines(axes)["all cuts at once"][:, 1] == pytest.approx([30, 30])


def test_a_closing_gate_is_framed_and_all_maps_share_one_scale() -> None:
    rows = {"gate 1": torch.stack([torch.eye(3), 4 * torch.eye(3)]), "gate 0": torch.zeros(2, 3, 3)}
    figure = plots.closing_gate(torch.rand(1, 3, 3), rows, 1, title="closing")
    assert [axes.images[0].get_clim()[1] for axes in figure.axes] == [1, 4, 4, 1, 4, 4]
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == [False, False, True, False, False, True]
    assert {"closing", "gate 0", "image", "1"} <= texts(figure)


def test_losses_along_a_gate_have_thin_lines_and_the_mean_of_all() -> None:
    changes = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 7.0]])
    axes = plots.losses_along_gate([1.0, 0.0], changes, shown=2, title="both ways")
    up, down, mean = axes.lines
    assert [line.get_ydata().tolist() for line in (up, down, mean)] == [[0, 1], [0, -2], [0, 2]]
    assert up.get_color() != down.get_color()
    assert mean.get_linewidth() > 2 * up.get_linewidth()
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # from open to closed
    assert "mean of 3 images" in texts(axes.figure)


def test_the_first_order_guess_is_a_straight_line() -> None:
    axes = plots.loss_along_gate([0.0, 0.5, 1.0], [2.0, 0.5, 0.0], -0.5, title="gate")
    assert lines(axes)["straight on, by the slope at 1"].tolist() == [[1, 0], [0, 0.5]]
    assert lines(axes)["measured"].tolist() == [[0, 2.0], [0.5, 0.5], [1, 0.0]]


def test_promises_have_bars_of_two_standard_errors() -> None:
    table = pd.DataFrame(
        {
            "images": ["training", "training", "validation", "validation"],
            "filter": ["a", "b", "a", "b"],
            "promise": [0.1, 0.2, -0.1, -0.2],
            "error": [0.01, 0.02, 0.03, 0.04],
            "size": [1.0, 2.0, 3.0, 4.0],
        }
    )
    left, right = plots.promises_and_sizes(table, title="promises")
    bars = [[segment[:, 0].tolist() for segment in bar.get_segments()] for bar in left.collections]
    assert bars[0] == [pytest.approx([0.08, 0.12]), pytest.approx([0.16, 0.24])]
    assert bars[1] == [pytest.approx([-0.16, -0.04]), pytest.approx([-0.28, -0.12])]
    assert [line.get_xdata().tolist() for line in right.lines] == [[1, 2], [3, 4]]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert {"training images", "validation images"} <= texts(left.figure)


def test_score_bars_show_both_scores() -> None:
    left, right = plots.score_bars(rank(SCORES), title="scores")
    assert [bar.get_height() for bar in left.patches] == pytest.approx([3, 4, 0, 5, 12])
    assert [bar.get_height() for bar in right.patches] == pytest.approx([0.6, 0.8, 0, 5 / 13, 12 / 13])


def test_the_ladder_is_in_the_order_of_leaving() -> None:
    axes = plots.rank_ladder(rank(SCORES), title="ladder", n_removed=2)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0, 5 / 13, 0.6, 0.8, 12 / 13])
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [1.5, 1.5]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top


def test_feature_maps_have_a_scale_per_filter() -> None:
    maps = {"dead": torch.zeros(2, 3, 3), "alive": torch.stack([torch.eye(3), 4 * torch.eye(3)])}
    figure = plots.feature_maps(torch.rand(2, 1, 3, 3), maps, title="maps")
    assert [axes.images[0].get_clim()[1] for axes in figure.axes[2:]] == [1, 1, 4, 4]
    assert {"image", "dead", "alive"} <= texts(figure)


def test_stability_draws_the_worst_sample() -> None:
    table = pd.DataFrame({"n": [100, 100, 1000, 1000], "correlation": [0.9, 0.7, 1.0, 0.95]})
    axes = plots.stability(table, title="stable")
    assert lines(axes)["the worst sample of that size"].tolist() == [[100, 0.7], [1000, 0.95]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("images scored", "rank correlation with our ranking")


def test_surgery_picture_has_a_panel_per_layer() -> None:
    layers = prunable_layers(CNN((2, 3)))
    figure = plots.surgery_picture(layers, {"network.0": [1], "network.2": [0, 2]}, 1, title="surgery")
    assert len(figure.axes) == 3
    assert "surgery" in texts(figure)


def test_removal_curve_has_mean_and_range() -> None:
    table = pd.DataFrame({"removed": [1, 1, 2], "order": "random", "accuracy": [0.4, 0.8, 0.5]})
    axes = plots.accuracy_against_removed(table, title="orders")
    assert lines(axes)["random"] == pytest.approx(np.array([[1, 60], [2, 50]]))
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((40, 80))


def test_among_all_has_a_dot_for_each_network() -> None:
    table = pd.DataFrame({"removed": [0, 1, 1], "accuracy": [0.9, 0.5, 0.6]})
    landmarks = {"here": (1, 0.5, 1.5, 0.7)}
    axes = plots.among_all(table, {"best": pd.Series([0.6], index=[1])}, title="all", landmarks=landmarks)
    (here,) = axes.texts
    assert (here.get_text(), here.xy, here.xyann) == ("here", (1, 50), (1.5, 70))
    dots = np.asarray(axes.collections[0].get_offsets())
    assert dots[:, 1] == pytest.approx([90, 50, 60])
    assert np.abs(dots[:, 0] - table["removed"]).max() < 0.5
    assert lines(axes)["best"] == pytest.approx(np.array([[1, 60]]))


def test_lost_to_best_has_bars_beside_each_other() -> None:
    table = pd.DataFrame({"removed": [1, 1, 1, 1], "way": list("aabb"), "lost": [0.0, 0.2, 0.1, 0.3]})
    axes = plots.lost_to_best(table, title="lost")
    bars = [bar.get_segments()[0] for bar in axes.collections]
    assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx([0, 20]), pytest.approx([10, 30])]
    assert bars[0][0, 0] < 1 < bars[1][0, 0]
    assert [points[0, 1] for points in lines(axes).values()] == pytest.approx([10, 20])


def test_correlation_dots_show_every_network_and_the_median() -> None:
    table = pd.DataFrame({"layer": "all", "criterion": "taylor", "spearman": [0.1, 0.2, 0.4, 0.5, 0.9]})
    (axes,) = plots.correlation_dots(table, title="dots")
    spans = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert [0.1, 0.2, 0.4, 0.5, 0.9] in spans
    assert [0.4] in spans


def test_paired_differences_show_mean_and_interval() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    axes = plots.paired(pd.DataFrame({"a": values, "b": [0.0] * 5}), title="paired", xlabel="points")
    low, high = stats.t.interval(0.95, 4, loc=0.3, scale=stats.sem(values))
    spans = [np.asarray(line.get_xdata()) for line in axes.lines]
    spans += [segment[:, 0] for bars in axes.collections for segment in bars.get_segments()]
    assert any(sorted(span) == pytest.approx(values) for span in spans)
    assert any(len(span) == 2 and sorted(span) == pytest.approx([low, high]) for span in spans)
    assert any(len(span) == 1 and span[0] == pytest.approx(0.3) for span in spans)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_before_and_after_shows_every_plan() -> None:
    table = pd.DataFrame({"seed": [5, 5, 6], "before": [0.1, 0.2, 0.3], "after": [0.8, 0.9, 0.7]})
    drawn = lines(plots.before_and_after(table, title="before and after"))
    assert drawn["network 5"].tolist() == [[10, 80], [20, 90]]
    assert drawn["network 6"].tolist() == [[30, 70]]


def test_changes_against_removed_have_all_lines() -> None:
    table = pd.DataFrame({"promised": [0.1, 0.2], "measured": [0.1, 0.5]}, index=[1, 2])
    axes = plots.changes_against_removed(table, title="changes")
    assert lines(axes)["measured"].tolist() == [[1, 0.1], [2, 0.5]]
    assert axes.lines[-1].get_linewidth() > axes.lines[0].get_linewidth()


def test_class_changes_are_sorted() -> None:
    axes = plots.class_changes(pd.Series({"Coat": 0.01, "Shirt": -0.02}), title="classes")
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([-2, 1])
    assert to_hex(axes.patches[0].get_facecolor()) == plots.REMOVED.lower()


def test_shares_are_percent() -> None:
    table = pd.DataFrame({"MACs": [1.0, 0.25]}, index=["original", "pruned"])
    axes = plots.shares(table, title="shares")
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([100, 25])
    assert to_hex(axes.patches[1].get_facecolor()) == plots.STAGE_COLORS["pruned"].lower()


def test_a_way_keeps_its_colour() -> None:
    table = pd.DataFrame({"removed": [1, 1], "order": ["other", "random (three draws)"], "accuracy": [0.4, 0.5]})
    lost = pd.DataFrame({"removed": [1, 1], "way": ["random", "taylor"], "lost": [0.4, 0.5]})
    drawn = [plots.accuracy_against_removed(table, title="a").lines, plots.lost_to_best(lost, title="b").lines]
    colors = {str(line.get_label()): line.get_color() for lines in drawn for line in lines}
    assert colors["random (three draws)"] == colors["random"] == plots.METHOD_COLORS["random"]
    assert colors["taylor"] == plots.method_color("Taylor, scored once", 3) == plots.METHOD_COLORS["taylor"]


def test_accuracy_by_layer_keeps_the_order_and_colours_the_kinds() -> None:
    accuracy = pd.Series({"stem": 0.3, "inside": 0.9, "stream": 0.5})
    kinds = {"stem": "added up", "inside": "inside a block", "stream": "added up"}
    axes = plots.accuracy_by_layer(accuracy, kinds, title="rows", xlabel="accuracy (%)")
    bars = axes.patches[:3]
    assert [bar.get_width() for bar in bars] == pytest.approx([30, 90, 50])
    first, second, third = (to_hex(bar.get_facecolor()) for bar in bars)
    assert first == third != second
    assert [label.get_text() for label in axes.get_yticklabels()] == list(accuracy.index)
    assert axes.yaxis_inverted()
    assert {"added up", "inside a block"} <= texts(axes.get_figure(root=True))


def test_accuracy_against_costs_has_a_panel_for_each_cost() -> None:
    networks = pd.DataFrame(
        {"way": ["Taylor (mean)", "Taylor (mean)", "other"], "accuracy": [0.5, 0.75, 0.6], "macs": [1, 2, 3]}
    ).assign(ms=[7, 8, 9])
    left, right = plots.accuracy_against_costs(networks, {"macs": "MACs", "ms": "milliseconds"}, title="front")
    assert lines(left)["Taylor (mean)"].tolist() == [[1, 50], [2, 75]]
    assert lines(right)["other"].tolist() == [[9, 60]]
    assert (left.get_xlabel(), right.get_xlabel()) == ("MACs", "milliseconds")
    assert to_hex(left.lines[0].get_color()) == plots.METHOD_COLORS["taylor"].lower()
