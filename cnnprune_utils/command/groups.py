"""The settings of a run, group by group: typed, and checked before anything is computed.

The first lines and the texts of ``Args`` are what ``cnnprune run --help`` shows. Nothing here imports PyTorch, so that
help comes at once.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from ..book.fashion_mnist import CLASS_NAMES, N_TRAINING_IMAGES


def names_in(table: str, module: str) -> tuple[str, ...]:
    """Return the keys of a dict in a module of the package, read from its source: an import would load PyTorch."""
    tree = ast.parse((files("cnnprune_utils") / f"{module}.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.target): node.value for node in tree.body if isinstance(node, ast.AnnAssign)}
    found = assigned[table]
    assert isinstance(found, ast.Dict)
    return tuple(ast.literal_eval(name) for name in found.keys if name is not None)


# mypy takes literals only from the text
Criterion: TypeAlias = Literal[names_in("CRITERIA", "criteria")]  # type: ignore[valid-type]
Schedule: TypeAlias = Literal[names_in("SCHEDULES", "training")]  # type: ignore[valid-type]

SIZES = ("remove", "parameters", "macs")  # how far to prune: one of them


@dataclass(frozen=True)
class Data:
    """Data: which images of Fashion-MNIST

    Args:
        root: folder of the data; null: CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder
        validation: training images held out for validation, equally many of each of the ten classes
        train: number of the others to train on, drawn at random; null: all
    """

    root: str | None = None
    validation: int = 5000
    train: int | None = None

    def __post_init__(self) -> None:
        n, most = len(CLASS_NAMES), N_TRAINING_IMAGES - len(CLASS_NAMES)
        if self.validation % n or not n <= self.validation <= most:
            raise ValueError(f"data.validation={self.validation} must be a multiple of {n}, from {n} to {most}")
        left = N_TRAINING_IMAGES - self.validation
        if self.train is not None and not 1 <= self.train <= left:
            raise ValueError(
                f"data.train={self.train} must lie between 1 and {left}, the training images besides data.validation"
            )


@dataclass(frozen=True)
class Network:
    """Network: convolutions of 3x3, called network.0, network.2, network.4, ..., and one linear layer

    Args:
        widths: filters of each convolution
    """

    widths: list[int] = field(default_factory=lambda: [2, 4, 8])

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"network.widths={self.widths} must be at least one number, and each at least 1")

    @property
    def layers(self) -> dict[str, int]:
        """Layer name -> filters."""
        return {f"network.{2 * i}": width for i, width in enumerate(self.widths)}


@dataclass(frozen=True)
class Training:
    """Training, with Adam

    Args:
        epochs: passes over the training images
        learning_rate: the highest one
        batch_size: images in one update
        schedule: one_cycle: the learning rate rises, and falls to zero at the end; constant: it stays
    """

    epochs: int = 6
    learning_rate: float = 1e-2
    batch_size: int = 256
    schedule: Schedule = "one_cycle"

    def __post_init__(self) -> None:
        _check_training("training", self)


@dataclass(frozen=True)
class Finetuning:
    """Fine-tuning of the pruned network, with a new Adam

    Args:
        epochs: passes over the training images
        learning_rate: the highest one
        batch_size: images in one update
        schedule: one_cycle: the learning rate rises, and falls to zero at the end; constant: it stays
    """

    epochs: int = 5
    learning_rate: float = 1e-2
    batch_size: int = 256
    schedule: Schedule = "one_cycle"

    def __post_init__(self) -> None:
        _check_training("finetuning", self)


@dataclass(frozen=True)
class Scoring:
    """Scoring: how much each filter matters

    Args:
        criterion: how that is measured; taylor is the paper's
        split: the images to score on
        images: number of images, drawn at random; null: all
        macs_penalty: times the share of the network's computation that a filter takes, taken off its normalised score
    """

    criterion: Criterion = "taylor"
    split: Literal["train", "validation"] = "validation"
    images: int | None = None
    macs_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(1, {"scoring.images": self.images})
        check_at_least(0, {"scoring.macs_penalty": self.macs_penalty})


@dataclass(frozen=True)
class Pruning:
    """Pruning: how far. Give one of remove, parameters and macs

    Args:
        way: one_shot: the lowest ranks are removed at once; loop: the paper's loop, see below
        remove: number of filters to remove, over all layers; or for each layer, as in '{network.0: 1, network.4: 5}'
        parameters: the most parameters that may remain
        macs: the most multiply-accumulates per image that may remain
        points: loop only: the most points of validation accuracy that may be lost; with remove null and no other size:
            as small as that allows
        keep_at_least: the fewest filters that stay in each layer
    """

    way: Literal["one_shot", "loop"] = "one_shot"
    remove: int | dict[str, int] | None = 8
    parameters: int | None = None
    macs: int | None = None
    points: float | None = None
    keep_at_least: int = 1

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in SIZES}
        given = {f"pruning.{name}": value for name, value in sizes.items() if value is not None}
        if len(given) > 1 or (not given and self.points is None):
            text = " and ".join(f"{name}={value}" for name, value in given.items()) or "nothing"
            raise ValueError(
                f"{text} says how far to prune: give one of pruning.remove, pruning.parameters and pruning.macs, and "
                "set the others to null, as in --pruning.remove null"
            )
        if self.way == "one_shot" and self.points is not None:
            raise ValueError("pruning.points is for the loop, which measures on its way: set pruning.way to loop")
        if self.way == "loop" and isinstance(self.remove, dict):
            raise ValueError("the loop chooses the layers itself: give pruning.remove as one number, or as null")
        if not 0 <= (self.points or 0) <= 100:
            raise ValueError(f"pruning.points={self.points} must lie between 0 and 100")
        counts = self.remove if isinstance(self.remove, dict) else {}
        check_at_least(0, {f"pruning.remove of {name}": n for name, n in counts.items()})
        check_at_least(0, {name: n for name, n in given.items() if not isinstance(n, dict)})
        check_at_least(1, {"pruning.keep_at_least": self.keep_at_least})


@dataclass(frozen=True)
class Loop:
    """Loop: score, remove a few filters, train a little, repeat; only for pruning.way=loop

    Args:
        step: filters removed in each step
        updates: minibatches to train on after each step, at most one pass; 0: none
        learning_rate: the highest one in the updates of a step
        batch_size: images in one update
        shortlist: number of lowest ranks to try by closing gates, of which the best is removed; 1: remove the lowest
        images: training images to score on, or all if there are fewer
        patience: with pruning.points: successive steps beyond the limit before it stops
    """

    step: int = 1
    updates: int = 50
    learning_rate: float = 1e-3
    batch_size: int = 256
    shortlist: int = 1
    images: int = 2000
    patience: int = 3

    def __post_init__(self) -> None:
        names = ("step", "batch_size", "shortlist", "images", "patience")
        check_at_least(1, {f"loop.{name}": getattr(self, name) for name in names})
        check_at_least(0, {"loop.updates": self.updates})
        _check_rate("loop", self.learning_rate)


@dataclass(frozen=True)
class Tracking:
    """Tracking: what a run logs in MLflow, besides its folder

    Args:
        enabled: false: nothing; the run is in its folder only
        uri: a server, as http://localhost:5000, or a file, as sqlite:///runs/mlflow.db; null: the variable
            MLFLOW_TRACKING_URI, else that file
        experiment: the name of the experiment in MLflow
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "cnnprune"

    def __post_init__(self) -> None:
        if self.uri is not None and "://" not in self.uri:
            raise ValueError(
                f"tracking.uri={self.uri} is no address: it looks like http://localhost:5000 or sqlite:///mlflow.db"
            )
        if self.uri is not None and urlsplit(self.uri).password is not None:  # it would be stored and logged
            raise ValueError(
                "tracking.uri must not hold a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if not self.experiment.strip():
            raise ValueError("tracking.experiment must be a name, not empty")


def check_at_least(lowest: int, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not lowest <= value < math.inf:
            raise ValueError(f"{name}={value} must be at least {lowest}")


def _check_training(section: str, given: Training | Finetuning) -> None:
    check_at_least(1, {f"{section}.epochs": given.epochs, f"{section}.batch_size": given.batch_size})
    _check_rate(section, given.learning_rate)


def _check_rate(section: str, rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"{section}.learning_rate={rate} must be a positive number, such as 0.001")
