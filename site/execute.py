"""Execute notebooks, each in a fresh kernel that starts in the notebook's own folder.

    python site/execute.py [NOTEBOOK ...]     store the outputs of a clean run in the notebooks; all of them by default

A notebook that fails keeps what it held; the others are still executed, and the exit code is 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets import default

from cnnprune_utils.files import write

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SECONDS_PER_CELL = 900
INTERRUPTED = 130  # the exit code after Ctrl-C or SIGTERM
WIDGET = "application/vnd.jupyter.widget-view+json"

# The Python that ran a notebook is not stored: it would change with every reader.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(KernelSpecManager):
    """Finds the Python that runs this file, whatever the name of the kernel; the user's kernels are ignored."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class ThisPythonManager(AsyncKernelManager):
    """Starts that kernel."""

    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return ThisPython()


class StoppableClient(NotebookClient):
    """Ends the kernel and the run on Ctrl-C or SIGTERM; nbclient ends the kernel only, and reports a failure.

    Only a program's first thread hears signals: it stops what runs in others with :func:`stop_all`.
    """

    stopped = False
    stop_calls: ClassVar[set[Callable[[], object]]] = set()  # of those that run
    ended = threading.Event()  # no other may begin

    def stop(self, task: asyncio.Task[Any]) -> None:
        self.stopped = True
        self.shutdown_kernel = "immediate"  # a kernel that computes does not answer a request to stop
        task.cancel()

    async def async_start_new_kernel(self, **kwargs: Any) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        if in_first_thread():  # here because nbclient sets handlers of its own right before
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop, task)
        else:
            stop = partial(loop.call_soon_threadsafe, self.stop, task)
            self.stop_calls.add(stop)
            task.add_done_callback(lambda _: self.stop_calls.discard(stop))
            if self.ended.is_set():
                self.stop(task)
        await super().async_start_new_kernel(**kwargs)


def stop_all() -> None:
    """End what runs in other threads, and what would begin there."""
    StoppableClient.ended.set()
    for stop in list(StoppableClient.stop_calls):
        stop()


def in_first_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class NotebookFailed(Exception):
    """A cell raised, took too long, or killed its kernel. The message names the cell and the reason."""


def listen() -> None:
    """Make SIGTERM end this program as Ctrl-C does: with KeyboardInterrupt, so that no child process is left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def without_widgets(notebook: NotebookNode) -> None:
    """Replace widgets by their text: they do not work without a kernel, and their ids differ in each run."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)


def prepare_environment() -> None:
    """Set the variables that kernels inherit: this checkout's package, no progress bars, figures in the notebook."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in conftest.py: fast on a busy machine, too
    os.environ.pop("MPLBACKEND", None)


def execute(path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a clean run, its cells counted from 1.

    Raises:
        NotebookFailed: names the cell, by its count, and the error.
        KeyboardInterrupt: Ctrl-C, SIGTERM, or :func:`stop_all`; the kernel has ended.
    """
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    started: list[NotebookNode] = []
    client = StoppableClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_manager_class=ThisPythonManager,
        extra_arguments=["--log-level=ERROR"],  # it would warn of its unencrypted connection to this machine
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: started.append(cell),
        coalesce_streams=True,
        record_timing=False,
    )
    try:
        if in_first_thread():
            client.execute()
        else:
            asyncio.run(client.async_execute())  # which leaves no task behind, as the thread's loop ends with it
    except BaseException as error:  # a time limit, a dead kernel, ...: none may stop the other notebooks
        if client.stopped:
            raise KeyboardInterrupt from error
        if not isinstance(error, Exception):
            raise
        if isinstance(error, CellExecutionError):
            raise NotebookFailed(f"cell [{len(started)}]: {error.ename}: {error.evalue}".rstrip(": ")) from error
        raise NotebookFailed(f"cell [{len(started)}]: {type(error).__name__}: {error}") from error
    finally:
        if in_first_thread():
            listen()  # nbclient leaves no handler
    notebook.metadata = nbformat.from_dict(METADATA)
    without_widgets(notebook)
    return notebook


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
    listen()
    try:
        sys.exit(main([Path(name) for name in sys.argv[1:]]))
    except KeyboardInterrupt:
        print("\nInterrupted. What was stored stays, and no notebook is half stored.", file=sys.stderr)
        sys.exit(INTERRUPTED)
