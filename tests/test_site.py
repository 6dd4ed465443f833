"""How the book is executed: into pages, and in place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parents[1]
# the smallest PNG there is: one grey point
POINT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the tools and no chapters yet, in a folder whose name has a space."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "site", root / "site")
    (root / "notebooks" / "solutions").mkdir(parents=True)
    return root


def write(path: Path, *sources: str, opening: str = "# A title\n\nA promise. Go to [two](02_two.ipynb#end).") -> None:
    """A notebook of one text and some code cells, said to be made with a kernel that nobody has."""
    cells = [v4.new_markdown_cell(opening), *map(v4.new_code_cell, sources)]
    kernel = {"name": "nobody-has-this", "display_name": "", "language": "python"}
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"site/{script}.py", *arguments]
    environment = {**os.environ, "MPLBACKEND": "agg", "TQDM_DISABLE": ""}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_a_chapter_that_fails_is_named_with_its_cell_and_the_others_are_built(checkout: Path) -> None:
    chapters, book = checkout / "notebooks", checkout / "build" / "book"
    show = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{POINT}'))"
    write(chapters / "01_one.ipynb", show)
    write(chapters / "02_two.ipynb", "1", "raise ValueError('no such filter')")
    write(chapters / "03_three.ipynb", "import os\nos._exit(1)")
    write(chapters / "solutions" / "01_one.ipynb", "this is not executed")

    first = run(checkout, "build")
    assert first.returncode == 1
    assert first.stderr == ""
    assert "02_two                FAILED at cell [2]: ValueError: no such filter\n" in first.stdout
    assert "03_three              FAILED at cell [1]: DeadKernelError" in first.stdout
    assert first.stdout.splitlines()[-1].startswith("The book is not complete: 1 of 3 chapters ran.")
    assert (book / "figures" / "01_one-1.png").read_bytes().startswith(b"\x89PNG")
    assert not (book / "02_two.html").exists()

    # mended: what was built is not built again
    write(chapters / "02_two.ipynb", "print(21 * 2)")
    (chapters / "03_three.ipynb").unlink()
    second = run(checkout, "build")
    assert second.returncode == 0
    lines = second.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["01_one", "up"], ["02_two", lines[1].split()[1]]]
    assert lines[1].endswith(" s, 0 figures")
    assert lines[-1].strip() == str(book / "index.html")

    index, page = (book / "index.html").read_text(), (book / "01_one.html").read_text()
    assert '<a href="01_one.html">A title</a>' in index
    assert "A promise." in index
    assert 'src="figures/01_one-1.png"' in index
    assert 'href="02_two.html#end"' in page
    assert POINT[:40] in page
    assert "42" in (book / "02_two.html").read_text()
    assert (book / "solutions" / "01_one.html").exists()


def test_the_only_thing_a_page_asks_of_the_network_is_its_formulas(checkout: Path) -> None:
    write(checkout / "notebooks" / "01_one.ipynb", "1")
    assert run(checkout, "build").returncode == 0
    page = (checkout / "build" / "book" / "01_one.html").read_text()
    asked = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert [address for address in asked if "mathjax" not in address and not address.startswith("data:")] == []
    assert "http" not in (checkout / "build" / "book" / "index.html").read_text()


def test_outputs_are_stored_from_one_clean_run_or_not_at_all(checkout: Path) -> None:
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
    assert cells[0]["metadata"] == {}
    assert stored["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }

    # the same again, to the byte
    stored_bytes = good.read_bytes()
    assert run(checkout, "execute", "notebooks/01_one.ipynb").returncode == 0
    assert good.read_bytes() == stored_bytes
