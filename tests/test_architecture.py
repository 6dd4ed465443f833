"""ARCHITECTURE.md, CONTRIBUTING.md and the API pages are true: modules, who imports whom, files, commands, names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import cnnprune_utils
from cnnprune_utils import book
from cnnprune_utils.criteria import CRITERIA

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cnnprune_utils"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def order() -> list[str]:
    """The modules in the rows of the page's table, from top to bottom."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text("ARCHITECTURE.md").partition("## Where a change goes")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


ORDER = order()


def modules() -> set[str]:
    """Their names below the package, such as batches and command.cli."""
    files = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    return {".".join(file.parts) for file in files}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run: what stands under ``if TYPE_CHECKING`` imports nothing."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from statements(child)


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, at its top or inside a function."""
    found: set[str] = set()
    parents = ("cnnprune_utils", *module.split(".")[:-1])
    for node in statements(ast.parse(text(f"cnnprune_utils/{module.replace('.', '/')}.py"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix("cnnprune_utils.") for name in names if name.startswith("cnnprune_utils.")}
    return found & modules()


def test_the_page_names_every_module_once() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == modules()


def test_the_picture_has_the_order_of_the_table() -> None:
    (picture,) = re.findall(r"```text\n(.*?)```", text("ARCHITECTURE.md"), re.DOTALL)
    left = " ".join(re.split(r"\s{3,}", line.strip())[0] for line in picture.splitlines())
    core = [name for name in ORDER if "." not in name]
    assert [name for name in left.split() if re.fullmatch(r"\w+", name)] == core


EXCEPTION = {("saving", "book.cnn")}


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_from_above(module: str) -> None:
    below = imports(module) - set(ORDER[: ORDER.index(module)])
    assert {(module, name) for name in below} <= EXCEPTION


def test_the_core_knows_nothing_of_the_book() -> None:
    core = [module for module in ORDER if "." not in module]
    assert {(module, name) for module in core for name in imports(module) if "." in name} == EXCEPTION


def test_the_exception_is_inside_a_function() -> None:
    top = ast.parse(text("cnnprune_utils/saving.py")).body
    assert not any(isinstance(node, ast.ImportFrom) and node.module == "book.cnn" for node in top)


def test_board_and_command_are_independent() -> None:
    for module in ORDER:
        other = {"board": "command", "command": "board"}.get(module.partition(".")[0])
        assert not {name for name in imports(module) if name.partition(".")[0] == other}


def test_imports_inside_functions_count() -> None:
    assert {"saving", "book.cnn", "command.folder", "command.predictions"} <= imports("command.cli")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_and_names_on_the_page_exist(page: str) -> None:
    content = text(page)
    for path in re.findall(r"(?<![\w/.])((?:[\w.-]+/)+[\w.-]*|\w+\.(?:py|md|cfg|toml))(?![\w/*])", content):
        homes = [ROOT, PACKAGE, PACKAGE / "command"]
        made = ("build/", ".venv/")
        assert path.startswith(made) or any((home / path).exists() for home in homes), f"{page}: there is no {path}"
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*PACKAGE.rglob("*.py"), ROOT / "Makefile"])
    for name in re.findall(r"`(_?[A-Z_]{4,})`", content):
        assert re.search(rf"^{name}\b", source, re.MULTILINE), f"{page}: there is no {name}"


def test_every_command_for_contributors_exists() -> None:
    content = text("CONTRIBUTING.md")
    targets = set(re.findall(r"^([a-z]+):.*## ", text("Makefile"), re.MULTILINE))
    assert {"test", "outputs", "html"} <= set(re.findall(r"(?:^|`)make ([a-z]+)", content, re.MULTILINE)) <= targets
    for name in re.findall(r"-m ([a-z_.]+)", content):
        assert find_spec(name) is not None, f"there is no module {name}"
    for file, words in re.findall(r"(tests/\w+\.py) -k (\w+)", content):
        assert re.search(rf"^def test_\w*{words}", text(file), re.MULTILINE)


@pytest.mark.parametrize("package", [cnnprune_utils, book], ids=["package", "book"])
def test_the_api_pages_have_every_public_name(package: object) -> None:
    """A criterion is in CRITERIA, and on the page of its module."""
    page, prefix = text("site/api/index.md"), "book." if package is book else ""
    for name, home in package._HOMES.items():
        assert f"({prefix}{home}.rst)" in page, f"{home} is not linked"
        assert name in CRITERIA or f"`{name}`" in page, f"{name} is not listed"
