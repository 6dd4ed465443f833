"""Which notebooks are chapters: the one rule that the pages, the benchmarks and the tests go by."""

from __future__ import annotations

from pathlib import Path


def chapters_in(folder: Path) -> list[Path]:
    """Return the chapters in ``folder``, in the order of the book.

    A chapter is a notebook whose name starts with two digits and an underscore: ``01_train.ipynb``.
    """
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))
