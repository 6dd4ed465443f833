"""Ways of choosing filters, for one network: how they agree with the oracle, and where they stand among all plans."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn
from tqdm import tqdm

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.choice import choices
from cnnprune_utils.criteria import CRITERIA, loss_changes
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, percentile, plan_of, row_of
from cnnprune_utils.gates import gate_gradients, mask
from cnnprune_utils.loop import Target, compress
from cnnprune_utils.plan import Plan, Scores, lowest, rank
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.training import evaluate

SIZES = range(1, 10)
N_IMAGES = 5000
SHORTLISTS = (1, 2, 4, 8, None)
UPDATES = (0, 50)
JUDGES = ("oracle", "oracle_loss")


def correlations(model: nn.Module, split: Split) -> pd.DataFrame:
    """Return Spearman's correlation of every criterion with the oracle on ``split``, over all filters and per layer.

    The oracle's loss changes are compared as they are, whatever the layer. The scores of all filters are compared as
    :func:`cnnprune_utils.plan.rank` normalises them, and as they are. Columns: ``criterion``, ``layer`` ("all", "all,
    no norm", or its name), ``spearman``.
    """
    truth = _flat(CRITERIA["oracle"](model, split))
    rows = []
    for name, criterion in CRITERIA.items():
        if name not in (*JUDGES, "random"):
            scores, ranks = _flat(criterion(model, split)), rank(criterion(model, split))
            rows.append((name, "all", _spearman(ranks["normalized"], truth)))
            rows.append((name, "all, no norm", _spearman(scores, truth)))
            for layer, of in ranks.groupby("layer").groups.items():
                rows.append((name, str(layer), _spearman(scores[of], truth[of])))
    return pd.DataFrame(rows, columns=["criterion", "layer", "spearman"])


def signs(model: nn.Module, sets: Mapping[str, Split]) -> pd.DataFrame:
    """Return how three readings of the slopes along the gates agree with what closing each gate does to the loss.

    The truth is the change of the mean loss on the same images, with its sign. Columns: ``images`` (the key of
    ``sets``), ``score``, ``spearman`` (over all filters, no norm).
    """
    rows = []
    for images, split in sets.items():
        truth = _flat(loss_changes(model, split))
        slopes = torch.cat([torch.cat(list(batch.values()), 1) for batch in gate_gradients(model, split)]).cpu()
        mean = slopes.mean(0)
        readings = {"minus the mean slope": -mean, "its size": mean.abs(), "the mean size": slopes.abs().mean(0)}
        rows += [(images, name, _spearman(pd.Series(values), truth)) for name, values in readings.items()]
    return pd.DataFrame(rows, columns=["images", "score", "spearman"])


def _flat(scores: Scores) -> pd.Series:
    return pd.Series(torch.cat(list(scores.values())).tolist())


def _spearman(one: pd.Series, other: pd.Series) -> float:
    return float(spearmanr(one, other).statistic)


def ways(model: nn.Module, decide: Split) -> dict[str, Callable[[], Iterator[Plan]]]:
    """Return name -> a call that finds, on the images ``decide``, a plan for 0, 1, 2, ... filters removed.

    One-shot: each criterion by its name, and two whose scores no norm divides. Then Taylor scored again after each
    filter, greedy and a beam by closed gates, :func:`cnnprune_utils.choice.choose`, and every sub-network measured on
    the images that decide.
    """
    left_out = ("random", "oracle_loss")  # drawn elsewhere; on these networks the same plans as oracle
    criteria = {name: criterion for name, criterion in CRITERIA.items() if name not in left_out}
    return {
        **{name: partial(_one_shot, criterion, model, decide) for name, criterion in criteria.items()},
        "taylor, no norm": partial(_one_shot, CRITERIA["taylor"], model, decide, None),
        "oracle, no norm": partial(_one_shot, CRITERIA["oracle"], model, decide, None),
        "taylor, scored again": partial(choices, model, decide, shortlist=1),
        "closed gates": partial(beam, model, decide, 1),
        "beam of 4": partial(beam, model, decide, 4),
        "choose": partial(choices, model, decide),
        "all sub-networks": partial(_all, model, decide),
    }


def landings(
    found: dict[str, Callable[[], Iterator[Plan]]], judged: pd.DataFrame, sizes: range = SIZES
) -> pd.DataFrame:
    """Return where the plans of each way stand in ``judged``, the table of all sub-networks on other images.

    Columns ``way``, ``removed``, ``accuracy``, ``best`` (of all that remove as many), ``percentile`` (as
    :func:`cnnprune_utils.exhaustive.percentile`), ``seconds`` (of the processor, until this plan was found).
    The way "random" is not drawn: its accuracy and percentile are the means over all plans of the size.
    """
    best = best_of_each_size(judged)["accuracy"]
    whole = judged[~judged["emptied"]].groupby("removed")["accuracy"]
    shares = whole.rank(pct=True, method="max").groupby(judged["removed"]).mean()
    rows = [("random", n, whole.mean()[n], best[n], 100 * shares[n], 0.0) for n in sizes]
    for way, plans in tqdm(found.items(), desc="ways", leave=False):
        started = time.process_time()
        for n, plan in zip(range(max(sizes) + 1), plans(), strict=False):
            seconds = time.process_time() - started
            if n in sizes:
                accuracy = float(row_of(judged, plan)["accuracy"])
                rows.append((way, n, accuracy, best[n], percentile(judged, plan), seconds))
            started = time.process_time() - seconds  # looking plans up in the table is not part of the search
    return pd.DataFrame(rows, columns=["way", "removed", "accuracy", "best", "percentile", "seconds"])


def shortlists(model: nn.Module, splits: Splits, n_filters: int = max(SIZES)) -> pd.DataFrame:
    """Return the accuracy that :func:`cnnprune_utils.loop.compress` keeps with shortlists of several lengths.

    Columns: ``shortlist`` ("all" for None), ``updates``, ``removed``, ``accuracy`` (after the updates).
    """
    tables = []
    for updates, shortlist in tqdm(list(product(UPDATES, SHORTLISTS)), desc="shortlists", leave=False):
        history = compress(model, splits, target=Target(filters=n_filters), update=updates, shortlist=shortlist).history
        columns = {"shortlist": str(shortlist or "all"), "updates": updates, "removed": history["removed"]}
        tables.append(pd.DataFrame({**columns, "accuracy": history["accuracy_after"]})[1:])
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def beam(model: nn.Module, split: Split, width: int) -> Iterator[Plan]:
    """Return the plan of lowest loss for 0, 1, 2, ... filters, each extending one of the ``width`` best.

    Width 1 is greedy: it removes the filter without which the loss is lowest.
    """
    widths = {layer.name: layer.out_channels for layer in prunable_layers(model)}
    plans = [Plan({})]
    while plans:
        yield plans[0]
        more = {larger: None for plan in plans for larger in _one_more(plan, widths)}  # each once, in a fixed order
        plans = sorted(more, key=lambda plan: evaluate(mask(model, plan), split).loss)[:width]


def _one_more(plan: Plan, widths: dict[str, int]) -> Iterator[Plan]:
    """Return every plan that removes one filter more, and empties no layer."""
    for name, n in widths.items():
        gone = plan.remove.get(name, ())
        if len(gone) < n - 1:
            yield from (Plan({**plan.remove, name: (*gone, k)}) for k in range(n) if k not in gone)


def _one_shot(
    criterion: Callable[..., Scores], model: nn.Module, split: Split, normalize: str | None = "l2"
) -> Iterator[Plan]:
    ranks = rank(criterion(model, split), normalize=normalize)
    layers = ranks["layer"].nunique()
    yield from (lowest(ranks, n) for n in range(len(ranks) - layers + 1))


def _all(model: nn.Module, split: Split) -> Iterator[Plan]:
    best = best_of_each_size(all_subnetworks(model, split))
    yield from (plan_of(row) for _, row in best.iterrows())
