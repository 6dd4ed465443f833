"""Continuous integration, README and citation of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cnnprune_utils.book.chapters import chapters_in

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project_files() -> list[Path]:
    """The files that belong to the project: what git knows or would take, else everything that is not hidden."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not re.search(r"/(\.|build/)", str(path))]


@pytest.mark.parametrize("fails", ["", "book"])
def test_ci_runs_book_then_test(tmp_path: Path, fails: str) -> None:
    """With a make that only writes down its target."""
    make, calls = tmp_path / "make", tmp_path / "calls"
    make.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" != "{fails}" ]\n')
    make.chmod(0o755)
    run = subprocess.run([ROOT / ".ci" / "run"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    assert calls.read_text().split() == (["book"] if fails else ["book", "test"])
    assert (run.returncode == 0) is (not fails)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", text("README.md")):
        assert re.match(r"https?:", target) or (ROOT / target).exists(), f"{target} is linked, and does not exist"


def test_the_readme_lists_every_chapter() -> None:
    linked = re.findall(r"^\| \[.*\]\((notebooks/.*\.ipynb)\)", text("README.md"), flags=re.MULTILINE)
    assert [ROOT / name for name in linked] == chapters_in(ROOT / "notebooks")


def test_no_file_names_a_home_folder() -> None:
    """A path of one person's machine works nowhere else."""
    outside = re.compile(r"(?<![\w.:/])/(?:home|root|Users)/\w")
    kinds = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".cfg", ".cff", ".sh", ".txt", ".html", ""}
    for path in project_files():
        if path.suffix in kinds:
            found = outside.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path.relative_to(ROOT)} names {found and found.group()}"


@pytest.mark.parametrize(
    ("schema", "file"),
    [("citation-file-format", "CITATION.cff"), ("github-workflows", ".github/workflows/book.yml")],
)
def test_the_file_keeps_to_its_schema(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / file]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_citation_has_this_version() -> None:
    assert (
        yaml.safe_load(text("CITATION.cff"))["version"] == tomllib.loads(text("pyproject.toml"))["project"]["version"]
    )
