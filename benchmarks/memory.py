"""Wall time and peak memory of a chapter's kernel: ``python -m benchmarks.memory NOTEBOOK`` prints both as JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .timing import timed

ROOT = Path(__file__).resolve().parents[1]


def measure(notebook: Path) -> dict[str, float]:
    """Return ``seconds`` and ``peak_mb`` (1,000,000 bytes) of the notebook's kernel, newly started.

    In a process of its own, whose only child is the kernel: the system keeps the peak of the largest child.

    Raises:
        RuntimeError: the notebook fails; the message says at which cell and why.
    """
    command = [sys.executable, "-m", "benchmarks.memory", str(notebook.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{notebook.name} does not run: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def table(notebooks: Iterable[Path]) -> pd.DataFrame:
    """Return a row per notebook: its kernel's seconds and peak memory."""
    measured = {notebook.stem: measure(notebook) for notebook in notebooks}
    return pd.DataFrame.from_dict(measured, orient="index").rename_axis("chapter")


def main(notebook: str) -> None:
    sys.path.insert(0, str(ROOT / "site"))
    from execute import execute, prepare_environment  # the module that also makes the book's outputs

    prepare_environment()
    _, seconds = timed(lambda: execute(Path(notebook)))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1e6}))


if __name__ == "__main__":
    main(sys.argv[1])
