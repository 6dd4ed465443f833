"""Progress bars that leave nothing behind, in a terminal and in a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, **kwargs: Any) -> tqdm[Any]:
    """Return a bar of tqdm, which is gone when it ends; the arguments are tqdm's."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kind: Any = tqdm
    if hasattr(shell, "kernel"):
        kind, kwargs = _InNotebook, {**kwargs, "file": io.StringIO()}
    bar: tqdm[Any] = kind(iterable, leave=False, **kwargs)
    return bar


class _InNotebook(tqdm):  # type: ignore[type-arg]  # it is generic for type checkers only
    """One output that is written again and again. What tqdm prints there itself ends as a blank line on red."""

    _output: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        from IPython.display import display

        text = {"text/plain": str(self) if msg is None else msg}
        if self._output is None:
            self._output = display(text, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._output.update(text, raw=True)
