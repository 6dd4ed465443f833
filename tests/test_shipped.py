"""The networks and tables that ship inside the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cnnprune_utils.book import checkpoint, shipped, study, training_history

ROOT = Path(__file__).resolve().parent.parent


def test_what_ships_is_read_by_its_name() -> None:
    assert checkpoint("tuned").widths == (1, 2, 3)
    assert training_history("baseline")["epoch"].tolist() == list(range(7))
    assert {"seed", "way", "removed", "accuracy"} <= set(study("choices").columns)


@pytest.mark.parametrize(
    ("read", "there"),
    [
        (checkpoint, "checkpoints: baseline, residual, scratch, tuned"),
        (training_history, "checkpoints: baseline, residual, scratch"),
        (study, "studies: choices, correlations, equal_updates, fine_tuning, front, one_epoch, shortlists, signs"),
    ],
)
def test_an_unknown_name_lists_the_known(read, there: str) -> None:
    for name in ("basline", "../baseline", ""):
        with pytest.raises(ValueError, match=f"there is no '{name}' among the book's {there}"):
            read(name)


def test_the_wheel_has_every_file() -> None:
    """Every file that is not a module is package data."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "cnnprune_utils"
    assert {path.parent for path in package.rglob("*.py")} == {
        ROOT / name.replace(".", "/") for name in tool["packages"]
    }
    data = {
        file
        for name, patterns in tool["package-data"].items()
        for pattern in patterns
        for file in (ROOT / name.replace(".", "/")).glob(pattern)
    }
    assert {shipped.CHECKPOINTS / "baseline.safetensors", shipped.STUDIES / "choices.csv"} <= data
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == data
