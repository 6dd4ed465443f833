"""The differences between outputs that notebooks/nbval_sanitize.cfg lets pass, and those that it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from nbval.plugin import get_sanitize_patterns

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ROOT / "notebooks" / "nbval_sanitize.cfg"


def sanitized(text: str) -> str:
    for regex, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="ascii")):
        text = re.sub(regex, replacement, text)
    return text


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("loss 0.8712", "loss 0.8698"),
        ("accuracy 89.97 %", "accuracy 90.03 %"),
        ("9.99 ms", "10.01 ms"),
        ("change -0.0003", "change 0.0002"),
        ("change +0.12", "change \u22120.12"),
        ("1,999.5 points", "2,000.5 points"),
        ("difference 9.5e-07", "difference 1.2e-06"),
        ("difference 1e-07", "difference 3e-08"),
        ("0.8712000250816345", "0.871199886"),
        ("2.3841858e-07", "0.0000000e+00"),
        ("tensor([ 0.0012, -0.3000])", "tensor([0.0013, 0.3000])"),
        ("<td>-0.000301</td>", "<td>0.000301</td>"),
        (
            "       layer   score  rank\n0  network.0 -0.0003     1",
            "       layer  score  rank\n0  network.0 0.0004     1",
        ),
    ],
)
def test_values_and_signs_of_decimals_pass(stored: str, new: str) -> None:
    assert sanitized(stored) == sanitized(new)


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("63,122 parameters", "63,123 parameters"),
        ("filters (1, 2, 5)", "filters (1, 2, 4)"),
        ("(3,0.5)", "(2,0.5)"),
        ("rank 3 score 0.5", "rank 4 score 0.5"),
        ("-1", "1"),
        ("network.0", "network.2"),
        ("features.0.1 0.25", "features.0.2 0.25"),
        ("layer1.0.conv2 0.25", "layer1.0.conv1 0.25"),
        ("0.871", "0.87"),
        ("0.871", "1"),
        ("1.", "2."),
        ("nan", "0.5"),
        ("1.5e-07", "0.1"),
        ("a b", "ab"),
        ("0.5\n0.5", "0.5 0.5"),
        ("torch.Size([5000, 1, 28, 28])", "torch.Size([5000, 1, 28, 27])"),
    ],
)
def test_everything_else_is_compared(stored: str, new: str) -> None:
    assert sanitized(stored) != sanitized(new)


def notebook(source: str, stored: str) -> str:
    """A notebook with one cell, the output it is said to have printed, and a kernel that nobody has."""
    cell = v4.new_code_cell(source, execution_count=1, outputs=[v4.new_output("stream", name="stdout", text=stored)])
    kernel = {"name": "nobody-has-this", "display_name": "", "language": "python"}
    return nbformat.writes(v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}))


def test_nbval_compares_strictly(tmp_path: Path) -> None:
    """With this Python as the kernel, the checkout's own package, no progress bars, and figures drawn."""
    for name in ("tests", "notebooks", "cnnprune_utils"):
        (tmp_path / name).mkdir()
    for name in ("pyproject.toml", "conftest.py", "notebooks/nbval_sanitize.cfg"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "cnnprune_utils" / "__init__.py").write_text("WHERE = 'this checkout'\n")
    lines = [
        "import sys, matplotlib.pyplot as plt",
        "from tqdm import tqdm",
        "from cnnprune_utils import WHERE",
        "print(WHERE, sys.prefix, 'inline' in plt.get_backend(), sum(tqdm([14])), 0.25)",
    ]
    for name, n in (("good", 14), ("wrong", 15)):
        stored = f"this checkout {sys.prefix} True {n} 0.75\n"
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(notebook("\n".join(lines), stored))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval"],
        cwd=tmp_path / "notebooks",  # below the root, where the sanitize file must be found too
        env={**os.environ, "MPLBACKEND": "agg", "TQDM_DISABLE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "wrong.ipynb::Cell 0" in run.stdout
