"""The directive ``cnnprune``: the help of the command, as ``--help`` prints it."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

COLUMNS = "88"


def help_of(*words: str) -> str:
    """Return the output of ``cnnprune WORDS --help``, in lines that fit a page."""
    from cnnprune_utils.command.options import parser

    said = io.StringIO()
    with patch.dict(os.environ, COLUMNS=COLUMNS), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parser().parse_args([*words, "--help"])
    return said.getvalue().rstrip()


class CommandHelp(SphinxDirective):
    """A block with the help of the command, or of the sub-command that is its argument."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = help_of(*self.arguments)
        return [nodes.literal_block(text, text, language="text", classes=["no-copy"])]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cnnprune", CommandHelp)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
