"""The studies that take longer than a chapter may: ``make studies``, or ``python -m benchmarks.studies NAME ...``.

Five networks are trained as in chapter 1, and deeper ones, from the seeds 5 to 9: nothing in the book or the package
was tuned on them. Each study measures one network; its file holds those of its seeds.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import torch
from torch import nn

from benchmarks import choosing, deeper, jobs, recipe, retraining, voting
from cnnprune_utils import files
from cnnprune_utils.batches import Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.book.shipped import STUDIES
from cnnprune_utils.exhaustive import all_subnetworks
from cnnprune_utils.plan import Plan
from cnnprune_utils.saving import load_model, save_model
from cnnprune_utils.training import best_device

SEEDS = range(5, 10)
Measure: TypeAlias = Callable[[nn.Module, Splits, int], pd.DataFrame]
TRAINED: dict[str, type[nn.Module]] = {"train": CNN, "train_residual": ResNet}  # by functions of benchmarks.recipe


@dataclass(frozen=True)
class Study:
    """A table for one network, and how it was made."""

    measure: Measure
    settings: str
    seeds: Sequence[int] = SEEDS
    trained_by: str = "train"  # a name in TRAINED


def decide(splits: Splits) -> Splits:
    """With the training images on which the filters are chosen."""
    return Splits(splits.train.subset(min(choosing.N_IMAGES, len(splits.train))), splits.validation, splits.test)


def _signs(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    few = decide(splits)
    return choosing.signs(model, {"training": few.train, "validation": few.validation, "test": few.test})


def _correlations(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    return choosing.correlations(model, splits.validation)


def _choices(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    judged = all_subnetworks(model, splits.validation)
    return choosing.landings(choosing.ways(model, decide(splits).train), judged)


def _shortlists(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    return choosing.shortlists(model, splits)


ALL = {
    "signs": Study(
        _signs,
        f"""truth: how the mean loss changes when a gate closes, with its sign, on the same images
training: {choosing.N_IMAGES:,} of them (splits.train.subset); validation and test: all""",
    ),
    "correlations": Study(
        _correlations,
        """scores and oracle: on the validation images; the oracle as it is, never divided by a norm
layer all: scores divided by the norm of their layer, as plan.rank gives them; all, no norm: as they are""",
    ),
    "choices": Study(
        _choices,
        f"""decided on {choosing.N_IMAGES:,} training images (splits.train.subset), judged on the validation images
no update after a choice
best, percentile: among all sub-networks that remove as many filters and empty no layer
no norm: the scores are compared as they are, all others divided by the norm of their layer
random: the mean over all plans of the size
seconds: of one processor, until this plan was found, smaller ones included; compare them within this file only""",
    ),
    "shortlists": Study(
        _shortlists,
        """compress(network, splits, target=Target(filters=9), shortlist=..., update=...); all: None
accuracy: on the validation images, after the updates""",
    ),
    "equal_updates": Study(
        retraining.equal_updates,
        f"""filters are scored on {retraining.SCORED:,} training images: once, or again after each removal
total: updates of {retraining.BATCH_SIZE} images in all: as many between the removals, or all after them
schedule and rate: of each training; one_cycle restarts with each
accuracy: on the validation images, after the last update""",
    ),
    "one_epoch": Study(
        retraining.one_epoch,
        f"""{retraining.PLANS} plans of eight filters, drawn among all that keep 1, 2 and 3 filters of the three layers
before, after: accuracy on the validation images, before and after one epoch: fit(..., epochs=1, learning_rate=1e-2)""",
        seeds=SEEDS[:3],
    ),
    "fine_tuning": Study(
        retraining.fine_tuning,
        """pruned: as in chapter 4, eight filters by taylor on the validation images; from scratch: with these widths
restarted: from scratch, drawn again until it learns: seeds 100 apart, more than 20 % right after an epoch
wrong surgery: the same, but the columns of the linear layer are off by one filter
epochs: of fit(..., learning_rate=1e-2), one cycle; the original had 6 before""",
    ),
    "front": Study(
        deeper.front,
        f"""budgets: at most the MACs of ResNet(widths), with these widths: {deeper.NARROWER}
scored on 2,000 training images; cut at once, or (loop) in {deeper.STEPS} steps with half of the updates between
epochs: after the cut (from scratch: in all), of fit(..., learning_rate=1e-2, batch_size=128), one cycle
teacher: the unpruned network, for half of the loss
widths: of the nine rows of prunable_layers""",
        trained_by="train_residual",
    ),
    "votes": Study(
        voting.votes,
        """scored on 2,000 training images; the same share of each layer is removed, down to the budgets of front
one vote: voting.one_vote; statistics: of BatchNorm, measured again on 10,000 training images, without training
epoch: fit(..., epochs=1, learning_rate=1e-2, batch_size=128), from the network of cut
cut, statistics, epoch: accuracies on the test images""",
        trained_by="train_residual",
    ),
}


def trained(splits: Splits, seed: int, folder: Path | None, by: str) -> nn.Module:
    """Return the network of this seed, trained by this function of the recipe, or read from ``folder``."""
    path = folder / f"{by}-{seed}.safetensors" if folder else None
    if path and path.exists():
        return load_model(path, base=TRAINED[by]()).to(splits.train.inputs.device)
    model: nn.Module = getattr(recipe, by)(splits, seed)[0]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, path, plan=Plan({}))
    return model


def write(table: pd.DataFrame, path: Path, study: Study, networks: Mapping[int, str]) -> None:
    """Write the table as CSV, below lines that start with # and say how it was made.

    ``networks``: seed -> fingerprint. The same seed gives another network on a processor that rounds otherwise, and
    studies of other networks do not belong into one book.
    """
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, 1 thread"
    trained_as = ", ".join(f"{seed} {mark}" for seed, mark in networks.items())
    networks_line = f"networks: benchmarks.recipe.{study.trained_by}, seed and fingerprint: {trained_as}"
    lines = [f"python -m benchmarks.studies {path.stem}", versions, networks_line, *study.settings.splitlines()]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, "".join(f"# {line}\n" for line in lines) + table.to_csv(index=False, float_format="%.6g"))


def of_seed(seed: int, names: Sequence[str], keep: Path | None = None) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return, for each study that measures this seed, the fingerprint of its network, and its table."""
    splits, found = load_fashion_mnist().to(best_device()), {}
    model_by = cache(partial(trained, splits, seed, keep))  # trained once, for all its studies
    for name in names:
        if seed in ALL[name].seeds:
            model = model_by(ALL[name].trained_by)
            mark = files.fingerprint(model.state_dict().values())[:8]
            path = keep / f"{name}-{mark}.csv" if keep else None
            if path and path.exists():
                table = pd.read_csv(path)
            else:
                table = ALL[name].measure(model, splits, seed)
                if path:
                    files.write(path, table.to_csv(index=False))
            found[name] = mark, table
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; without one: all")
    parser.add_argument(
        "--keep", type=Path, help="keep trained networks and finished tables in this folder, and use what is there"
    )
    jobs.add_backend(parser)
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in ALL]:
        parser.error(f"there is no study {', '.join(unknown)}; there are {', '.join(ALL)}")
    names = given.names or list(ALL)
    seeds = sorted({seed for name in names for seed in ALL[name].seeds})
    tables = jobs.for_each(partial(of_seed, names=names, keep=given.keep), seeds, given.backend)
    for name in names:
        found = {seed: of[name] for seed, of in zip(seeds, tables, strict=True) if name in of}
        table = pd.concat({seed: of for seed, (_, of) in found.items()}, names=["seed", None]).reset_index("seed")
        write(table, STUDIES / f"{name}.csv", ALL[name], {seed: mark for seed, (mark, _) in found.items()})
        print(f"{name}.csv: {len(table)} rows")


if __name__ == "__main__":
    main()
