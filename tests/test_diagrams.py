"""The diagrams: SVG that follows the text's colour, and says in words what it shows."""

import re
import xml.etree.ElementTree as ET

import pytest

from cnnprune_utils.book import diagrams
from cnnprune_utils.book.diagrams import Diagram

ALL = {
    "network": diagrams.network(),
    "closed": diagrams.network({"network.4": (0, 7), "network.0": (1,)}),
    "gate": diagrams.gate(),
    "joined": diagrams.joined(),
    "stage": diagrams.stage(),
    "loop": diagrams.loop(),
}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ALL)
def test_everything_lies_in_the_picture(name: str) -> None:
    diagram = ALL[name]
    root = ET.fromstring(diagram._repr_html_())
    assert root.get("viewBox") == f"0 0 {diagram.width} {diagram.height}"
    for element in root:
        for key, most in (("x", diagram.width), ("y", diagram.height), ("x2", diagram.width), ("cy", diagram.height)):
            assert 0 <= float(element.get(key, 0)) <= most


@pytest.mark.parametrize("name", ALL)
def test_the_colours_are_the_texts_or_the_palettes(name: str) -> None:
    """A page that turns dark takes the lines with it."""
    used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', ALL[name]._repr_html_()))
    assert used <= {"currentColor", "none", *diagrams.LAYER_COLORS, *diagrams.INK}


@pytest.mark.parametrize("name", ALL)
def test_it_says_what_it_shows(name: str) -> None:
    label = ET.fromstring(ALL[name]._repr_html_()).get("aria-label")
    assert label == repr(ALL[name])
    assert len(label) >= 60


def test_closed_gates_are_dashed_and_nobody_reads_them() -> None:
    def count(diagram: Diagram) -> tuple[int, int]:
        root = ET.fromstring(diagram._repr_html_())
        dashed = [rect for rect in root.iter(f"{SVG}rect") if rect.get("stroke-dasharray")]
        return len(dashed), len(list(root.iter(f"{SVG}line")))

    assert count(ALL["network"]) == (0, 2 + 2 * 4 + 4 * 8 + 8 * 10)
    assert count(ALL["closed"]) == (3, 1 + 1 * 4 + 4 * 6 + 6 * 10)
    assert "3 of them closed" in repr(ALL["closed"])


def test_a_stage_has_one_colour_along_its_stream() -> None:
    """Its first convolution, both second ones, and the two sums: five maps of one filter."""
    root = ET.fromstring(ALL["stage"]._repr_html_())
    fills = [rect.get("fill") for rect in root.iter(f"{SVG}rect")]
    assert [fills.count(color) for color in diagrams.LAYER_COLORS[:4]] == [5, 1, 1, 0]
