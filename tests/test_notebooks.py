"""The rules for every notebook of the book, checked in its file. `pytest --nbval` executes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
from jupyter_server.services.contents.filemanager import FileContentsManager
from nbformat import NotebookNode

from cnnprune_utils.book.chapters import chapters_in

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHAPTERS = [path.name for path in chapters_in(NOTEBOOKS)]
APPENDIX = "appendix_mlflow.ipynb"
ALL = [*CHAPTERS, *(f"solutions/{name}" for name in CHAPTERS), APPENDIX]
LONGEST_CELL = 22  # lines
TIMINGS = re.compile(r"latency|perf_counter|seconds")

# What differs from one machine or day to another, and so is in no output that is compared.
PATH = re.compile(r"(?<![\w<./])(?:/[\w.-]+){2,}|\b[A-Z]:\\")
LOCAL = {
    "a version": re.compile(r"(?<![\w.])\d+\.\d+\.\d+(?![\w.])"),
    "a date": re.compile(r"\b\d{4}-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b"),
    "a device": re.compile(r"\b(?:cuda|mps)\b|device\(type="),
    "a number of threads": re.compile(r"\bthreads\b"),
    "an address in memory": re.compile(r"\b0x[0-9a-f]{6,}\b"),
}

# A question of one line, and below it an answer that opens with a click.
FOLDED = r".+\?\n\n   <details><summary>Answer</summary>\n\n(?:   .+\n)+\n   </details>\n"

every_notebook = pytest.mark.parametrize("name", ALL)
every_chapter = pytest.mark.parametrize("name", CHAPTERS)
every_page = pytest.mark.parametrize("name", [*CHAPTERS, APPENDIX])


@cache
def read(name: str) -> NotebookNode:
    assert (NOTEBOOKS / name).is_file(), f"notebooks/{name} is missing"
    return nbformat.read(NOTEBOOKS / name, as_version=nbformat.NO_CONVERT)


def code_cells(name: str) -> list[NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code" and cell.source.strip()]


def ignores_output(cell: NotebookNode) -> bool:
    return "NBVAL_IGNORE_OUTPUT" in cell.source or "nbval-ignore-output" in cell.metadata.get("tags", [])


def texts(cell: NotebookNode) -> list[str]:
    """Return the text of a cell's outputs, HTML included."""
    shown = []
    for output in cell.outputs:
        shown.append(output.get("text", ""))
        shown += [data for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return shown


def test_every_notebook_has_a_place_in_the_book() -> None:
    found = {path.relative_to(NOTEBOOKS).as_posix() for path in NOTEBOOKS.rglob("*.ipynb")}
    assert {name for name in found if ".ipynb_checkpoints" not in name} == set(ALL)


@every_notebook
def test_notebooks_are_valid_and_have_ids(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [
        cell.get("id") for cell in json.loads((NOTEBOOKS / name).read_text())["cells"]
    ]  # nbformat mends what it reads
    assert None not in ids
    assert len(set(ids)) == len(ids)


@every_notebook
def test_notebooks_name_the_common_kernel(name: str) -> None:
    metadata = read(name).metadata
    assert metadata.kernelspec.name == "python3"
    assert "version" not in metadata.get("language_info", {}), "store outputs with `make outputs`"


@every_notebook
def test_outputs_come_from_one_clean_run(name: str) -> None:
    cells = code_cells(name)
    assert cells
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make outputs`"


@every_notebook
def test_outputs_have_no_errors_and_no_widgets(name: str) -> None:
    assert "widgets" not in read(name).metadata
    for cell in code_cells(name):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source
            assert not [kind for kind in output.get("data", {}) if "widget" in kind], cell.source


@every_notebook
def test_cells_fit_a_screen(name: str) -> None:
    assert [cell.source for cell in code_cells(name) if len(cell.source.splitlines()) > LONGEST_CELL] == []


@every_notebook
def test_only_timings_are_not_compared(name: str) -> None:
    for cell in code_cells(name):
        marks = cell.source + " ".join(cell.metadata.get("tags", [])).upper().replace("-", "_")
        for mark in ("NBVAL_SKIP", "NBVAL_RAISES_EXCEPTION", "RAISES_EXCEPTION"):
            assert mark not in marks, cell.source
        if ignores_output(cell):
            assert TIMINGS.search(cell.source), f"its output is ignored, and it times nothing:\n{cell.source}"


@every_notebook
def test_outputs_name_no_machine(name: str) -> None:
    for cell in code_cells(name):
        for text in texts(cell):
            assert not PATH.search(text), f"a path, {PATH.search(text)}, in the output of\n{cell.source}"
            for what, pattern in LOCAL.items():
                found = not ignores_output(cell) and pattern.search(text)
                assert not found, f"{what}, {found}, in the output of\n{cell.source}"


@every_notebook
def test_no_link_or_import_leaves_the_checkout(name: str) -> None:
    folder = (NOTEBOOKS / name).parent
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)\s#]+)", cell.source):
                if not re.match(r"https?:|attachment:|mailto:", target):
                    assert (folder / target).exists(), f"{target} is linked, and is not there"


@every_page
def test_chapters_open_with_title_and_goals(name: str) -> None:
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" and cell.source.startswith("# ") for cell in cells) == 1
    assert any("you will be able to" in cell.source.lower() for cell in cells[:5])


@every_page
def test_chapters_assert_their_claims(name: str) -> None:
    """In tests/claims, which runs behind the last cell of the chapter."""
    claims = Path(__file__).parent / "claims" / f"{Path(name).stem}.py"
    assert re.search(r"^assert\b", claims.read_text(encoding="utf-8"), flags=re.MULTILINE)


@every_chapter
def test_chapters_end_with_three_exercises(name: str) -> None:
    prose = "\n\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    headings = list(re.finditer(r"^#{1,3} .*\bexercises\b.*$", prose, flags=re.MULTILINE | re.IGNORECASE))
    assert len(headings) == 1
    exercises = prose[headings[0].end() :]
    numbers = re.findall(r"^(?:#+ )?(?:\*\*)?(?:Exercise )?(\d)[.:)]", exercises, flags=re.MULTILINE)
    assert numbers == ["1", "2", "3"]
    assert f"solutions/{name}" in exercises


@every_chapter
def test_chapters_ask_six_questions(name: str) -> None:
    prose = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^## (.+)$", "\n\n".join(prose), flags=re.MULTILINE)
    assert headings[-3:] == ["Recap", "Check your understanding", "Exercises"]
    (section,) = [source for source in prose if source.startswith("## Check your understanding")]
    questions = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    assert re.findall(r"^(\d)\. ", section, flags=re.MULTILINE) == list("123456")
    for question in questions:  # the empty lines and the indentation keep Markdown alive inside the HTML
        assert re.fullmatch(FOLDED, question.strip() + "\n"), question


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name != "06_compare.ipynb"])
def test_only_chapter_6_measures_on_test_data(name: str) -> None:
    """Validation decides, test reports once. Looking at the test images, or counting them, decides nothing."""
    measured = re.compile(r"\b(?:evaluate|predict|compare|taylor|oracle|fit|gate_gradients)\([^)]*\.test\b")
    assert [cell.source for cell in code_cells(name) if measured.search(cell.source)] == []


def test_without_mlflow_the_appendix_is_skipped(tmp_path: Path) -> None:
    conftest = (NOTEBOOKS.parent / "conftest.py").read_text()
    assert conftest.count('find_spec("mlflow")') == 1
    (tmp_path / "conftest.py").write_text(conftest.replace('find_spec("mlflow")', "None"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / APPENDIX).write_bytes((NOTEBOOKS / APPENDIX).read_bytes())
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--rootdir", ".", "notebooks"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"{len(code_cells(APPENDIX))} skipped in" in run.stdout.splitlines()[-1], run.stdout + run.stderr


@every_notebook
def test_no_cell_is_empty(name: str) -> None:
    assert [i for i, cell in enumerate(read(name).cells) if not cell.source.strip()] == []


@pytest.mark.parametrize("name", ALL)
def test_saving_it_in_jupyterlab_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))  # where the server notes which it trusts
    file = Path(shutil.copy(NOTEBOOKS / name, tmp_path))
    server = FileContentsManager(root_dir=str(tmp_path))
    server.save(server.get(file.name), file.name)
    assert file.read_bytes() == (NOTEBOOKS / name).read_bytes()
