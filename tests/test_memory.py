"""The book fits into Binder, which gives 2 GB of memory."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from benchmarks.memory import ROOT, measure

LIMIT_MB = 1500  # of one kernel; JupyterLab needs some memory, too
HEAVIEST = ["03_filter_ranks", "05_fine_tune", "09_ways_it_goes_wrong"]  # `make bench` shows all of them


@pytest.mark.parametrize("chapter", HEAVIEST)
def test_the_heaviest_chapters_stay_inside_binders_memory(chapter: str) -> None:
    assert measure(ROOT / "notebooks" / f"{chapter}.ipynb")["peak_mb"] < LIMIT_MB


def notebook(folder: Path, code: str) -> Path:
    path = folder / "one_cell.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), path)
    return path


def test_the_peak_is_the_kernels_own_also_of_memory_that_it_gave_back(tmp_path: Path) -> None:
    held_here = b"x" * 500_000_000  # by the parent, and in no kernel
    peak = measure(notebook(tmp_path, "large = b'x' * 300_000_000\ndel large"))["peak_mb"]
    assert 300 < peak < 450
    assert len(held_here) > 0


def test_a_notebook_that_fails_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^one_cell\.ipynb does not run: .*cell \[1\]: KeyError: 'this one'$"):
        measure(notebook(tmp_path, "raise KeyError('this one')"))
