"""The names of cnnprune_utils and cnnprune_utils.book, which load only the modules that are used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import cnnprune_utils
from cnnprune_utils import book
from cnnprune_utils.criteria import CRITERIA

PACKAGES = pytest.mark.parametrize("package", [cnnprune_utils, book], ids=["package", "book"])


@PACKAGES
def test_every_public_name_is_there_and_listed(package) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


@PACKAGES
def test_a_public_name_is_that_of_its_module(package) -> None:
    for name, module in package._HOMES.items():
        assert getattr(package, name) is getattr(import_module(f"{package.__name__}.{module}"), name)
    assert set(package.__all__) - {"__version__", "checks", "diagrams", "plots"} == package._HOMES.keys()


def test_no_public_name_is_a_module() -> None:
    modules = {path.stem for path in Path(cnnprune_utils.__file__).parent.iterdir()}
    assert modules & set(cnnprune_utils.__all__) == set()


def test_every_criterion_is_public() -> None:
    for name, criterion in CRITERIA.items():
        assert name in cnnprune_utils.__all__, f"add {name} to cnnprune_utils/__init__.py"
        assert getattr(cnnprune_utils, name) is criterion


@PACKAGES
def test_an_unknown_name_is_an_attribute_error(package) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'tailor'"):
        _ = package.tailor


def test_the_version_is_the_installed_one() -> None:
    assert cnnprune_utils.__version__ == version("cnnprune-utils")


@pytest.mark.parametrize(
    "code",
    [
        "import cnnprune_utils; dir(cnnprune_utils)",
        "from cnnprune_utils.book import CLASS_NAMES",
        "import cnnprune_utils.files",
        "from cnnprune_utils.command.cli import main; main(['--help'])",
        "from cnnprune_utils.command.cli import main; main(['run', '--help'])",
    ],
)
def test_pytorch_is_loaded_when_it_is_needed(code: str) -> None:
    if "command" in code:
        pytest.importorskip("jsonargparse")
    ends = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", ends + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
