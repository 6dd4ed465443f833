"""The accuracy lost by pruning to at most 23,800 parameters, over several seeds, beside the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
from scipy import stats
from torch import nn

from cnnprune_utils.batches import Splits
from cnnprune_utils.criteria import taylor
from cnnprune_utils.metrics import parameters
from cnnprune_utils.plan import Plan, per_layer, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate

from . import jobs, recipe, usual_recipe


def one_shot(baseline: nn.Module, splits: Splits, seed: int) -> nn.Module:
    """Remove five filters of the last convolution at once, then train for all epochs."""
    pruned = prune(baseline, recipe.make_small_plan(baseline, splits))
    recipe.fine_tune(pruned, splits, seed)
    return pruned


def over_the_layers(baseline: nn.Module, splits: Splits, seed: int) -> nn.Module:
    """Remove 1, 2 and 5 filters of the three convolutions at once, as the usual recipe does, then train."""
    pruned = prune(baseline, per_layer(rank(taylor(baseline, splits.validation)), usual_recipe.REMOVED))
    recipe.fine_tune(pruned, splits, seed)
    return pruned


def trained_on(baseline: nn.Module, splits: Splits, seed: int) -> nn.Module:
    """Control: the whole network, with as many epochs more as the pruned ones get."""
    copy = prune(baseline, Plan({}))
    recipe.fine_tune(copy, splits, seed)
    return copy


def from_scratch(baseline: nn.Module, splits: Splits, seed: int) -> nn.Module:
    """Control: widths 1, 2 and 3 drawn at random, with as many epochs as training and recovery had together."""
    return recipe.drawn_again((1, 2, 3), splits, recipe.TRAIN_EPOCHS + recipe.TUNE_EPOCHS, seed)


CONTROL = "original, trained on"
WAYS: dict[str, Callable[[nn.Module, Splits, int], nn.Module]] = {
    "one-shot, last layer": one_shot,
    "one filter at a time": recipe.one_at_a_time,
    "1, 2, 5 of the layers": over_the_layers,
    "from scratch, 1, 2, 3": from_scratch,
    CONTROL: trained_on,
}


def points_lost(splits: Splits, seeds: Sequence[int], backend: str = "loky") -> pd.DataFrame:
    """Return a row per seed and way: parameters, and test accuracy before minus after, in points (percent)."""
    return pd.concat(jobs.for_each(partial(_of_seed, splits), seeds, backend), ignore_index=True)


def _of_seed(splits: Splits, seed: int) -> pd.DataFrame:
    baseline, _ = recipe.train(splits, seed)
    before, rows = evaluate(baseline, splits.test).accuracy, []
    for way, make in WAYS.items():
        tuned = make(baseline, splits, seed)
        after = evaluate(tuned, splits.test).accuracy
        rows.append((way, seed, parameters(tuned), 100 * before, 100 * (before - after)))
    return pd.DataFrame(rows, columns=["way", "seed", "parameters", "baseline", "lost"])


def behind_the_control(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with points behind the original that was trained as long, seed by seed, for ``lost``."""
    control = rows[rows["way"] == CONTROL].set_index("seed")["lost"]
    return rows[rows["way"] != CONTROL].assign(lost=lambda others: others["lost"] - others["seed"].map(control))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per way: most parameters, mean points lost, and the mean's 95 % t interval over the seeds."""
    groups = rows.groupby("way", sort=False)
    table = groups.agg(parameters=("parameters", "max"), mean_lost=("lost", "mean"))
    error = groups["lost"].sem() * stats.t.ppf(0.975, groups["lost"].count() - 1)
    return table.assign(low=table["mean_lost"] - error, high=table["mean_lost"] + error)
