"""The book fits into Binder, which gives 2 GB of memory: every notebook's run is held to it, in conftest.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from benchmarks.memory import ROOT, measure


def notebook(folder: Path, code: str) -> Path:
    path = folder / "one_cell.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the peak of a process that runs")
@pytest.mark.parametrize(("limit", "outcome"), [(200, "1 failed"), (1500, "1 passed")])
def test_a_kernel_that_takes_too_much_fails_its_cell(tmp_path: Path, limit: int, outcome: str) -> None:
    path = notebook(tmp_path, "large = b'x' * 300_000_000\ndel large")
    (tmp_path / "lower.py").write_text(f"import conftest\nconftest.LIMIT_MB = {limit}\n")
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import pytest"]
    command[-1] += "; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-p", "conftest", "-p", "lower", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--nbval"]
    run = subprocess.run([*command, *options, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome in run.stdout.splitlines()[-1], run.stdout + run.stderr
    assert ("the kernel has held" in run.stdout) == (outcome == "1 failed")


def test_the_peak_is_the_kernels_own(tmp_path: Path) -> None:
    """Of no other process, and also of memory that it gave back."""
    held_here = b"x" * 500_000_000
    peak = measure(notebook(tmp_path, "large = b'x' * 300_000_000\ndel large"))["peak_mb"]
    assert 300 < peak < 450
    assert len(held_here) > 0


def test_a_notebook_that_fails_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^one_cell\.ipynb does not run: .*cell \[1\]: KeyError: 'this one'$"):
        measure(notebook(tmp_path, "raise KeyError('this one')"))
