"""The rule for which notebooks are chapters, and the lists of them on the web pages."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from cnnprune_utils.book.chapters import chapters_in

NAMES = ["01_one", "02_two", "09_nine", "10_deeper", "11_more", "12_last"]


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A folder of twelve chapters, some missing, with an appendix and things that are not chapters."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    for name in reversed(NAMES):
        for path in (folder / f"{name}.ipynb", folder / "solutions" / f"{name}.ipynb"):
            nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(f"# {name}\n\n*A promise.*")]), path)
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# Runs")]), folder / "appendix_runs.ipynb")
    for name in ("draft.ipynb", "1_early.ipynb", "2024.ipynb", "01_one.py"):
        (folder / name).touch()
    return folder


def listed(page: Path) -> list[str]:
    """The pages in the directive ``toctree`` of a page."""
    (block,) = re.findall(r"```{toctree}\n(?:[:].*\n)*\n(.*?)\n```", page.read_text(), flags=re.DOTALL)
    return block.splitlines()


def test_chapters_begin_with_two_digits(notebooks: Path) -> None:
    assert [path.stem for path in chapters_in(notebooks)] == NAMES


def test_chapter_10_follows_chapter_9(notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "site")
    pages = importlib.import_module("pages")
    monkeypatch.setattr(pages, "NOTEBOOKS", notebooks)
    gathered = tmp_path / "gathered"
    pages.gather(pages.chapters_of(notebooks), gathered, {})
    assert listed(gathered / "_chapters.md") == [*NAMES, "appendix_runs"]
    assert listed(gathered / "_solutions.md") == NAMES
    entries = re.findall(r"^\*\*\[(.*)\]\(\1\.ipynb\)\*\*$", (gathered / "_chapters.md").read_text(), re.MULTILINE)
    assert entries == NAMES
    for name in NAMES:
        assert (gathered / f"{name}.ipynb").exists()
        assert (gathered / "solutions" / f"{name}.ipynb").exists()


def test_every_chapter_has_a_solution() -> None:
    folder = Path(__file__).parents[1] / "notebooks"
    chapters = chapters_in(folder)
    assert [path.name for path in chapters] == [path.name for path in chapters_in(folder / "solutions")]
    assert [int(path.name[:2]) for path in chapters] == [*range(1, len(chapters) + 1)]
