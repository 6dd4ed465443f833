"""Execute notebooks, each in a fresh kernel that starts in the notebook's own folder.

    python site/execute.py [NOTEBOOK ...]     store the outputs of a clean run in the notebooks; all of them by default

A notebook that fails keeps what it held; the others are still executed, and the exit code is 1.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets import default

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SECONDS_PER_CELL = 900

# Which Python ran a notebook is no part of it: it would change with every reader.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(KernelSpecManager):
    """Finds one kernel, whatever its name: the Python that runs this file. The user's own kernels play no part."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class ThisPythonManager(AsyncKernelManager):
    """Starts that kernel."""

    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return ThisPython()


class NotebookFailed(Exception):
    """A cell raised, took too long, or killed its kernel. The message says which cell and why."""


def prepare_environment() -> None:
    """Set what every kernel inherits: this checkout's package, no progress bars, figures drawn into the notebook."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in conftest.py: fast on a busy machine, too
    os.environ.pop("MPLBACKEND", None)


def execute(path: Path) -> NotebookNode:
    """The notebook with the outputs of a clean run, its cells counted from 1.

    Raises:
        NotebookFailed: names the cell, by its count, and the error.
    """
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    started: list[NotebookNode] = []
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_manager_class=ThisPythonManager,
        extra_arguments=["--log-level=ERROR"],  # it would warn of its own unencrypted connection to this very machine
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: started.append(cell),
        coalesce_streams=True,
        record_timing=False,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise NotebookFailed(f"cell [{len(started)}]: {error.ename}: {error.evalue}".rstrip(": ")) from error
    except Exception as error:  # a time limit, a dead kernel: nbclient has many, and none may stop the other notebooks
        raise NotebookFailed(f"cell [{len(started)}]: {type(error).__name__}: {error}") from error
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def write(path: Path, content: str | bytes) -> None:
    """Write a file that other programs see either as it was or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(paths: list[Path]) -> int:
    prepare_environment()
    failed = 0
    for path in paths or [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted(NOTEBOOKS.glob("solutions/*.ipynb"))]:
        print(f"  {os.path.relpath(path):<46}", end="", flush=True)
        start = time.perf_counter()
        try:
            write(path, nbformat.writes(execute(path)) + "\n")
            print(f"{time.perf_counter() - start:4.0f} s", flush=True)
        except NotebookFailed as error:
            failed += 1
            print(f"FAILED at {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
