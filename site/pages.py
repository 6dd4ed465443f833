"""Build the book's web pages from the notebooks and their stored outputs.

    python site/pages.py     into build/html; nothing is executed

Every warning is an error: the old pages stay, and the exit code is 1. If nothing has changed since the last build,
nothing is done.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import nbformat
from execute import INTERRUPTED, NOTEBOOKS, ROOT, WIDGET, listen, without_widgets
from nbformat import NotebookNode

from cnnprune_utils.book.chapters import chapters_in
from cnnprune_utils.files import fingerprint, write

SITE = ROOT / "site"
TOOLS = ("sphinx", "myst-nb", "sphinx-book-theme", "pydata-sphinx-theme", "latex2mathml", "jsonargparse")
MODULE = """{module}
{line}

.. automodule:: cnnprune_utils.{module}
   :members:
"""
TOCTREE = """
```{{toctree}}
{options}

{pages}
```
"""
FAILED = """# {title}

This chapter did not run to its end:

{fence}text
{error}
{fence}

Fix it, and build the book again.
"""


class PagesFailed(Exception):
    """Sphinx reported a warning or an error. The message is its report."""


def opening(notebook: NotebookNode) -> tuple[str, str]:
    """Return the title of a notebook and the paragraph below it, both in Markdown."""
    paragraphs = [part.strip() for part in notebook.cells[0].source.split("\n\n") if part.strip()] + ["", ""]
    title, _, rest = paragraphs[0].partition("\n")
    promise = rest.strip() or paragraphs[1]
    return title.lstrip("# "), "" if promise.startswith(("#", "-", "|")) else promise


def entry(notebook: Path) -> str:
    """Return the entry of a chapter on the first page: its title, as a link, and its promise."""
    title, promise = opening(nbformat.read(notebook, as_version=4))
    return f"**[{title}]({notebook.name})**\n: {' '.join(promise.split()).strip('*') or title}\n"


def toctree(pages: Iterable[str], *options: str) -> str:
    """Return the directive that adds these pages to the navigation, in this order."""
    return TOCTREE.format(options="\n".join(options), pages="\n".join(pages))


def modules() -> list[str]:
    """Return the names of the modules that get a page: the package's and the book's, and the board as one."""
    files = [path.stem for path in ROOT.glob("cnnprune_utils/[!_]*.py")]
    book = [f"book.{path.stem}" for path in ROOT.glob("cnnprune_utils/book/[!_]*.py")]
    folders = [path.parent.name for path in ROOT.glob("cnnprune_utils/*/__init__.py")]
    return sorted({*files, *book, *folders} - {"book", "command"})


def copy_notebook(notebook: Path, to: Path) -> None:
    """Copy a notebook, with the text in place of widgets that JupyterLab stored. Without widgets it is unchanged."""
    content = notebook.read_bytes()
    if WIDGET.encode() in content:
        without = nbformat.reads(content.decode(), as_version=4)
        without_widgets(without)
        content = f"{nbformat.writes(without)}\n".encode()
    write(to, content)


def gather(chapters: Mapping[str, Path], source: Path, failed: Mapping[str, str]) -> None:
    """Fill the source folder of Sphinx: the pages of site/, the chapters, their solutions, a page per module.

    Args:
        chapters: name -> notebook of each chapter.
        source: the folder to fill; its content is removed first.
        failed: name -> error of each chapter that failed, shown in its place.
    """
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SITE, source, ignore=shutil.ignore_patterns("*.py", "*.sh", "extensions", "_*", ".*"))
    entries = []
    for name, notebook in chapters.items():
        entries.append(entry(notebook).replace(".ipynb", ".md" if name in failed else ".ipynb"))
        if name in failed:
            title, _ = opening(nbformat.read(notebook, as_version=4))
            # an error may hold any sign of Markdown, a fence too
            fence = "`" * (2 + max(map(len, re.findall("`+", failed[name])), default=1))
            write(source / f"{name}.md", FAILED.format(title=title, error=failed[name], fence=fence))
        else:
            copy_notebook(notebook, source / f"{name}.ipynb")
    write(source / "_chapters.md", "\n".join([*entries, toctree(chapters, ":caption: Chapters", ":hidden:")]))
    solutions = chapters_in(NOTEBOOKS / "solutions")
    for notebook in solutions:
        copy_notebook(notebook, source / "solutions" / notebook.name)
    write(source / "_solutions.md", toctree([notebook.stem for notebook in solutions], ":titlesonly:"))
    for module in modules():
        write(source / "api" / f"{module}.rst", MODULE.format(module=module, line="=" * len(module)))
    for picture in ROOT.glob("data/*.png"):
        shutil.copy(picture, source / picture.name)


def made_of(source: Path) -> Iterator[str | bytes]:
    """Yield all sources of the pages: the gathered files, the site's own, the package, the tools' versions."""
    yield repr([os.environ.get("REPOSITORY"), *map(version, TOOLS)])
    folders = [(source, "*"), (SITE, "*"), (ROOT / "cnnprune_utils", "*"), (ROOT, "CITATION.cff")]
    for folder, pattern in folders:
        for path in sorted(folder.rglob(pattern) if folder != ROOT else folder.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(folder).as_posix()
                yield path.read_bytes()


def run_sphinx(source: Path, into: Path, doctrees: Path, *, strict: bool) -> None:
    """Build all pages.

    Raises:
        PagesFailed: Sphinx failed; with ``strict``, also for a warning.
    """
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fresh-env", "--quiet", "--jobs", "1"]
    command += ["--conf-dir", str(SITE), "--doctree-dir", str(doctrees), *(["--fail-on-warning"] if strict else [])]
    run = subprocess.run([*command, str(source), str(into)], capture_output=True, text=True, check=False)
    if run.returncode:
        # a line of the gathered copy is a line of the file that it was copied from
        report = re.sub(rf"{re.escape(str(source))}/?", "", (run.stdout + run.stderr).strip())
        raise PagesFailed(report or f"Sphinx stopped with exit code {run.returncode} and said nothing.")


def build(chapters: Mapping[str, Path], into: Path, failed: Mapping[str, str]) -> bool:
    """Build the site into a folder, whole or not at all. Return False if it was up to date.

    Raises:
        PagesFailed: Sphinx reported a warning or an error, or the folder is a link, which is not followed.
    """
    if into.is_symlink():
        raise PagesFailed(f"{into} is a link, and pages replace folders only: remove it.")
    work = ROOT / "build" / "pages" / into.name
    gather(chapters, work / "source", failed)
    made_from, now = work / "made_from", fingerprint(made_of(work / "source"))
    if (into / "index.html").exists() and made_from.exists() and made_from.read_text() == now:
        return False
    for folder in (work / "html", work / "doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    made_from.unlink(missing_ok=True)
    run_sphinx(work / "source", work / "html", work / "doctrees", strict=not failed)
    into.parent.mkdir(parents=True, exist_ok=True)
    if into.exists():
        shutil.rmtree(into)
    shutil.move(work / "html", into)
    write(made_from, now)
    return True


def chapters_of(folder: Path) -> dict[str, Path]:
    """Return name -> notebook of the chapters and appendices in a folder, in the order of the book."""
    return {path.stem: path for path in [*chapters_in(folder), *sorted(folder.glob("appendix_*.ipynb"))]}


def main(into: Path) -> int:
    try:
        built = build(chapters_of(NOTEBOOKS), into, {})
    except PagesFailed as error:
        print(f"{error}\nThe pages are not built. {into} is as it was.", file=sys.stderr)
        return 1
    state = "ready" if built else "up to date"
    print(f"The book's pages are {state}. Open them in a browser:\n  {(into / 'index.html').resolve()}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(usage="python site/pages.py").parse_args()
    listen()
    try:
        sys.exit(main(ROOT / "build" / "html"))
    except KeyboardInterrupt:
        print("\nInterrupted. The pages that were there are as they were.", file=sys.stderr)
        sys.exit(INTERRUPTED)
