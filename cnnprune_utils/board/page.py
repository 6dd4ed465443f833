"""The gate board for a web page: one classic script and one style sheet, without a kernel or network requests.

Chromium runs no module scripts from file://, so the widget's module becomes a classic script with the data inside.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..files import write
from .facts import shipped_json

_EXPORT = "export default { render };\n"


def script() -> str:
    """Return the board as a classic script, which fills every element with the attribute ``data-gate-board``."""
    source = (files(__package__) / "board.js").read_text(encoding="utf-8")
    if source.count("export") != 1 or not source.endswith(_EXPORT):
        raise ValueError("board.js must export once, at its end, as a widget's module does.")
    data = shipped_json().strip().replace("</", "<\\/")
    return f'(() => {{\n"use strict";\n{source.removesuffix(_EXPORT)}\nstart({data});\n}})();\n'


def style() -> str:
    """Return the board's style sheet."""
    return (files(__package__) / "board.css").read_text(encoding="utf-8")


def write_files(folder: Path) -> None:
    """Write ``gate-board.js`` and ``gate-board.css`` to ``folder``; a file that is up to date is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("gate-board.js", script()), ("gate-board.css", style())):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            write(path, content)
