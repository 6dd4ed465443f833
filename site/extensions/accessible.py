"""Accessibility checks that theme and notebooks do not make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)


class FiguresAreDescribed(SphinxPostTransform):
    """Warns of figures without a description."""

    default_priority = 900

    def run(self, **kwargs: Any) -> None:
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                logger.warning(
                    "a figure has no description: give its cell the metadata mystnb: {image: {alt: ...}}",
                    location=image,
                )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(FiguresAreDescribed)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
