"""Ours against the Taylor importance of the torch-pruning package: the same images, budget and fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import pandas as pd
import torch.nn.functional as F
import torch_pruning
from scipy import stats
from torch import nn

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.criteria import taylor
from cnnprune_utils.metrics import parameters
from cnnprune_utils.plan import per_layer, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, evaluating

from . import jobs, recipe

# Budget in parameters (the usual recipe's network, and a quarter of the book's) -> how many filters of each layer go:
# those of the last convolution, where the parameters are, and of others only where that is not enough.
REMOVED = {23_800: {"network.4": 5}, 15_800: {"network.2": 2, "network.4": 6}}
BUDGETS = tuple(REMOVED)
N_SCORED = 2000  # training images


def ours(baseline: nn.Module, splits: Splits, budget: int) -> nn.Module:
    """Remove the lowest Taylor ranks of each layer, at once."""
    scored = splits.train.subset(min(N_SCORED, len(splits.train)))
    return prune(baseline, per_layer(rank(taylor(baseline, scored)), REMOVED[budget]))


def torch_prunings(
    baseline: nn.Module, splits: Splits, fits: Callable[[nn.Module], bool], *, global_pruning: bool, every: int = 1
) -> nn.Module:
    """Remove filters step by step until the network fits, as its docs show.

    ``global_pruning`` compares filters over the layers, one filter a step; else each layer loses the same share. There
    are new gradients before each step, or only before one of ``every`` steps.
    """
    model = copy.deepcopy(baseline)
    scored = splits.train.subset(min(N_SCORED, len(splits.train)))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    steps = sum(convolution.out_channels for convolution in convolutions)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        scored.inputs[:1],
        importance=torch_pruning.importance.TaylorImportance(),
        global_pruning=global_pruning,
        pruning_ratio=1.0,
        max_pruning_ratio=0.999,  # a filter stays in each layer
        iterative_steps=steps,
        ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
    )
    for step in range(steps):
        if fits(model):
            break
        if step % every == 0:
            _gradients(model, scored)
        pruner.step()
    model.zero_grad()
    return model


def _gradients(model: nn.Module, split: Split) -> None:
    """Write the gradients of the mean loss to ``.grad`` of all weights, where torch-pruning reads them."""
    model.zero_grad()
    with evaluating(model):
        for images, labels in split.batches(256):
            (F.cross_entropy(model(images), labels, reduction="sum") / len(split)).backward()


def _torch_prunings(baseline: nn.Module, splits: Splits, budget: int, *, global_pruning: bool) -> nn.Module:
    return torch_prunings(baseline, splits, lambda model: parameters(model) <= budget, global_pruning=global_pruning)


WAYS: dict[str, Callable[[nn.Module, Splits, int], nn.Module]] = {
    "ours": ours,
    "torch-pruning, global": partial(_torch_prunings, global_pruning=True),
    "torch-pruning, by layer": partial(_torch_prunings, global_pruning=False),
}


def points_lost(splits: Splits, seeds: Sequence[int], backend: str = "loky") -> pd.DataFrame:
    """Return a row per seed, budget and way: widths, parameters, and test accuracy before minus after, in points."""
    return pd.concat(jobs.for_each(partial(_of_seed, splits), seeds, backend), ignore_index=True)


def _of_seed(splits: Splits, seed: int) -> pd.DataFrame:
    baseline, _ = recipe.train(splits, seed)
    before, rows = evaluate(baseline, splits.test).accuracy, []
    for budget, (way, make) in product(BUDGETS, WAYS.items()):
        small = make(baseline, splits, budget)
        recipe.recover(small, baseline, splits, seed)
        lost = 100 * (before - evaluate(small, splits.test).accuracy)
        widths = tuple(m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d))
        rows.append((budget, way, seed, widths, parameters(small), 100 * before, lost))
    return pd.DataFrame(rows, columns=["budget", "way", "seed", "widths", "parameters", "baseline", "lost"])


def against_ours(rows: pd.DataFrame) -> pd.DataFrame:
    """Return per budget and way: mean points lost, and the difference to ours with its 95 % t interval."""
    lost = rows.pivot_table(index=["budget", "way"], columns="seed", values="lost", sort=False)
    more = lost - lost.xs("ours", level="way").reindex(lost.index, level="budget")
    error = more.sem(axis=1) * stats.t.ppf(0.975, lost.shape[1] - 1)
    table = pd.DataFrame({"mean_lost": lost.mean(axis=1), "more_than_ours": more.mean(axis=1)})
    return table.assign(low=table["more_than_ours"] - error, high=table["more_than_ours"] + error)
