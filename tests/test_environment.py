"""One list of requirements for pip, conda and Binder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from cnnprune_utils.book import fashion_mnist

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

# What conda-forge calls a package that has another name there.
CONDA_NAMES = {
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
    "docstring-parser": "docstring_parser",
}


def named(requirement: str) -> tuple[str, str]:
    """A requirement as its name and its bounds: "torch>=2.6" is ("torch", ">=2.6")."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", requirement.replace(" ", "")).groups()
    return name, bounds


def test_conda_has_the_bounds_of_pyproject() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = dict(map(named, [*PROJECT["dependencies"], *extras["book"], *extras["command"]]))
    conda = dict(named(entry) for entry in CONDA["dependencies"] if isinstance(entry, str))
    assert conda.pop("pip") == ""
    conda.pop("python")
    assert conda == {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}


def test_conda_has_a_python_that_pip_allows() -> None:
    (python,) = (str(entry).partition("=")[2] for entry in CONDA["dependencies"] if str(entry).startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)


@pytest.fixture(scope="module")
def binder() -> str:
    """Return the log and the Dockerfile of repo2docker, which Binder uses, for this checkout. Nothing is built."""
    run = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr + run.stdout


def test_binder_builds_the_conda_environment(binder: str) -> None:
    assert re.search(r'env update -p \S+ --file "environment.yml"', binder)
    # `-e .` needs the package, so the repository must be there before the environment is made
    assert binder.index("COPY --chown=0:0 src/") < binder.index('--file "environment.yml"')


def test_binder_fetches_the_data_while_it_builds(binder: str, tmp_path: Path) -> None:
    """With a python that only writes down what it is asked to run."""
    assert "./postBuild" in binder
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    subprocess.run([ROOT / "postBuild"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    assert calls.read_text() == f"-m {fashion_mnist.__name__}\n"


def test_missing_requirements_are_found(tmp_path: Path) -> None:
    """An environment without packages misses all of them; this one misses none, or these tests would not run."""
    script = ROOT / "site" / "missing.py"
    here = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert here.stdout == ""
    bare = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True, check=True)
    extras = PROJECT["optional-dependencies"]
    wanted = {*extras["book"], *extras["command"], *extras["test"]}
    assert set(bare.stdout.split()) == {*PROJECT["dependencies"], *wanted, PROJECT["name"]}
