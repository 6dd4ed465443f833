"""Folds the answers on the pages of solutions, so that a reader sees the exercise first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

OPEN = '<details class="answer"><summary>Show the answer</summary><div class="answer-body">'
CLOSE = "</div></details>"


def is_question(node: nodes.Node) -> bool:
    """Return whether a node is a paragraph in italics, as the exercise above each answer is."""
    return isinstance(node, nodes.paragraph) and all(
        isinstance(child, nodes.emphasis) or not child.astext().strip() for child in node.children
    )


class FoldAnswers(SphinxTransform):
    """Puts the answer to each exercise into a ``<details>``."""

    default_priority = 800

    def apply(self, **kwargs: Any) -> None:
        if not self.env.docname.startswith("solutions/"):
            return
        for section in self.document.findall(nodes.section):
            title = section.next_node(nodes.title)
            if title is None or not title.astext().startswith("Exercise"):
                continue
            answer = section.index(title) + 1
            while answer < len(section) and is_question(section[answer]):
                answer += 1
            section.insert(answer, nodes.raw("", OPEN, format="html"))
            section.append(nodes.raw("", CLOSE, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(FoldAnswers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
