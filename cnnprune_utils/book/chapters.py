"""The rule for which notebooks are chapters. The web pages, the benchmarks and the tests all use it."""

from __future__ import annotations

from pathlib import Path


def chapters_in(folder: Path) -> list[Path]:
    """Return the chapters in ``folder``, in the order of the book.

    A chapter is a notebook whose name starts with two digits and an underscore: ``01_train.ipynb``.
    """
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))
