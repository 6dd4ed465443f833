"""Settings that every test and every notebook kernel inherits. The data of the tests is in tests/conftest.py."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent
APPENDIX = ROOT / "notebooks" / "appendix_mlflow.ipynb"

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
