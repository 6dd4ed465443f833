"""What training makes of a choice of filters, for one network: at equal updates, and beside its controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from benchmarks import recipe
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.criteria import taylor
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import SCHEDULES, Schedule, evaluate, fit

BATCH_SIZE = 256
SCORED = 2000  # training images that score, as compress takes them
CONDITIONS = [  # filters removed, updates in all, schedule of each training, its highest rate
    (10, 300, "one_cycle", 2e-3),
    (10, 300, "one_cycle", 1e-2),
    (10, 300, "constant", 2e-3),
    (10, 2000, "one_cycle", 2e-3),
    (10, 2000, "one_cycle", 1e-2),
    (5, 300, "one_cycle", 2e-3),
]
LAYERS = {"network.0": 2, "network.2": 4, "network.4": 8}  # of chapter 1's network, with their filters
KEPT = {"network.0": 1, "network.2": 2, "network.4": 3}  # one size and one cost for all plans: 23,617 parameters
PLANS = 200  # of the 672 that there are


def equal_updates(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    """Return the accuracy of networks that lost as many filters and had as many updates, spent in four ways.

    ``scored``: "once" or "again" (after each filter); ``updates``: "between" the removals or "after" them all. The
    filters are decided on 2,000 training images. Columns: ``filters``, ``total`` (updates in all), ``schedule``,
    ``rate``, ``scored``, ``updates``, ``accuracy`` (on the validation images, at the end).
    """
    scored, rows = splits.train.subset(min(SCORED, len(splits.train))), []
    for filters, total, schedule, rate in tqdm(CONDITIONS, desc="conditions", leave=False):

        def trained(network: nn.Module, updates: int, step: int) -> None:
            _update(network, splits, updates, SCHEDULES[schedule], rate, seed + step)  # noqa: B023

        for again in (False, True):
            for between in (False, True):
                network = model
                for step, removed in enumerate(_removals(model, scored, filters, again)):
                    network = prune(network, removed(network))
                    if between:
                        trained(network, total // filters, step)
                if not between:
                    trained(network, total, filters)
                ways = "again" if again else "once", "between" if between else "after"
                accuracy = evaluate(network, splits.validation).accuracy
                rows.append((filters, total, schedule, rate, *ways, accuracy))
    return pd.DataFrame(rows, columns=["filters", "total", "schedule", "rate", "scored", "updates", "accuracy"])


def _removals(model: nn.Module, scored: Split, n: int, again: bool) -> Iterator[Callable[[nn.Module], Plan]]:
    """Yield, for each filter, a function from the network that is left to the plan of that filter."""
    if again:
        yield from [lambda network: lowest(rank(taylor(network, scored)), 1)] * n
        return
    ranks = rank(taylor(model, scored))
    gone: dict[str, list[int]] = defaultdict(list)
    for k in range(1, n + 1):
        now_gone = {name: {*filters} - {*gone[name]} for name, filters in lowest(ranks, k).remove.items()}
        ((name, (old,)),) = [(name, filters) for name, filters in now_gone.items() if filters]
        now = old - sum(other < old for other in gone[name])  # filters behind a removed one have new numbers
        gone[name].append(old)
        yield partial(_always, Plan({name: (now,)}))


def _always(plan: Plan, network: nn.Module) -> Plan:
    return plan


def _update(network: nn.Module, splits: Splits, updates: int, schedule: Schedule, rate: float, seed: int) -> None:
    """Train in place for so many batches; more than an epoch of them are several passes over as many images."""
    per_epoch = max(1, len(splits.train) // BATCH_SIZE)
    epochs = -(-updates // per_epoch)
    few = replace(splits, train=splits.train.subset(updates // epochs * BATCH_SIZE, seed))
    fit(network, few, epochs=epochs, learning_rate=rate, schedule=schedule, seed=seed, batch_size=BATCH_SIZE)


def one_epoch(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    """Return what one epoch makes of plans of one size, drawn among all that keep as many filters as ``KEPT``.

    Columns: ``plan`` (the filters that stay), ``before``, ``after`` (accuracy on the validation images).
    """
    generator = torch.Generator().manual_seed(seed)
    plans: dict[str, Plan] = {}
    while len(plans) < PLANS:
        order = {name: tuple(torch.randperm(n, generator=generator).tolist()) for name, n in LAYERS.items()}
        stay = {name: sorted(order[name][: KEPT[name]]) for name in LAYERS}
        text = " ".join(f"{name[-1]}.{k}" for name, filters in stay.items() for k in filters)
        plans[text] = Plan({name: order[name][KEPT[name] :] for name in LAYERS})
    rows = []
    for text, plan in tqdm(plans.items(), desc="plans", leave=False):
        history = fit(prune(model, plan), splits, epochs=1, learning_rate=1e-2, seed=seed)
        rows.append((text, *history["validation_accuracy"]))
    return pd.DataFrame(rows, columns=["plan", "before", "after"])


def fine_tuning(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    """Return what chapter 5's ways to a small network, and their controls, come to.

    The plan is chapter 4's: eight filters by Taylor on the validation images. Columns: ``network``, ``epochs`` (of
    training after the baseline's; for "from scratch", of all its training), ``validation``, ``test`` (accuracies). A
    narrow network may be dead when it is drawn; one that is "restarted" is drawn again until it learns.
    """
    plan = lowest(rank(taylor(model, splits.validation)), 8)
    widths = tuple(n - len(plan.remove.get(name, ())) for name, n in LAYERS.items())

    def fitted(network: nn.Module, epochs: int) -> nn.Module:
        fit(network, splits, epochs=epochs, learning_rate=1e-2, seed=seed)
        return network

    def off_by_one() -> nn.Module:
        """Chapter 4's wrong surgery: the blocks of the linear layer are those of the filters before."""
        wrong = prune(model, plan)
        stay = [k for k in range(8) if k not in plan.remove.get("network.4", ())]
        blocks = model.get_parameter("network.7.weight").unflatten(1, (8, -1))
        with torch.no_grad():
            wrong.get_parameter("network.7.weight").copy_(blocks[:, [k - 1 for k in stay]].flatten(1))
        return wrong

    all_epochs = recipe.TRAIN_EPOCHS + recipe.TUNE_EPOCHS
    copy = prune(model, Plan({}))
    networks: list[tuple[str, int, Callable[[], nn.Module]]] = [
        ("original", 0, lambda: model),
        ("original", recipe.TUNE_EPOCHS, lambda: fitted(copy, recipe.TUNE_EPOCHS)),
        ("pruned", 0, lambda: prune(model, plan)),
        *(("pruned", n, lambda n=n: fitted(prune(model, plan), n)) for n in (1, recipe.TUNE_EPOCHS, all_epochs)),
        ("from scratch", all_epochs, lambda: recipe.from_scratch(widths, splits, seed)[0]),
        *(
            ("restarted", n, lambda n=n: recipe.drawn_again(widths, splits, n, seed))
            for n in (1, recipe.TUNE_EPOCHS, all_epochs)
        ),
        ("wrong surgery", 0, off_by_one),
        ("wrong surgery", recipe.TUNE_EPOCHS, lambda: fitted(off_by_one(), recipe.TUNE_EPOCHS)),
    ]
    rows = []
    for name, epochs, make in tqdm(networks, desc="networks", leave=False):
        network = make()
        rows.append((name, epochs, *(evaluate(network, s).accuracy for s in (splits.validation, splits.test))))
    return pd.DataFrame(rows, columns=["network", "epochs", "validation", "test"])
