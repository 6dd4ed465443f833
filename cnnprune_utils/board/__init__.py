"""The gate board: one switch per filter, and the size and accuracy of the network without the closed filters.

In a notebook it is a widget, :func:`board`; on a web page it is a script without a kernel, in ``page.py``. Both are the
same ``board.js``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import nn

from ..batches import Split
from ..book.fashion_mnist import CLASS_NAMES

if TYPE_CHECKING:
    from .widget import Board

__all__ = ["NoBoard", "board"]


class NoBoard:
    """Shown in the place of a board where the package that draws it is not installed."""

    def __repr__(self) -> str:
        return (
            "The gate board needs the package anywidget, which is not installed. Run pip install anywidget, and "
            "restart the kernel. All else works without it, including the board on the book's web pages."
        )


def board(
    model: nn.Module, split: Split, *, class_names: Sequence[str] = CLASS_NAMES, n_pictures: int = 200
) -> Board | NoBoard:
    """Return a board with one gate per filter of ``model``, for a notebook. Its ``plan`` holds the closed gates.

    For the book's baseline and its validation images, the numbers of all sub-networks come with the package. For
    another network or other images they are measured first, with a progress bar: the fewer images, the faster.

    Args:
        model: as :func:`cnnprune_utils.exhaustive.all_subnetworks` takes it; unchanged.
        split: the images that accuracy and loss are measured on, on the model's device.
        class_names: names of the outputs.
        n_pictures: number of images to look at, drawn at random.

    Returns:
        The widget; or, without the package ``anywidget``, an object whose text says what to install.

    Raises:
        ValueError: the network is not one that ``all_subnetworks`` takes, or has too many filters for it.
    """
    if find_spec("anywidget") is None:
        return NoBoard()
    from .widget import Board

    return Board(model, split, class_names=class_names, n_pictures=n_pictures)
