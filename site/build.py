"""Execute the chapters, and build the book's web pages from their outputs.

    python site/build.py     into build/book

A chapter is executed again only when it, the package or a file that it reads is newer than its last run, which is
kept in build/executed. As many run at once as the variable WORKERS says, two by default, and share the processors. One
that fails is named with its cell; the others are still built, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from execute import INTERRUPTED, NOTEBOOKS, ROOT, NotebookFailed, execute, listen, prepare_environment, stop_all
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


def run_chapters(chapters: Mapping[str, tuple[Path, Path]], workers: int) -> Iterator[tuple[str, str, bool]]:
    """Execute chapters, so many at once. Yields each one's name as it ends, what to say of it, and whether it failed.

    Args:
        chapters: (source, result) of each, by its name.
        workers: how many at once. Each gets its share of the processors, unless OMP_NUM_THREADS says otherwise.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(run_chapter, *paths): name for name, paths in chapters.items()}
        try:
            for run in as_completed(running):
                try:
                    yield running[run], run.result(), False
                except NotebookFailed as error:
                    yield running[run], str(error), True
        except BaseException:  # an interruption, wherever it comes
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise


def main(into: Path, workers: int) -> int:
    prepare_environment()
    stored = [*ROOT.glob("cnnprune_utils/book/checkpoints/*"), *ROOT.glob("cnnprune_utils/book/studies/*.csv")]
    shared = [*ROOT.glob("cnnprune_utils/**/*.py"), *stored, ROOT / "site/execute.py"]
    sources = chapters_of(NOTEBOOKS)
    chapters = {name: EXECUTED / source.name for name, source in sources.items()}
    to_run, failed = {}, {}
    for name, source in sources.items():
        if is_current(chapters[name], [source, *shared]):
            print(f"  {name:<22}up to date", flush=True)
        else:
            to_run[name] = source, chapters[name]
    for name, said, has_failed in run_chapters(to_run, workers):
        print(f"  {name:<22}{'FAILED at ' * has_failed}{said}", flush=True)
        if has_failed:
            chapters[name], failed[name] = sources[name], said
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
        sys.exit(main(ROOT / "build" / "book", int(os.environ.get("WORKERS") or 2)))
    except KeyboardInterrupt:
        print("\nInterrupted. The chapters that ran are kept: the same command goes on from here.", file=sys.stderr)
        sys.exit(INTERRUPTED)
