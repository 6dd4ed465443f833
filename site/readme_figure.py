"""Write README's figure: all sub-networks, the first picture of chapter 8, taken from the notebook's stored outputs."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat

from cnnprune_utils.files import write

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "data" / "all_subnetworks.png"


def first_picture(notebook: Path) -> bytes:
    """Return the first PNG among the notebook's stored outputs.

    Raises:
        ValueError: there is none: the notebook was stored without outputs.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    if not pictures:
        raise ValueError(f"{notebook} holds no picture; `make outputs` executes the notebooks and stores them.")
    return base64.b64decode(pictures[0])


if __name__ == "__main__":
    write(FIGURE, first_picture(ROOT / "notebooks" / "08_all_subnetworks.ipynb"))
