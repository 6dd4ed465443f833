"""The types, as `python -m mypy` checks them. Here, so that they are checked while other tests run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["pyproject.toml", "tests/mypy.ini"])
def test_types_agree(config: str) -> None:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file", config]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr
