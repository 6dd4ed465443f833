"""The paper's loop: score, remove the filters that matter least, train a little, again, until the target is reached.

What a criterion promises holds to first order, for a few filters at a time. So each step scores the remaining filters
again, and a few updates repair what the step before them did (arXiv:1611.06440, section 2 and figure 1).
"""

from __future__ import annotations

import math
import os
import time
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from .batches import Batches, Data, First, Split, Splits, count, sample
from .criteria import taylor
from .cutting import copy_of
from .gates import GatedNetwork, closed, gated
from .loop_state import Exclude, Filter, LoopState, Target, fingerprints
from .losses import Loss, name_of
from .metrics import macs_per_filter
from .plan import Plan, Scores, rank, turns
from .progress import progress
from .structure import known
from .surgery import prune
from .training import Evaluate, fit, flags_restored, measured

__all__ = ["Compressed", "Criterion", "Target", "TargetMissed", "compress"]

Criterion: TypeAlias = Callable[..., Scores]
"""Called as ``criterion(model, data, loss=..., batch_size=...)``: see :data:`.criteria.CRITERIA`."""

Update: TypeAlias = Callable[[nn.Module], object]
"""Trains the network that it gets a little, in place."""


class Compressed(NamedTuple):
    """What :func:`compress` returns.

    Attributes:
        network: the pruned network.
        plan: which filters were removed, in the numbering of the unpruned model: ``prune(model, plan)`` has the same
            shapes.
        history: one row a step, row 0 for the unpruned model: ``step``, ``removed`` (filters, up to here), a column for
            each layer with the filters that it has left, ``parameters``, ``macs``, ``loss_before``,
            ``accuracy_before``, ``loss_after``, ``accuracy_after`` (on the validation data, before and after the step's
            updates), ``seconds``. With an accuracy limit it goes on to the steps beyond the limit; the row of
            ``network`` is the one where ``removed`` is ``plan.n_filters``.
    """

    network: nn.Module
    plan: Plan
    history: pd.DataFrame


class TargetMissed(ValueError):
    """The accuracy limit came before the size; ``closest`` is the smallest network within the limit.

    ``reason`` is the message for whoever has no ``closest`` in hand, such as the user of a command.
    """

    def __init__(self, reason: str, closest: Compressed) -> None:
        super().__init__(f"{reason}; error.closest has the network.")
        self.reason = reason
        self.closest = closest


def compress(
    model: nn.Module,
    splits: Splits,
    *,
    target: Target,
    criterion: Criterion = taylor,
    loss: Loss = F.cross_entropy,
    step: int = 1,
    update: int | Update = 50,
    evaluate: Evaluate | None = None,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    shortlist: int | None = 1,
    n_images: int = 2000,
    normalize: str | None = "l2",
    per_layer: bool = False,
    macs_penalty: float = 0.0,
    keep_at_least: int = 1,
    exclude: Exclude = (),
    patience: int = 3,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Compressed:
    """Remove filters step by step, with a few updates after each, until ``target`` is reached.

    The same call gives the same network, bit for bit, on one machine, where the data come in the same order.
    ``model``, ``splits`` and the state of PyTorch's random numbers are unchanged; ``splits.test`` is never read. A
    ``step`` of as many filters as there are, with ``update=0``, is one-shot pruning to a budget.

    Args:
        model: a trained network.
        splits: ``train`` to score and to train on, ``validation`` to measure: data of any kind.
        target: where to stop. The last step removes fewer filters if fewer will do.
        criterion: scores the filters that are left.
        loss: what the criterion and the updates see, and what is measured (:data:`.losses.Loss`).
        step: how many filters are removed in one step.
        update: how many minibatches follow a step, at most one pass over ``splits.train``; 0 for none. Or a function
            of yours, called with the pruned network, that trains it a little, in place: with your own loop, or a
            trainer of Lightning or accelerate.
        evaluate: a function of yours, called with a network and ``splits.validation``, that returns how good it is, the
            higher the better, from 0 to 1: instead of the accuracy, where targets are not classes, for instance.
        learning_rate: the highest in a step's updates. It falls to zero at their end, as in
            :func:`cnnprune_utils.training.fit`, so one update alone changes next to nothing.
        batch_size: examples of a split per update, and at once when scoring.
        shortlist: with m > 1, the criterion proposes the m filters of lowest rank, their gates are closed one at a
            time, and the one without which the mean loss is lowest is removed. None proposes all: the greedy oracle.
            Each removal then costs m passes over the images, and 1, the paper's loop, costs none. Whether a list
            pays once there are updates is open: with 8, three of chapter 8's five networks keep much more, and two a
            little less.
        n_images: how many examples of ``splits.train`` score and decide, the same ones in each step; at most all. They
            are held in memory; of data other than a split, they are the first.
        normalize: how scores of different layers are compared: see :func:`cnnprune_utils.plan.rank`.
        per_layer: remove the same share of each layer, in place of the lowest ranks over all layers.
        macs_penalty: see :func:`cnnprune_utils.plan.rank`.
        keep_at_least: the floor: so many filters stay in each layer.
        exclude: layers that lose no filter: names, or a function that says whether a name is one.
        patience: with ``target.points``: stop after so many steps in a row beyond the limit.
        seed: draws the images, their order, and what dropout drops.
        folder: keeps the state after each step; None for nowhere. After a kill, the same call goes on from the last
            whole step; after the end, it returns at once.

    Raises:
        ValueError: a number is out of range, the floors rule out the target, ``folder`` holds another run, or a limit
            of points is set where there is no accuracy.
        TargetMissed: the accuracy limit came before the size; it has the closest network.

    Warns:
        UserWarning: the validation data are too few to tell the points asked for, or ``splits.train`` has fewer batches
            than ``update`` asks for.
    """
    counts: dict[str, Any] = {"step": step, "batch_size": batch_size, "shortlist": shortlist, "n_images": n_images}
    counts |= {"keep_at_least": keep_at_least, "patience": patience}
    if target.multiple_of > 1 and shortlist != 1:
        raise ValueError(
            f"shortlist={shortlist} decides filter by filter, and {target} removes several at once: use shortlist=1."
        )
    if (isinstance(update, int) and update < 0) or any(n is not None and n < 1 for n in counts.values()):
        raise ValueError(f"update={update} must be at least 0, and each of these at least 1: {counts}.")
    if per_layer and shortlist != 1:
        raise ValueError(f"shortlist={shortlist} decides over all layers: with per_layer=True, use shortlist=1.")
    _warn_of_few_batches(splits.train, update, batch_size)
    scored = sample(splits.train, n_images, seed)
    training = _Training(splits, update, loss, evaluate, learning_rate, batch_size)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        run = LoopState(model, target, keep_at_least, exclude, Batches(scored, 2, model).first.first(2).inputs)
        if folder is not None:
            counts |= {"seed": seed, "exclude": sorted(run.excluded), "normalize": normalize, "per_layer": per_layer}
            counts |= {"learning_rate": learning_rate, "macs_penalty": macs_penalty} | training.settings
            run.go_on_from(Path(folder), counts | fingerprints(model, splits, target, criterion))
        if not run.rows:
            started, network = time.perf_counter(), copy_of(model)
            unpruned = training.measured_only(network)
            _check_points(target, unpruned[-1], splits.validation)
            run.add([], network, unpruned, started)
        with progress(total=target.filters, initial=len(run.order), desc="compress", unit="filter") as bar:
            bar.set_postfix_str(run.progress)
            while run.free and run.beyond < patience and not target.reached(run.rows[-1]):
                started, network, drawn = time.perf_counter(), run.network, seed + len(run.rows)
                torch.manual_seed(drawn)
                with known(network, run.structure_now):
                    scores = criterion(network, scored, loss=loss, batch_size=batch_size)
                    shares = macs_per_filter(network, run.example) if macs_penalty else None
                    ranks = rank(scores, normalize=normalize, macs_penalty=macs_penalty, macs=shares)
                    cost = partial(_loss_without, gated(network), scored, loss, batch_size) if shortlist != 1 else None
                    widths = run.layers if per_layer else None
                    removed = run.needed(_lowest(run, ranks, min(step, run.free), shortlist, cost, widths))
                    network = prune(network, run.plan(removed))
                run.add(removed, network, training.updated(network, drawn), started)
                bar.update(len(removed))
                bar.set_postfix_str(run.progress)
        return _result(run)


def _warn_of_few_batches(train: Data, update: int | Update, batch_size: int) -> None:
    if isinstance(update, int) and (n := count(train, batch_size)) < update:
        warnings.warn(
            f"update={update} asks for more batches than splits.train has: each step gets {n}. Pass a smaller "
            "batch_size or more examples, or update=, a function that trains for longer.",
            stacklevel=3,
        )


def _check_points(target: Target, accuracy: float, validation: Data) -> None:
    """Whether the limit of points can be told at all."""
    if target.points is None:
        return
    if math.isnan(accuracy):
        raise ValueError(
            f"{target} limits the accuracy, and there is none where targets are not classes: pass evaluate=, a "
            "function of (network, data) that returns a number, the higher the better."
        )
    n = len(validation) if isinstance(validation, Split) else sum(len(batch) for batch in Batches(validation, 1))
    error = 100 * math.sqrt(max(accuracy * (1 - accuracy), 0) / n)
    if target.points < error:
        warnings.warn(
            f"{target}: on {n} validation examples an accuracy has a standard error of {error:.2f} points, so chance "
            "decides what is within the limit. Pass more validation data, or allow more points.",
            stacklevel=3,
        )


def _lowest(
    run: LoopState,
    ranks: pd.DataFrame,
    n: int,
    shortlist: int | None,
    loss_without: Callable[[Sequence[Filter]], float] | None,
    widths: Mapping[str, int] | None,
) -> list[list[Filter]]:
    """At least ``n`` filters, in steps, in the order in which they go: the ranks propose, and the loss decides."""
    if loss_without is None:
        steps = turns(ranks, run.keep_at_least, run.target.multiple_of, run.excluded, widths)
        enough = bisect_left(list(accumulate(map(len, steps))), n)
        return steps[: enough + 1]
    by_rank = ranks.sort_values("rank")
    queue = [f for f in zip(by_rank["layer"], by_rank["filter"], strict=True) if f[0] not in run.excluded]
    left = Counter(name for name, _ in queue)
    chosen: list[Filter] = []
    for _ in range(n):
        proposed = [(name, k) for name, k in queue if left[name] > run.keep_at_least][:shortlist]
        decided = min(proposed, key=lambda f: loss_without([*chosen, f]))
        queue.remove(decided)
        left[decided[0]] -= 1
        chosen.append(decided)
    return [[filter_] for filter_ in chosen]


def _loss_without(network: GatedNetwork, data: Data, loss: Loss, batch_size: int, filters: Sequence[Filter]) -> float:
    """The mean loss with the gates of ``filters`` closed, and all others open."""
    with closed(network, filters):
        return measured(None, network, data, loss, batch_size).loss


@dataclass(frozen=True)
class _Training:
    """What happens to a network between two steps."""

    splits: Splits
    update: int | Update
    loss: Loss
    evaluate: Evaluate | None
    learning_rate: float
    batch_size: int

    @property
    def settings(self) -> dict[str, Any]:
        named = {"loss": self.loss, "evaluate": self.evaluate, "update": self.update}
        return {key: name_of(value) if callable(value) else value for key, value in named.items()}

    def measured_only(self, network: nn.Module) -> list[float]:
        """Loss and accuracy on the validation data, twice: there was no update."""
        result = measured(self.evaluate, network, self.splits.validation, self.loss)
        return [result.loss, result.accuracy] * 2

    def updated(self, network: nn.Module, seed: int) -> list[float]:
        """Train ``network`` in place; loss and accuracy on the validation data before, and the same after it."""
        if self.update == 0:
            return self.measured_only(network)
        if not isinstance(self.update, int):
            before = self.measured_only(network)[:2]
            with flags_restored(network):
                trained = self.update(network)
            if isinstance(trained, nn.Module) and trained is not network:
                raise TypeError("update returned another network: it must train the one that it gets, in place.")
            return before + self.measured_only(network)[:2]
        few = replace(self.splits, train=_few(self.splits.train, self.update, self.batch_size, seed))
        how: dict[str, Any] = {"learning_rate": self.learning_rate, "batch_size": self.batch_size, "seed": seed}
        log = fit(network, few, epochs=1, loss=self.loss, evaluate=self.evaluate, **how)
        return [float(x) for x in log[["validation_loss", "validation_accuracy"]].to_numpy().flatten()]


def _few(train: Data, updates: int, batch_size: int, seed: int) -> Data:
    if isinstance(train, Split):
        return train.subset(min(updates * batch_size, len(train)), seed)
    return First(train, updates)


def _result(run: LoopState) -> Compressed:
    row, network = run.rows[run.closest], run.networks[run.closest]
    result = Compressed(network, run.original(run.closest), pd.DataFrame(run.rows))
    if run.target.size and not run.target.reached(row):
        after = run.rows[run.closest + 1]
        raise TargetMissed(
            f"{run.target} was missed: the closest is {run.target.text(row)}, which loses "
            f"{run.points_lost(row):.2f} points; the next step, {run.target.text(after)}, loses "
            f"{run.points_lost(after):.2f}. Allow more points, or more updates",
            result,
        )
    return result
