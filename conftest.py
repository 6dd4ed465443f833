"""Settings that every test and every notebook kernel inherits. The data of the tests is in tests/conftest.py.

With --nbval the kernels are held to the memory that Binder gives; the files that take longest come first.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile

ROOT = Path(__file__).resolve().parent
APPENDIX = ROOT / "notebooks" / "appendix_mlflow.ipynb"

LIMIT_MB = 1500  # of one kernel: Binder gives 2 GB, and JupyterLab needs some of it, too

# The files that take longest. Two workers end at about the same time when they begin with these.
LONGEST = [
    "10_a_deeper_network.ipynb",
    "05_fine_tune.ipynb",
    "test_browser.py",
    "test_types.py",
    "07_the_papers_loop.ipynb",
    "01_train.ipynb",
    "test_command_tracking.py",
    "test_command_cli.py",
    "09_ways_it_goes_wrong.ipynb",
    "test_site.py",
    "test_loop.py",
    "test_metrics.py",
]

# Progress bars are for a person who watches; here they would be compared, as outputs to stderr. It is read when tqdm is
# imported, which tests/conftest.py does.
os.environ["TQDM_DISABLE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    # The kernels import the package of this checkout, also from an environment that another checkout shares.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Threads that wait for each other sleep instead of spinning: on a busy machine that is several times faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A kernel draws into its notebook, unless this variable says otherwise; the tests draw nowhere.
    os.environ.pop("MPLBACKEND", None)
    matplotlib.use("agg")
    # nbval looks the file up from where pytest was typed, which may be a folder below.
    if config.getoption("nbval_sanitize_with", None):
        config.option.nbval_sanitize_with = str(ROOT / config.option.nbval_sanitize_with)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the appendix without MLflow, which nothing else needs."""
    if find_spec("mlflow") is None:
        for item in items:
            if item.path == APPENDIX:
                item.add_marker(pytest.mark.skip(reason="MLflow is not installed"))
    last = {item.parent: n for n, item in enumerate(items) if isinstance(item, IPyNbCell)}
    for notebook, n in reversed(last.items()):
        items[n + 1 : n + 1] = claims_of(notebook)
    places = {ROOT / folder / name: n for n, name in enumerate(LONGEST) for folder in ("tests", "notebooks")}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))  # in a file, the order stays


def claims_of(notebook: IPyNbFile) -> list[IPyNbCell]:
    """What the text of a notebook claims: tests/claims/<its name>.py runs behind its last cell, in the same kernel."""
    path = ROOT / "tests" / "claims" / f"{notebook.path.stem}.py"
    if notebook.path.parent != ROOT / "notebooks" or not path.is_file():
        return []
    cell = new_code_cell(path.read_text(encoding="utf-8"))
    number = sum(cell.cell_type == "code" for cell in notebook.nb.cells)
    return [IPyNbCell.from_parent(notebook, name="claims", cell_num=number, cell=cell, options=defaultdict(bool))]


def peak_mb(pid: int) -> float:
    """The most memory that a process has held (1 MB: 1,000,000 bytes), also of what it gave back; 0 if nobody knows."""
    status = Path(f"/proc/{pid}/status")  # Linux keeps it
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A cell after which its notebook's kernel has held more memory than Binder has fails."""
    yield
    if isinstance(item, IPyNbCell):
        peak = peak_mb(item.parent.kernel.km.provisioner.pid)
        assert peak < LIMIT_MB, f"the kernel has held {peak:.0f} MB, and {LIMIT_MB} MB is the limit"
