"""How the book is executed and its pages are built; what the pages look like in a browser is in test_browser.py."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import nbformat
import psutil
import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parents[1]
OPENING = "# One\n\n*A promise.*"
# the smallest PNG there is: one grey point
POINT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own for one test."""
    return new_checkout(tmp_path)


def new_checkout(folder: Path) -> Path:
    """A checkout with the tools, no package and no chapters yet, in a folder whose name has a space."""
    root = folder / "a checkout"
    shutil.copytree(ROOT / "site", root / "site", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CITATION.cff", root)
    for page in ("api/index.md", "command.md"):  # without package and appendix there is little to say of them
        (root / "site" / page).write_text("# A page\n")
    (root / "notebooks" / "solutions").mkdir(parents=True)
    write(root / "notebooks" / "solutions" / "01_one.ipynb", "this is not executed", opening="# Solutions")
    return root


def write(path: Path, *sources: str, opening: str = "# A title\n\n*A promise.*\n\nGo to [two](02_two.ipynb).") -> None:
    """A notebook of one text and some code cells, said to be made with a kernel that nobody has."""
    described = {"mystnb": {"image": {"alt": "one grey point"}}}
    cells = [v4.new_markdown_cell(opening), *(v4.new_code_cell(source, metadata=described) for source in sources)]
    kernel = {"name": "nobody-has-this", "display_name": "", "language": "python"}
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a chapter and its pages, for the tests to copy."""
    root = new_checkout(tmp_path_factory.mktemp("first"))
    write(root / "notebooks" / "01_one.ipynb", "1", opening=f"{OPENING}\n\nA formula, $a_k \\times 2$.")
    built = run(root, "pages", REPOSITORY="")
    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout.startswith("The book's pages are ready.")
    return root


@pytest.fixture
def built(first: Path, tmp_path: Path) -> Path:
    """A checkout with a chapter and its pages."""
    return Path(shutil.copytree(first, tmp_path / "a built checkout"))


def run(checkout: Path, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"site/{script}.py", *arguments]
    environment = {**os.environ, "MPLBACKEND": "agg", "TQDM_DISABLE": "", **variables}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def stopped(checkout: Path, script: str, number: signal.Signals, *, once_there_are: list[Path]) -> tuple[str, str]:
    """What a run said, and what it complained of, when it was stopped by a signal as soon as files were there."""
    command = [sys.executable, f"site/{script}.py"]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not all(path.exists() and path.read_text() for path in once_there_are):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(number)
        said, complaint = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, complaint
    return said, complaint


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_chapter_that_fails_is_named_with_its_cell(checkout: Path) -> None:
    """The others are built."""
    chapters, book = checkout / "notebooks", checkout / "build" / "book"
    show = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{POINT}'))"
    write(chapters / "01_one.ipynb", show)
    error = "no such filter\n# <b>5</b>\n```\n[6](7.md)"  # what Markdown would read otherwise
    write(chapters / "02_two.ipynb", "1", f"raise ValueError({error!r})", opening="# Two")
    write(chapters / "03_three.ipynb", "import os\nos._exit(1)", opening="# Three")

    first = run(checkout, "build")
    assert first.returncode == 1
    assert first.stderr == ""
    assert "02_two                FAILED at cell [2]: ValueError: no such filter\n" in first.stdout
    assert "03_three              FAILED at cell [1]: DeadKernelError" in first.stdout
    assert first.stdout.splitlines()[-1].startswith("The book is not complete: 1 of 3 chapters ran.")
    page, failed = (book / "01_one.html").read_text(), (book / "02_two.html").read_text()
    assert 'alt="one grey point"' in page
    assert "This chapter did not run" in failed
    assert html.escape(error) in failed

    # mended: what ran is not run again
    write(chapters / "02_two.ipynb", "print(21 * 2)", opening="# Two")
    (chapters / "03_three.ipynb").unlink()
    second = run(checkout, "build")
    assert (second.returncode, second.stderr) == (0, "")
    lines = second.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["01_one", "up"], ["02_two", lines[1].split()[1]]]
    assert lines[1].endswith(" s, 0 figures")
    assert lines[-1].strip() == str(book / "index.html")

    index = (book / "index.html").read_text()
    assert "A promise." in index
    assert 'href="02_two.html"' in index
    assert 'href="02_two.html"' in (book / "01_one.html").read_text()
    assert "42" in (book / "02_two.html").read_text()
    assert (book / "solutions" / "01_one.html").exists()
    assert not (book / "03_three.html").exists()
    assert nbformat.read(chapters / "02_two.ipynb", as_version=4).cells[1].outputs == []  # a run stores nothing in it


def test_without_mlflow_the_appendix_is_named(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "notebooks" / "01_one.ipynb", "1", opening="# One\n\nGo to [the appendix](appendix_mlflow.ipynb).")
    write(checkout / "notebooks" / "appendix_mlflow.ipynb", "import mlflow", opening="# Runs")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['mlflow'] = None\n")
    result = run(checkout, "build", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert "appendix_mlflow       FAILED at cell [1]: ModuleNotFoundError" in result.stdout
    assert "This chapter did not run" in (checkout / "build" / "book" / "appendix_mlflow.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "a polite kill"])
def test_a_stopped_run_leaves_no_kernel_and_goes_on(checkout: Path, number: signal.Signals) -> None:
    """Two chapters run at once; what is ready is kept, and the chapter after them is not begun."""
    chapters, pids = checkout / "notebooks", [checkout / name for name in ("second", "third", "fourth")]
    write(chapters / "01_one.ipynb", "1")
    for i, pid in enumerate(pids, start=2):
        code = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
        write(chapters / f"0{i}_one.ipynb", code)
    said, complaint = stopped(checkout, "build", number, once_there_are=pids[:2])
    assert "Traceback" not in complaint
    assert complaint.strip().endswith("The chapters that ran are kept: the same command goes on from here.")
    assert [is_alive(int(pid.read_text())) for pid in pids[:2]] == [False, False]
    assert said.split()[0] == "01_one"
    assert len(said.splitlines()) == 1
    assert not pids[2].exists()

    if number == signal.SIGINT:  # what goes on does not depend on it
        for i in (2, 3, 4):
            (chapters / f"0{i}_one.ipynb").unlink()
        write(chapters / "02_two.ipynb", "1")
        assert run(checkout, "build").stdout.split()[:2] == ["01_one", "up"]


def test_stopped_pages_leave_no_process_and_the_old_pages(built: Path) -> None:
    page, pid = built / "build" / "html" / "01_one.html", built / "pid"
    before = page.read_bytes()
    with (built / "site" / "conf.py").open("a") as settings:
        settings.write(f"\nimport time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    _, complaint = stopped(built, "pages", signal.SIGTERM, once_there_are=[pid])
    assert complaint.strip() == "Interrupted. The pages that were there are as they were."
    assert not is_alive(int(pid.read_text()))
    assert page.read_bytes() == before


def test_a_warning_leaves_the_pages_that_were_there(built: Path) -> None:
    chapter, pages = built / "notebooks" / "01_one.ipynb", built / "build" / "html"
    before = (pages / "01_one.html").read_bytes()
    assert b"<math" in before
    write(chapter, "1", opening=f"{OPENING}\n\nA formula, $\\nonsense 2$, and [nowhere](nowhere.ipynb).")
    broken = run(built, "pages")
    assert broken.returncode == 1
    assert r"\nonsense is not known" in broken.stderr
    assert "nowhere.ipynb" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (built / "build" / "pages" / "html" / "made_from").exists()  # and again: a warning is not forgotten
    assert (pages / "01_one.html").read_bytes() == before


@pytest.mark.parametrize("script", ["pages", "build"])
def test_pages_go_to_one_folder_and_through_no_link(checkout: Path, tmp_path: Path, script: str) -> None:
    """Nothing but build/html and build/book is ever replaced."""
    write(checkout / "notebooks" / "01_one.ipynb", "1", opening="# One\n\n*A promise.*")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("of mine")
    assert "unrecognized arguments" in run(checkout, script, str(mine)).stderr
    into = checkout / "build" / {"pages": "html", "build": "book"}[script]
    into.parent.mkdir()
    into.symlink_to(mine)
    refused = run(checkout, script)
    assert refused.returncode == 1
    assert f"{into} is a link" in refused.stderr
    assert [path.name for path in mine.iterdir()] == ["letter"]


def test_binder_is_one_setting(built: Path) -> None:
    """Without it there is no button; with it, pages that were up to date are built again."""
    page = built / "build" / "html" / "01_one.html"
    assert "mybinder" not in page.read_text()
    assert run(built, "pages", REPOSITORY="").stdout.startswith("The book's pages are up to date.")
    assert run(built, "pages", REPOSITORY="https://github.com/someone/a-book").returncode == 0
    binder = "https://mybinder.org/v2/gh/someone/a-book/main?urlpath=lab/tree/notebooks/"
    assert f"{binder}01_one.ipynb" in page.read_text()
    assert f"{binder}solutions/01_one.ipynb" in (page.parent / "solutions" / "01_one.html").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_figure_says_in_its_cell_what_it_shows(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 60, (
                f"a figure without a description (metadata mystnb: {{image: {{alt}}}}):\n{cell.source}"
            )


def test_a_widget_is_stored_as_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "site")
    execute = importlib.import_module("execute")
    data = {
        "text/plain": "Board(14 gates)",
        "application/vnd.jupyter.widget-view+json": {"model_id": "not twice the same"},
    }
    notebook = v4.new_notebook(
        cells=[v4.new_code_cell(outputs=[v4.new_output("display_data", data=data)])], metadata={"widgets": {}}
    )
    execute.without_widgets(notebook)
    assert notebook.cells[0].outputs[0].data == {"text/plain": "Board(14 gates)"}
    assert "widgets" not in notebook.metadata


def test_the_pages_show_a_widget_as_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "site")
    pages = importlib.import_module("pages")
    monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path)
    (tmp_path / "solutions").mkdir()
    view = {"text/plain": "Board(14 gates)", "application/vnd.jupyter.widget-view+json": {"model_id": "of this kernel"}}
    cell = v4.new_code_cell(outputs=[v4.new_output("display_data", data=view)])
    for name in ("01_one.ipynb", "solutions/01_one.ipynb"):
        nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# One"), cell]), tmp_path / name)
    write(tmp_path / "02_two.ipynb", "1")
    pages.gather(pages.chapters_of(tmp_path), tmp_path / "gathered", {})
    for name in ("01_one.ipynb", "solutions/01_one.ipynb"):
        stored = nbformat.read(tmp_path / "gathered" / name, as_version=4)
        assert stored.cells[1].outputs[0].data == {"text/plain": "Board(14 gates)"}
    # nothing is built again for a notebook that is the same
    assert (tmp_path / "gathered" / "02_two.ipynb").read_bytes() == (tmp_path / "02_two.ipynb").read_bytes()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_solution_begins_with_its_question(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^## Exercise (\d)\n\n(.+?)(?=\n\n|\Z)", prose, re.MULTILINE | re.DOTALL)
    assert [number for number, _ in exercises] == ["1", "2", "3"]
    assert [text for _, text in exercises if not re.fullmatch(r"\*[^*].*[^*]\*", text, re.DOTALL)] == []


@pytest.fixture
def mathml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "site" / "extensions")
    return importlib.import_module("mathml")


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        ("16{,}384", "<mn>16,384</mn>"),
        ("= -0.46", '<mo form="prefix">−</mo>'),
        ("a - b", "<mo>−</mo>"),
        (r"\ln 2", '<mi>ln</mi><mspace width="0.17em" /><mn>2</mn>'),
        (r"\ln(1 + a)", "<mi>ln</mi><mo"),
        (r"\Theta", '<mi mathvariant="normal">Θ</mi>'),
        (r"\left| \sum_m z_m \right|", "<munder><mo>∑</mo><mi>m</mi></munder>"),
        (
            "2(a)^2",
            '<msup><mrow><mo stretchy="false">(</mo><mi>a</mi><mo stretchy="false">)</mo></mrow><mn>2</mn></msup>',
        ),
        (r"\sqrt{n}", '<msqrt><mspace width="0" height="0.78em" depth="0.1em" /><mrow><mi>n</mi></mrow></msqrt>'),
        ("|a|", '<mo stretchy="false" form="prefix" lspace="0" rspace="0">|</mo><mi>a</mi>'),
    ],
)
def test_a_formula_is_spaced_as_tex_would(mathml: ModuleType, tex: str, part: str) -> None:
    assert part in mathml.mathml(tex)


@pytest.mark.parametrize("tex", [r"\nonsense", r"\frac{1}", r"\left( x", "a $ b"])
def test_a_formula_that_cannot_be_read_is_refused(mathml: ModuleType, tex: str) -> None:
    with pytest.raises(mathml.FormulaError):
        mathml.mathml(tex)


def test_the_font_of_the_formulas_has_every_sign(mathml: ModuleType) -> None:
    woff2 = (ROOT / "site" / "_static" / "fonts" / "math.woff2").read_bytes()
    assert woff2.startswith(b"wOF2")
    assert len(woff2) < 100_000
    signs = set((ROOT / "site" / "_static" / "fonts" / "signs.txt").read_text().split("\n")[0])
    for path in (ROOT / "notebooks").rglob("[0-9]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            formulas = re.findall(r"(\$\$?)([^$]+)\1", cell.source if cell.cell_type == "markdown" else "")
            for _, tex in formulas:
                used = set("".join(ElementTree.fromstring(mathml.mathml(tex)).itertext()))
                assert used <= signs | {" ", "\u00a0"}, f"{path.name}: {tex} needs {used - signs}"


def test_outputs_are_of_one_clean_run_or_not_stored(checkout: Path) -> None:
    good, bad = checkout / "notebooks" / "01_one.ipynb", checkout / "notebooks" / "solutions" / "01_one.ipynb"
    lines = [
        "import os, sys",
        "from tqdm import tqdm",
        "print(sum(tqdm([14])))",
        "print(os.path.basename(os.getcwd()))",
        "print('MPLBACKEND' in os.environ and 'inline' in os.environ['MPLBACKEND'])",
    ]
    write(good, "\n".join(lines), "", "len('four')")
    write(bad, "1", "1 / 0")
    before = bad.read_bytes()

    result = run(checkout, "execute")
    assert result.returncode == 1
    assert "solutions/01_one.ipynb" in result.stdout
    assert result.stdout.rstrip().endswith("FAILED at cell [2]: ZeroDivisionError: division by zero")
    assert bad.read_bytes() == before
    assert sorted(path.name for path in (checkout / "notebooks").iterdir()) == ["01_one.ipynb", "solutions"]

    stored = json.loads(good.read_text())
    cells = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [1, None, 2]
    assert cells[0]["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["14\n", "notebooks\n", "True\n"]},
    ]
    assert cells[0]["metadata"] == {"mystnb": {"image": {"alt": "one grey point"}}}  # what was there, and no more
    assert stored["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }

    # the same again, to the byte
    stored_bytes = good.read_bytes()
    assert run(checkout, "execute", "notebooks/01_one.ipynb").returncode == 0
    assert good.read_bytes() == stored_bytes
