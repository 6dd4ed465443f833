"""The networks and tables that the chapters start from. They ship inside the package."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..saving import load_model
from .cnn import CNN

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""The folder of the stored networks, ``make checkpoints`` writes it."""

STUDIES = Path(__file__).parent / "studies"
"""The folder of the stored tables, ``make studies`` writes it."""


def checkpoint(name: str) -> CNN:
    """Return a stored network of the book, on the CPU: "baseline", "tuned" or "scratch".

    Raises:
        ValueError: there is none of this name.
    """
    model = load_model(_file(CHECKPOINTS, name, ".safetensors"))
    assert isinstance(model, CNN)
    return model


def training_history(name: str) -> pd.DataFrame:
    """Return how a stored network was trained, as :func:`cnnprune_utils.fit` returns it: "baseline" or "scratch".

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
