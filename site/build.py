"""Execute the chapters, and build the book's web pages from their outputs.

    python site/build.py     into build/book

A chapter is executed again only when it, the package or a file that it reads is newer than its last run, which is
kept in build/executed. One that fails is named with its cell; the others are still built, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
from execute import INTERRUPTED, NOTEBOOKS, ROOT, NotebookFailed, execute, listen, prepare_environment
from pages import PagesFailed, build, chapters_of

from cnnprune_utils.files import write

EXECUTED = ROOT / "build" / "executed"


def is_current(result: Path, sources: Iterable[Path]) -> bool:
    """Return whether the result exists and is newer than all of its sources."""
    return result.exists() and all(source.stat().st_mtime < result.stat().st_mtime for source in sources)


def run_chapter(source: Path, result: Path) -> str:
    """Execute one chapter, keep its notebook, and return its time and number of figures, in words.

    Raises:
        NotebookFailed: names the cell and the error. The result of an earlier run is removed.
    """
    start = time.perf_counter()
    try:
        notebook = execute(source)
    except NotebookFailed:
        result.unlink(missing_ok=True)
        raise
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    n_figures = sum("image/png" in output.get("data", {}) for output in outputs)
    result.parent.mkdir(parents=True, exist_ok=True)
    write(result, nbformat.writes(notebook) + "\n")
    return f"{time.perf_counter() - start:.0f} s, {n_figures} figure{'s' * (n_figures != 1)}"


def main(into: Path) -> int:
    prepare_environment()
    stored = [*ROOT.glob("cnnprune_utils/book/checkpoints/*"), *ROOT.glob("cnnprune_utils/book/studies/*.csv")]
    shared = [*ROOT.glob("cnnprune_utils/**/*.py"), *stored, ROOT / "site/execute.py"]
    chapters, failed = {}, {}
    for name, source in chapters_of(NOTEBOOKS).items():
        print(f"  {name:<22}", end="", flush=True)
        chapters[name] = EXECUTED / source.name
        try:
            current = is_current(chapters[name], [source, *shared])
            print("up to date" if current else run_chapter(source, chapters[name]), flush=True)
        except NotebookFailed as error:
            print(f"FAILED at {error}", flush=True)
            chapters[name], failed[name] = source, str(error)
    try:
        build(chapters, into, failed)
    except PagesFailed as error:
        print(f"{error}\nThe pages are not built. {into} is as it was.", file=sys.stderr)
        return 1
    if not chapters or failed:
        n_built = len(chapters) - len(failed)
        print(f"The book is not complete: {n_built} of {len(chapters)} chapters ran. They are in {into.resolve()}")
        return 1
    print(f"The book is ready. Open it in a browser:\n  {(into / 'index.html').resolve()}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(usage="python site/build.py").parse_args()
    listen()
    try:
        sys.exit(main(ROOT / "build" / "book"))
    except KeyboardInterrupt:
        print("\nInterrupted. The chapters that ran are kept: the same command goes on from here.", file=sys.stderr)
        sys.exit(INTERRUPTED)
