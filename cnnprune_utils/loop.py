"""The paper's loop: score, remove the filters that matter least, train a little, again, until the target is reached.

What a criterion promises holds to first order, for a few filters at a time. So each step scores the remaining filters
again, and a few updates repair what the step before them did (arXiv:1611.06440, section 2 and figure 1).
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from .batches import Split, Splits
from .criteria import taylor
from .cutting import copy_of
from .gates import GatedNetwork, closed, gated
from .loop_state import Exclude, Filter, LoopState, Target, fingerprints
from .metrics import macs_per_filter
from .plan import Plan, Scores, rank, turns
from .structure import known
from .surgery import prune
from .training import evaluate, fit

__all__ = ["Compressed", "Criterion", "Target", "TargetMissed", "compress"]

Criterion: TypeAlias = Callable[..., Scores]
"""Called as ``criterion(model, split, batch_size=...)``, like each of :data:`cnnprune_utils.criteria.CRITERIA`."""


class Compressed(NamedTuple):
    """What :func:`compress` returns.

    Attributes:
        network: the pruned network.
        plan: which filters left, in the numbering of the unpruned model: ``prune(model, plan)`` has the same shapes.
        history: one row a step, row 0 for the unpruned model: ``step``, ``removed`` (filters, up to here), a column for
            each layer with the filters that it has left, ``parameters``, ``macs``, ``loss_before``,
            ``accuracy_before``, ``loss_after``, ``accuracy_after`` (on the validation images, before and after the
            step's updates), ``seconds``. With an accuracy limit it goes on to the steps beyond the limit; the row of
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
    step: int = 1,
    updates: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    shortlist: int | None = 1,
    n_images: int = 2000,
    macs_penalty: float = 0.0,
    keep_at_least: int = 1,
    exclude: Exclude = (),
    patience: int = 3,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Compressed:
    """Remove filters step by step, with a few updates after each, until ``target`` is reached.

    The same call gives the same network, bit for bit, on one machine. ``model``, ``splits`` and the state of PyTorch's
    random numbers are unchanged; ``splits.test`` is never read.

    Args:
        model: a trained network, on the device of ``splits``.
        splits: ``train`` to score and to train on, ``validation`` to measure.
        target: where to stop. The last step removes fewer filters if fewer will do.
        criterion: scores the filters that are left.
        step: how many filters leave in one step.
        updates: how many minibatches follow a step, at most one pass over ``splits.train``; 0 for none.
        learning_rate: the highest in a step's updates. It falls to zero at their end, as in
            :func:`cnnprune_utils.training.fit`, so one update alone changes next to nothing.
        batch_size: images per update, and at once when scoring.
        shortlist: with m > 1, the criterion proposes the m filters of lowest rank, their gates are closed one at a
            time, and the one leaves without which the mean loss is lowest. None proposes all: the greedy oracle. Each
            filter that leaves then costs m passes over the images, and 1, the paper's loop, costs none. Whether a list
            pays once there are updates is open: with 8, three of chapter 8's five networks keep much more, and two a
            little less.
        n_images: how many of ``splits.train`` score and decide, the same ones in each step; at most all.
        macs_penalty: see :func:`cnnprune_utils.plan.rank`.
        keep_at_least: the floor: so many filters stay in each layer.
        exclude: layers that lose no filter: names, or a function that says whether a name is one.
        patience: with ``target.points``: stop after so many steps in a row beyond the limit.
        seed: draws the images, their order, and what dropout drops.
        folder: keeps the state after each step; None for nowhere. After a kill, the same call goes on from the last
            whole step; after the end, it returns at once.

    Raises:
        ValueError: a number is out of range, the floors rule out the target, or ``folder`` holds another run.
        TargetMissed: the accuracy limit came before the size; it has the closest network.
    """
    counts: dict[str, Any] = {"step": step, "batch_size": batch_size, "shortlist": shortlist, "n_images": n_images}
    counts |= {"keep_at_least": keep_at_least, "patience": patience}
    if target.multiple_of > 1 and shortlist != 1:
        raise ValueError(
            f"shortlist={shortlist} decides filter by filter, and {target} removes several at once: use shortlist=1."
        )
    if updates < 0 or any(n is not None and n < 1 for n in counts.values()):
        raise ValueError(f"updates={updates} must be at least 0, and each of these at least 1: {counts}.")
    scored = splits.train.subset(min(n_images, len(splits.train)), seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        run = LoopState(model, target, keep_at_least, exclude, splits.train.images[:2])
        if folder is not None:
            counts |= {"updates": updates, "seed": seed, "exclude": sorted(run.excluded)}
            rates = {"learning_rate": learning_rate, "macs_penalty": macs_penalty}
            run.go_on_from(Path(folder), counts | rates | fingerprints(model, splits, target, criterion))
        if not run.rows:
            started, network = time.perf_counter(), copy_of(model)
            run.add([], network, _update(network, splits, 0, learning_rate, batch_size, seed), started)
        with tqdm(total=target.filters, initial=len(run.order), desc="compress", unit="filter", leave=False) as bar:
            while run.free and run.beyond < patience and not target.reached(run.rows[-1]):
                started, network, drawn = time.perf_counter(), run.network, seed + len(run.rows)
                torch.manual_seed(drawn)
                with known(network, run.structure_now):
                    scores = criterion(network, scored, batch_size=batch_size)
                    shares = macs_per_filter(network, scored.images) if macs_penalty else None
                    ranks = rank(scores, macs_penalty=macs_penalty, macs=shares)
                    loss = partial(_loss_without, gated(network), scored, batch_size) if shortlist != 1 else None
                    leaving = run.needed(_lowest(run, ranks, min(step, run.free), shortlist, loss))
                    network = prune(network, run.plan(leaving))
                run.add(leaving, network, _update(network, splits, updates, learning_rate, batch_size, drawn), started)
                bar.update(len(leaving))
        return _result(run)


def _lowest(
    run: LoopState,
    ranks: pd.DataFrame,
    n: int,
    shortlist: int | None,
    loss_without: Callable[[Sequence[Filter]], float] | None,
) -> list[list[Filter]]:
    """At least ``n`` filters, in steps, in the order in which they go: the ranks propose, and the loss decides."""
    if loss_without is None:
        steps = turns(ranks, run.keep_at_least, run.target.multiple_of, run.excluded)
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


def _loss_without(network: GatedNetwork, split: Split, batch_size: int, filters: Sequence[Filter]) -> float:
    """The mean loss with the gates of ``filters`` closed, and all others open."""
    with closed(network, filters):
        return evaluate(network, split, batch_size=batch_size).loss


def _update(
    network: nn.Module, splits: Splits, updates: int, learning_rate: float, batch_size: int, seed: int
) -> list[float]:
    """Train ``network`` in place; loss and accuracy on the validation images before, and the same after it."""
    if updates == 0:
        result = evaluate(network, splits.validation)
        return [result.loss, result.accuracy] * 2
    few = replace(splits, train=splits.train.subset(min(updates * batch_size, len(splits.train)), seed))
    log = fit(network, few, epochs=1, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    return [float(x) for x in log[["validation_loss", "validation_accuracy"]].to_numpy().flatten()]


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
