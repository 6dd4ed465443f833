"""What holds the repository together: its commands, its README, its citation; and it stands alone."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

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


def test_ci_runs_the_two_commands_of_the_readme_in_their_order() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", text("README.md"), flags=re.MULTILINE | re.DOTALL)
    book, test = (block.strip() for block in blocks[:2])
    script = [line for line in text(".ci/run").splitlines() if line and not line.startswith("#")]
    assert script[0] == "set -euo pipefail"
    assert script[1].startswith("cd ")
    assert script[2:] == [book, test] == ["make book", "make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_readme_is_finished_lists_the_chapters_and_links_only_to_what_is_there() -> None:
    readme = text("README.md")
    assert re.findall(r"<!--.*", readme) == []
    assert re.findall(r"\]\(notebooks/(\d\d)_\w+\.ipynb\)", readme) == [f"0{n}" for n in range(1, 10)]
    for target in re.findall(r"\]\(([^)\s#]+)", readme):
        assert re.match(r"https?:", target) or (ROOT / target).exists(), f"{target} is linked, and is not there"


def test_the_project_stands_alone() -> None:
    """Nothing in it reads or names a folder outside of it, or of one person's machine."""
    outside = re.compile(r"\.\./" + "shared" + r"|(?<![\w.:/])/(?:home|root|Users)/\w")
    kinds = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".cfg", ".cff", ".sh", ".txt", ".html", ""}
    for path in project_files():
        if path.suffix in kinds:
            found = outside.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path.relative_to(ROOT)} names {found and found.group()}"


def test_the_citation_has_what_a_reference_needs_and_the_papers_too() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "references"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "MIT"
    assert citation["version"] == tomllib.loads(text("pyproject.toml"))["project"]["version"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Molchanov", "Tyree", "Karras", "Aila", "Kautz"]
    assert paper["year"] == 2017
    assert paper["identifiers"][0]["value"] == "arXiv:1611.06440"


def test_the_hosted_workflow_runs_the_same_two_commands() -> None:
    steps = yaml.safe_load(text(".github/workflows/book.yml"))["jobs"]["book"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make book", "make test"]
