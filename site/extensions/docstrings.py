"""The package's docstrings say what they return in a sentence. Napoleon takes what stands before a colon for a type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def mark_sentences(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put a colon in front of the first line of Returns and Yields: an empty type, and the sentence stays whole."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            indent = len(lines[i + 1]) - len(lines[i + 1].lstrip())
            lines[i + 1] = f"{lines[i + 1][:indent]}: {lines[i + 1][indent:]}"


def drop_aliases(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """What Python writes for the fields of a named tuple says nothing; their class has told what they are."""
    if len(lines) and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", mark_sentences, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", drop_aliases)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
