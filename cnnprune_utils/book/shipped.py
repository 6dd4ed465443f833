"""The networks and tables that the chapters start from. They ship inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

import pandas as pd
import torch

from ..saving import load_model
from .cnn import CNN
from .resnet import ResNet

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""The folder of the stored networks, ``make checkpoints`` writes it."""

STUDIES = Path(__file__).parent / "studies"
"""The folder of the stored tables, ``make studies`` writes it."""


@overload
def checkpoint(name: Literal["residual"]) -> ResNet: ...  # type: ignore[overload-overlap]


@overload
def checkpoint(name: str) -> CNN: ...


def checkpoint(name: str) -> CNN | ResNet:
    """Return a stored network of the book, on the CPU.

    "baseline", "tuned" or "scratch": a :class:`.cnn.CNN`, of chapter 1 or 5; "residual": a
    :class:`.resnet.ResNet`.

    Raises:
        ValueError: there is none of this name.
    """
    path = _file(CHECKPOINTS, name, ".safetensors")
    with torch.random.fork_rng(devices=[]):  # a new network draws its weights
        model = load_model(path, base=ResNet() if name == "residual" else None)
    assert isinstance(model, (CNN, ResNet))
    return model


def training_history(name: str) -> pd.DataFrame:
    """Return how a stored network was trained, as :func:`cnnprune_utils.fit` returns it: all but "tuned".

    Raises:
        ValueError: there is none of this name.
    """
    return pd.read_csv(_file(CHECKPOINTS, name, "_history.csv"))


def study(name: str) -> pd.DataFrame:
    """Return a stored table by the name of its file, such as "signs". The head of the file says how it was made.

    Raises:
        ValueError: there is none of this name.
    """
    return pd.read_csv(_file(STUDIES, name, ".csv"), comment="#")


def _file(folder: Path, name: str, ending: str) -> Path:
    names = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    if name not in names:
        raise ValueError(f"there is no {name!r} among the book's {folder.name}: {', '.join(names)}")
    return folder / f"{name}{ending}"
