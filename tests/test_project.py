"""What holds the repository together: its commands, the order of its modules, its citation; and it stands alone."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cnnprune_utils"

# The flow of the book. A module imports only from those before it, so there are no circles.
ORDER = [
    "files",
    "batches",
    "training_state",
    "training",
    "plan",
    "nodes",
    "channels",
    "structure",
    "gates",
    "criteria",
    "surgery",
    "book.cnn",
    "saving",
    "metrics",
    "loop_state",
    "loop",
    "choice",
    "exhaustive",
    "book.apt",
    "book.fetch",
    "book.fashion_mnist",
    "book.shipped",
    "book.plots",
    "board.facts",
    "board.page",
    "board.pictures",
    "board.widget",
    "command.groups",
    "command.settings",
    "command.parsing",
    "command.folder",
    "command.observer",
    "command.served",
    "command.store",
    "command.console",
    "command.tracking",
    "command.ui",
    "command.figures",
    "command.work",
    "command.steps",
    "command.image_files",
    "command.pictures",
    "command.options",
    "command.cli",
    "command.__main__",
]


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


def modules() -> set[str]:
    """Their names below the package, such as batches and command.cli."""
    files = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    return {".".join(file.parts) for file in files}


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, at its top or inside a function."""
    found: set[str] = set()
    parents = ("cnnprune_utils", *module.split(".")[:-1])
    for node in ast.walk(ast.parse(text(f"cnnprune_utils/{module.replace('.', '/')}.py"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix("cnnprune_utils.") for name in names if name.startswith("cnnprune_utils.")}
    return found & modules()


def test_the_order_names_every_module() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert modules() == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_before_it(module: str) -> None:
    assert imports(module) <= set(ORDER[: ORDER.index(module)])


def test_the_package_does_without_the_book_except_to_load_its_network() -> None:
    core = [module for module in ORDER if "." not in module]
    of_book = {(module, name) for module in core for name in imports(module) if name.startswith("book.")}
    assert of_book == {("saving", "book.cnn")}


def test_the_order_sees_the_imports_of_a_module_in_a_folder_too() -> None:
    assert {"saving", "book.cnn", "command.folder", "command.pictures"} <= imports("command.cli")


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
