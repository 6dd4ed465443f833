"""The script and the style sheet of the gate board, put among the site's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def write_board(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        from cnnprune_utils.board.page import write_files

        write_files(Path(app.outdir) / "_static")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write_board)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
