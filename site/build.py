"""Execute the chapters and write each as a web page, with its figures as PNG files and an index.

    python site/build.py [FOLDER]     build/book by default

A chapter is executed again only when it, the package or a file that it reads is newer than its page. One that fails
is named with its cell; the others are still built, and the exit code is 1.
"""

from __future__ import annotations

import base64
import html
import re
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import nbformat
from execute import NOTEBOOKS, ROOT, NotebookFailed, execute, prepare_environment, write
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

TITLE = "Pruning filters with the Taylor criterion"

# The exporter's own page, less the scripts from the network that the book does not use. MathJax remains: without a
# connection a page shows its formulas as they are typed.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 17px/1.5 system-ui, sans-serif; color: #222; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
ul {{ list-style: none; padding: 0; }} li {{ border-top: 1px solid #ccc; padding: 1rem 0; overflow: auto; }}
h2 {{ font-size: 1.2rem; margin: 0; }} img {{ float: right; max-width: 12rem; max-height: 9rem; margin-left: 1rem; }}
p {{ margin: .4rem 0; }} small {{ color: #595959; }}
</style></head><body><h1>{title}</h1><ul>
{chapters}
</ul></body></html>
"""


def is_current(result: Path, sources: Iterable[Path]) -> bool:
    """Whether the result exists and is newer than everything it was made from."""
    return result.exists() and all(source.stat().st_mtime < result.stat().st_mtime for source in sources)


def figures(notebook: NotebookNode) -> Iterator[bytes]:
    """Every figure of an executed notebook as the content of a PNG file, in the order of the cells."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                yield base64.b64decode(output["data"]["image/png"])


def opening(notebook: NotebookNode) -> tuple[str, str]:
    """The title of a notebook and the paragraph below it, both in Markdown."""
    paragraphs = [part.strip() for part in notebook.cells[0].source.split("\n\n") if part.strip()] + ["", ""]
    title, _, rest = paragraphs[0].partition("\n")
    promise = rest.strip() or paragraphs[1]
    return title.lstrip("# "), "" if promise.startswith(("#", "-", "|")) else promise


def with_links_to_pages(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook whose links to other notebooks lead to their pages."""
    linked: NotebookNode = nbformat.from_dict(notebook)
    for cell in linked.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\]\([^)\s:]+)\.ipynb(#[^)\s]*)?\)", r"\1.html\2)", cell.source)
    return linked


def write_page(notebook: NotebookNode, source: Path, page: Path) -> None:
    """Write a notebook as one web page."""
    templates = [DictLoader({"page.html.j2": PAGE})]
    exporter = HTMLExporter(extra_loaders=templates, template_file="page.html.j2", embed_images=True)
    exporter.log.setLevel("ERROR")  # it warns of every figure that has no description
    # embedded images are looked up from the notebook's folder
    resources = {"metadata": {"name": opening(notebook)[0], "path": str(source.parent)}}
    write(page, exporter.from_notebook_node(with_links_to_pages(notebook), resources)[0])


def build_chapter(source: Path, into: Path) -> str:
    """Execute one chapter; write its notebook, its figures and its page. Returns what the run took, in words."""
    start = time.perf_counter()
    notebook = execute(source)
    pictures = list(figures(notebook))
    notebook.metadata["run"] = (
        f"{time.perf_counter() - start:.0f} s, {len(pictures)} figure{'s' * (len(pictures) != 1)}"
    )
    for old in into.glob(f"figures/{source.stem}-*.png"):
        old.unlink()
    for n, picture in enumerate(pictures, start=1):
        write(into / "figures" / f"{source.stem}-{n}.png", picture)
    write(into / source.name, nbformat.writes(notebook) + "\n")
    write_page(notebook, source, into / f"{source.stem}.html")  # last: a page says that the whole chapter is there
    return str(notebook.metadata["run"])


def write_index(names: list[str], into: Path) -> Path:
    """Write the page that lists the chapters: title, the sentence below it, first figure, what the run took."""
    entries = []
    for name in names:
        notebook = with_links_to_pages(nbformat.read(into / f"{name}.ipynb", as_version=4))
        title, promise = opening(notebook)
        picture = f'<img src="figures/{name}-1.png" alt="">' if any(True for _ in figures(notebook)) else ""
        entries.append(
            f'<li>{picture}<h2><a href="{name}.html">{html.escape(title)}</a></h2>'
            f"{markdown2html(promise)}<small>{notebook.metadata['run']}</small></li>"
        )
    write(into / "index.html", INDEX.format(title=TITLE, chapters="\n".join(entries)))
    return into / "index.html"


def main(into: Path) -> int:
    prepare_environment()
    chapters = sorted(NOTEBOOKS.glob("0*.ipynb"))
    if find_spec("mlflow") is not None:
        chapters += sorted(NOTEBOOKS.glob("appendix_*.ipynb"))
    stored = [*ROOT.glob("data/checkpoints/*.safetensors"), *ROOT.glob("data/studies/*.csv")]
    shared = [*ROOT.glob("cnnprune_utils/**/*.py"), *stored, *ROOT.glob("site/*.py")]
    built = []
    for source in chapters:
        print(f"  {source.stem:<22}", end="", flush=True)
        current = is_current(into / f"{source.stem}.html", [source, *shared])
        try:
            print("up to date" if current else build_chapter(source, into), flush=True)
            built.append(source.stem)
        except NotebookFailed as error:
            print(f"FAILED at {error}", flush=True)
    for source in sorted(NOTEBOOKS.glob("solutions/*.ipynb")):  # with the outputs they hold: the tests execute them
        page = into / "solutions" / f"{source.stem}.html"
        if not is_current(page, [source, *ROOT.glob("site/*.py")]):
            write_page(nbformat.read(source, as_version=4), source, page)
    index = write_index(built, into).resolve()
    if not chapters or len(built) < len(chapters):
        print(f"The book is not complete: {len(built)} of {len(chapters)} chapters ran. They are in {index.parent}")
        return 1
    print(f"The book is ready. Open it in a browser:\n  {index}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "book"))
