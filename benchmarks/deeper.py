"""Pruning the deeper network, beside its controls: above all, narrower networks trained from scratch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from benchmarks import recipe, rival
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.criteria import CRITERIA, taylor
from cnnprune_utils.loop import Criterion, Target, compress
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.training import evaluate, evaluating

NARROWER = {"half": (11, 23, 46), "quarter": (8, 16, 32)}  # widths from scratch; their MACs are the budgets
SHORT, LONG = 1, 4  # epochs after a cut
STEPS = 10  # of the loop, in LONG epochs

Cut: TypeAlias = Callable[[nn.Module, Splits, int, int], nn.Module]
"""Called with a trained network, splits, the most MACs that may be left, and a seed; trains nothing."""


def at_once(model: nn.Module, splits: Splits, budget: int, seed: int, criterion: Criterion, **how: Any) -> nn.Module:
    """Score once, and remove filters until the budget is met."""
    everything: dict[str, Any] = {"step": 10_000, "update": 0, "seed": seed}
    return compress(model, splits, target=Target(macs=budget), criterion=criterion, **everything | how).network


def by_torch_pruning(model: nn.Module, splits: Splits, budget: int, seed: int) -> nn.Module:
    """Its Taylor importance over all layers, filter by filter, with new gradients after every eight."""
    example = splits.train.inputs[:1]
    return rival.torch_prunings(
        model, splits, lambda network: macs(network, example) <= budget, global_pruning=True, every=8
    )


CUTS: dict[str, Cut] = {
    "taylor, each layer": partial(at_once, criterion=taylor, per_layer=True),
    "taylor, mean": partial(at_once, criterion=taylor, normalize="mean"),
    "taylor, l2": partial(at_once, criterion=taylor, normalize="l2"),
    "magnitude, each layer": partial(at_once, criterion=CRITERIA["magnitude"], per_layer=True),
    "random, each layer": partial(at_once, criterion=CRITERIA["random"], per_layer=True),
    "torch-pruning": by_torch_pruning,
}
TRAINED_LONG = {  # what is trained for longer, too: at a quarter, where ways differ most, more of them
    "half": ("taylor, each layer",),
    "quarter": ("taylor, each layer", "random, each layer", "torch-pruning", "loop"),
}


def taught(splits: Splits, teacher: nn.Module) -> Splits:
    """Return the splits with the mean of label (as a one-hot row) and teacher's probabilities for each training target.

    The cross entropy with these targets is what ``fit(teacher=...)`` takes: half of it with the labels, half with the
    teacher. The teacher runs once here, and not in each epoch.
    """
    with evaluating(teacher), torch.no_grad():
        probabilities = torch.cat([teacher(images).softmax(1) for images, _ in splits.train.batches(500)])
    labels = F.one_hot(splits.train.targets, probabilities.shape[1])
    return replace(splits, train=Split(splits.train.inputs, (labels + probabilities) / 2))


def front(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    """Return what each way makes of half and of a quarter of the MACs, and its controls.

    Columns: ``way``, ``budget``, ``epochs`` (after the cut; from scratch, all), ``teacher`` (whether the unpruned
    network was one), ``validation``, ``test`` (accuracies), ``macs``, ``parameters``, ``widths`` (of the prunable
    layers).
    """
    rows = []
    for way, budget, epochs, teacher, network in tqdm(_networks(model, splits, seed), desc="networks", leave=False):
        accuracies = [evaluate(network, split).accuracy for split in (splits.validation, splits.test)]
        widths = " ".join(str(layer.out_channels) for layer in prunable_layers(network))
        rows.append((way, budget, epochs, teacher, *accuracies, macs(network), parameters(network), widths))
    columns = ["way", "budget", "epochs", "teacher", "validation", "test", "macs", "parameters", "widths"]
    return pd.DataFrame(rows, columns=columns)


def _networks(model: nn.Module, splits: Splits, seed: int) -> Iterator[tuple[str, str, int, bool, nn.Module]]:
    """Yield way, budget, epochs, whether there was a teacher, and the network."""
    lessons = taught(splits, model)

    def trained(network: nn.Module, epochs: int, data: Splits) -> nn.Module:
        recipe.fit_residual(network, data, epochs, seed)
        return network

    yield "original", "all", 0, False, model
    yield "original", "all", LONG, False, trained(copy.deepcopy(model), LONG, splits)
    for budget, widths in NARROWER.items():
        most = macs(ResNet(widths))
        for way, cut in CUTS.items():
            network = cut(model, splits, most, seed)
            yield way, budget, 0, False, network
            yield way, budget, SHORT, False, trained(copy.deepcopy(network), SHORT, splits)
            if way in TRAINED_LONG[budget]:
                yield way, budget, LONG, True, trained(network, LONG, lessons)
        if "loop" in TRAINED_LONG[budget]:
            yield "loop", budget, LONG, True, loop(model, splits, lessons, most, seed)
        for epochs, data in ((SHORT, splits), (LONG, lessons), (recipe.RESIDUAL_EPOCHS + LONG, splits)):
            scratch, _ = recipe.train_residual(data, seed, widths, epochs)
            yield "from scratch", budget, epochs, data is lessons, scratch


def loop(model: nn.Module, splits: Splits, lessons: Splits, budget: int, seed: int) -> nn.Module:
    """Cut in ``STEPS`` steps, by Taylor scored again before each; half of the updates of ``LONG`` epochs lie between.

    Each step keeps the same share of the MACs, and the same share of each layer.
    """
    network, start = model, macs(model)
    batches = LONG * (len(lessons.train) // recipe.RESIDUAL_BATCH) // (2 * STEPS)  # after each step
    for step in range(1, STEPS + 1):
        left = budget if step == STEPS else round(start * (budget / start) ** (step / STEPS))
        network = at_once(network, splits, left, seed, taylor, per_layer=True)
        few = replace(lessons, train=lessons.train.subset(batches * recipe.RESIDUAL_BATCH, seed + step))
        recipe.fit_residual(network, few, 1, seed)
    recipe.fit_residual(network, lessons, LONG // 2, seed)
    return network
