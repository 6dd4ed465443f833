"""Fixes for napoleon, which reads the text before a colon in Returns as a type; here it is a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def mark_sentences(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put a colon before the first line of Returns and Yields: an empty type, so that the sentence stays whole."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            indent = len(lines[i + 1]) - len(lines[i + 1].lstrip())
            lines[i + 1] = f"{lines[i + 1][:indent]}: {lines[i + 1][indent:]}"


def drop_aliases(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Remove the docstrings that Python generates for the fields of a named tuple."""
    if len(lines) and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", mark_sentences, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", drop_aliases)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
