"""The studies that take longer than a chapter may: ``python -m benchmarks.studies`` makes those of the package.

Five networks are trained as in chapter 1, and each way of choosing filters is held against all sub-networks. The
functions for one network are what chapter 8 runs live; the files hold the same for all five.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn
from tqdm import tqdm

from benchmarks import jobs, recipe
from cnnprune_utils import files
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.book.shipped import STUDIES
from cnnprune_utils.choice import choices
from cnnprune_utils.criteria import CRITERIA, random
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, percentile, plan_of, row_of
from cnnprune_utils.gates import mask
from cnnprune_utils.loop import Target, compress
from cnnprune_utils.plan import Plan, Scores, lowest, rank
from cnnprune_utils.saving import load_model, save_model
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.training import best_device, evaluate

SEEDS = range(5)
SIZES = range(1, 10)
N_IMAGES = 5000
SHORTLISTS = (1, 2, 4, 8, None)
UPDATES = (0, 50)
TRUTHS = ("oracle", "oracle_loss")
SETTINGS = {
    "correlations": f"""networks: benchmarks.recipe.train, one for each seed
scores and oracle: on the {N_IMAGES:,} validation images
layer all: scores divided by the norm of their layer, as plan.rank gives them""",
    "choices": f"""networks: benchmarks.recipe.train, one for each seed
decided on {N_IMAGES:,} training images (splits.train.subset), judged on the {N_IMAGES:,} validation images, no update
best, percentile: among all sub-networks that remove as many filters and empty no layer
oracle, no norm: its scores are compared as they are, all others divided by the norm of their layer
seconds: until the plan of this size was found, smaller ones included; compare them within this file only""",
    "shortlists": """networks: benchmarks.recipe.train, one for each seed
compress(network, splits, target=Target(filters=9), shortlist=..., update=...), the rest as it comes; all: None
accuracy: on the 5,000 validation images, after the updates""",
}


def correlations(model: nn.Module, split: Split, seed: int = 0) -> pd.DataFrame:
    """Return Spearman's correlation of every criterion with the oracle on ``split``, over all filters and per layer.

    Over all filters, the scores are compared as :func:`cnnprune_utils.plan.rank` normalises them. Columns:
    ``criterion``, ``layer`` ("all", or its name), ``spearman``.
    """
    truth = rank(CRITERIA["oracle"](model, split))
    rows = []
    for name, criterion in _criteria(seed).items():
        if name not in TRUTHS:
            ranks = rank(criterion(model, split))
            for layer in ("all", *ranks["layer"].unique()):
                of = slice(None) if layer == "all" else ranks["layer"] == layer
                statistic = spearmanr(ranks.loc[of, "normalized"], truth.loc[of, "normalized"]).statistic
                rows.append((name, layer, float(statistic)))
    return pd.DataFrame(rows, columns=["criterion", "layer", "spearman"])


def ways(model: nn.Module, decide: Split, seed: int = 0) -> dict[str, Callable[[], Iterator[Plan]]]:
    """Return name -> a call that finds, on the images ``decide``, a plan for 0, 1, 2, ... filters removed.

    One-shot: each criterion by its name. Then Taylor scored again after each filter, greedy and a beam by closed gates,
    :func:`cnnprune_utils.choice.choose`, and every sub-network measured on the images that decide.
    """
    one_shot = {name: partial(_one_shot, criterion, model, decide) for name, criterion in _criteria(seed).items()}
    return {
        **one_shot,
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
    :func:`cnnprune_utils.exhaustive.percentile`), ``seconds`` (from the start until the plan of this size was found).
    """
    best = best_of_each_size(judged)["accuracy"]
    rows = []
    for way, plans in tqdm(found.items(), desc="ways", leave=False):
        started = time.perf_counter()
        for n, plan in zip(range(max(sizes) + 1), plans(), strict=False):
            seconds = time.perf_counter() - started
            if n in sizes:
                landed = row_of(judged, plan)["accuracy"], best[n], percentile(judged, plan)
                rows.append((way, n, *map(float, landed), seconds))
            started = time.perf_counter() - seconds  # looking plans up in the table is not part of the search
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


def _criteria(seed: int) -> dict[str, Callable[..., Scores]]:
    return {**CRITERIA, "random": partial(random, seed=seed)}  # else every network would get the same draw


def trained(splits: Splits, seed: int, folder: Path | None) -> nn.Module:
    """Return chapter 1's network for this seed, read from ``folder`` if it was kept there."""
    path = folder / f"{seed}.safetensors" if folder else None
    if path and path.exists():
        return load_model(path).to(splits.train.inputs.device)
    model, _ = recipe.train(splits, seed)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, path)
    return model


def write(table: pd.DataFrame, path: Path, settings: str) -> None:
    """Write the table as CSV, below lines that start with # and say how it was made."""
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, 1 thread"
    lines = ["python -m benchmarks.studies", versions, *settings.splitlines()]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, "".join(f"# {line}\n" for line in lines) + table.to_csv(index=False, float_format="%.6g"))


def of_seed(seed: int, networks: Path | None = None) -> tuple[pd.DataFrame, ...]:
    """The table of each study for the network of one seed, in the order of ``SETTINGS``."""
    splits = load_fashion_mnist().to(best_device())
    decide = splits.train.subset(min(N_IMAGES, len(splits.train)))
    model = trained(splits, seed, networks)
    landed = landings(ways(model, decide, seed), all_subnetworks(model, splits.validation))
    return correlations(model, splits.validation, seed), landed, shortlists(model, splits)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("--networks", type=Path, help="keep the trained networks here, and use those that are here")
    jobs.add_backend(parser)
    given = parser.parse_args(arguments)
    of_seeds = jobs.for_each(partial(of_seed, networks=given.networks), SEEDS, given.backend)
    for name, tables in zip(SETTINGS, zip(*of_seeds, strict=True), strict=True):
        table = pd.concat(tables, keys=SEEDS, names=["seed", None]).reset_index("seed")
        write(table, STUDIES / f"{name}.csv", SETTINGS[name])
        print(f"{name}.csv: {len(table)} rows")


if __name__ == "__main__":
    main()
