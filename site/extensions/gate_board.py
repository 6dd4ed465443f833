"""The gate board: its script and style sheet among the site's own files, and a way to it from a chapter's output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGE = "board"
SHOWN = re.compile(r"Board\(\d+ gates, [\d,]+ images\)")


class BoardIsElsewhere(SphinxPostTransform):
    """Replaces the output of a board, which needs a kernel, by a link to the page of the board."""

    default_priority = 900

    def run(self, **kwargs: Any) -> None:
        if PAGE not in self.env.all_docs:
            return
        for output in list(self.document.findall(nodes.literal_block)):
            if SHOWN.fullmatch(output.astext().strip()):
                to = self.app.builder.get_relative_uri(self.env.current_document.docname, PAGE)
                link = nodes.reference("", "The gate board", refuri=to, internal=True)
                after = ": in a notebook it stands here, and on these pages it has a page of its own."
                output.parent.replace(output, nodes.paragraph("", "", link, nodes.Text(after)))


def write_board(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        from cnnprune_utils.board.page import write_files

        write_files(Path(app.outdir) / "_static")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(BoardIsElsewhere)
    app.connect("build-finished", write_board)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
