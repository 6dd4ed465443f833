"""The diagrams of the book: SVG in the colour of the text around them, for light pages and dark ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from html import escape
from itertools import product

from .plots import LAYER_COLORS, REMOVED

INK = ("white", "black", "black", "black")  # what can be read on the first layer colours
SIDE, STEP = 26, 34  # pixels: a map, and from one map to the next
WIDTHS = {"network.0": 2, "network.2": 4, "network.4": 8}  # chapter 1's network


class Diagram:
    """A drawing that notebooks and pages show; printed, it is its description."""

    def __init__(self, parts: Iterable[str], *, width: int, height: int, description: str) -> None:
        self.parts, self.width, self.height, self.description = list(parts), width, height, description

    def _repr_html_(self) -> str:
        style = f"display: block; margin: auto; width: 100%; max-width: {self.width}px; height: auto"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(self.description)}" '
            f'viewBox="0 0 {self.width} {self.height}" style="{style}" fill="currentColor" text-anchor="middle" '
            f'font-size="15" font-family="sans-serif">{"".join(self.parts)}</svg>'
        )

    def __repr__(self) -> str:
        return self.description


def network(closed: Mapping[str, Collection[int]] | None = None) -> Diagram:
    """Return chapter 1's network with a square for each map; ``closed`` is layer -> filters whose gates are closed."""
    closed, middle, height = closed or {}, 180, 340
    columns = {name: 150 + 110 * i for i, name in enumerate(WIDTHS)}
    parts, reads = [_box(20, middle - 32, 64, 64), _text(52, 30, "image"), _text(52, middle + 52, "28 × 28")], []
    sources = [(84, middle)]
    for i, (name, n) in enumerate(WIDTHS.items()):
        x, top = columns[name], middle - STEP * n // 2 + (STEP - SIDE) // 2
        parts.append(_text(x + SIDE // 2, 30, name))
        open_maps = []
        for k in range(n):
            y = top + STEP * k
            is_open = k not in closed.get(name, ())
            parts.append(_map(x, y, str(k), i if is_open else None))
            if is_open:
                open_maps.append((x, y + SIDE // 2))
        reads += [_line(*source, *target) for source, target in product(sources, open_maps)]
        sources = [(x + SIDE, y) for x, y in open_maps]
    classes = [(500, middle - 117 + 26 * k) for k in range(10)]
    reads += [_line(*source, *target) for source, target in product(sources, classes)]
    parts += [f'<circle cx="{x + 5}" cy="{y}" r="5"/>' for x, y in classes]
    parts += [_text(505, 30, "10 classes"), _text(440, middle + 150, "linear")]
    gone = sum(len(filters) for filters in closed.values())
    said = f"{gone} of them closed" if gone else "all of them open"
    description = f"The network: an image, maps of 2, 4 and 8 filters, and ten classes; fourteen gates, {said}."
    return Diagram([*reads, *parts], width=560, height=height, description=description)


def gate() -> Diagram:
    """Return a gate on a map, and what closing it does to the loss: a slope, and a bend."""
    curve = " ".join(f"{360 + 20 * t},{_loss(t)}" for t in range(11))
    parts = [
        _map(40, 90, "z", 0, side=60),
        _arrow(104, 120, 150, 120),
        '<circle cx="172" cy="120" r="20" fill="none" stroke="currentColor" stroke-width="2"/>',
        _text(172, 126, "× g"),
        _arrow(194, 120, 240, 120),
        _text(288, 114, "the next", 14),
        _text(288, 132, "layer reads", 14),
        _text(70, 172, "a map", 14),
        _text(172, 172, "a gate", 14),
        _arrow(350, 200, 580, 200),
        _arrow(350, 200, 350, 30),
        _text(366, 26, "loss"),
        _text(376, 220, "g = 1", 14),
        _text(560, 220, "g = 0", 14),
        f'<polyline points="{curve}" fill="none" stroke="currentColor" stroke-width="2.5"/>',
        f'<line x1="360" y1="{_loss(0)}" x2="560" y2="{_promise(10)}" stroke="{REMOVED}" '
        'stroke-width="2.5" stroke-dasharray="7 4"/>',
        _line(560, _loss(10) + 4, 560, _promise(10) - 4),
        f'<circle cx="360" cy="{_loss(0)}" r="5"/>',
        _text(455, 182, "what the slope at 1 promises", 14),
        _text(520, 139, "the bend", 14),
    ]
    description = (
        "Left: a gate g multiplies a map on its way to the next layer. Right: the loss as the gate goes from 1 to 0, "
        "and the straight line that its slope at 1 promises; what lies between them at 0 is the bend."
    )
    return Diagram(parts, width=600, height=235, description=description)


def _loss(t: int) -> int:
    """Return the height of the curve, t tenths of the way from the open gate to the closed one."""
    return round(140 + 2 * t - 0.9 * t * t)


def _promise(t: int) -> int:
    return round(140 + 2 * t)


def joined() -> Diagram:
    """Return two convolutions whose maps are added: filter 2 of both has one name, and so has all that reads it."""
    parts, tops = [], {"convolution A": 50, "convolution B": 210}
    for name, top in tops.items():
        parts += [_text(86, top - 12, name)]
        parts += [_map(20 + STEP * k, top, str(k), 0 if k == 2 else None, dashed=False) for k in range(4)]
    parts += [_arrow(158, 63, 196, 122), _arrow(158, 223, 196, 164)]
    parts += ['<circle cx="212" cy="143" r="20" fill="none" stroke="currentColor" stroke-width="2"/>']
    parts += [_text(212, 149, "+", 22), _arrow(234, 143, 262, 143)]
    for x, name in ((268, "BatchNorm, ReLU"), (438, "next layer")):
        parts += [_text(x + 62, 112, name)]
        parts += [_map(x + STEP * k, 130, str(k), 0 if k == 2 else None, dashed=False) for k in range(4)]
    parts += [_arrow(404, 143, 432, 143)]
    parts += [_text(86, 98, "rows: its filters", 14), _text(86, 258, "rows: its filters", 14)]
    parts += [_text(500, 180, "columns: what it reads", 14)]
    description = (
        "Two convolutions with filters 0 to 3; their maps are added, channel by channel, and pass a BatchNorm and a "
        "ReLU to the next layer. Number 2 is marked in both convolutions, in the BatchNorm and in the next layer."
    )
    return Diagram(parts, width=600, height=270, description=description)


def stage() -> Diagram:
    """Return a stage of two residual blocks: filters of one number along the bottom share a name; inside, none do."""
    stream, inside = 188, 58
    parts = [_text(57, 240, "first convolution"), _text(309, 240, "after block 1"), _text(561, 240, "after block 2")]
    for i, x in enumerate((10, 262, 514)):
        parts += [_map(x + STEP * k, stream, str(k), 0 if k == 1 else None, dashed=False) for k in range(3)]
        if i < 2:  # a block branches off, and comes back
            for k in range(3):
                parts.append(_map(x + STEP * k, inside, str(k), 1 + i if k == 1 else None, dashed=False))
                parts.append(_map(x + 132 + STEP * k, inside, str(k), 0 if k == 1 else None, dashed=False))
            parts += [_text(x + 47, 44, "first"), _text(x + 179, 44, "second")]
            parts += [_arrow(x + 47, stream - 8, x + 47, inside + 34), _arrow(x + 99, 71, x + 128, 71)]
            parts += [_arrow(x + 179, inside + 34, x + 179, stream - 7)]
            parts += [_arrow(x + 100, 201, x + 159, 201), _arrow(x + 199, 201, x + 248, 201)]
            circle = f'<circle cx="{x + 179}" cy="201" r="18" fill="none" stroke="currentColor" stroke-width="2"/>'
            parts += [circle, _text(x + 179, 208, "+", 22)]
    description = (
        "A stage of two blocks. The maps of a first convolution run along the bottom; each block reads them, computes "
        "maps inside (first) and maps that are added to what it read (second). Number 1 has one colour along the "
        "bottom and in both second convolutions; inside, number 1 has a colour of its own in each block."
    )
    return Diagram(parts, width=620, height=255, description=description)


def loop() -> Diagram:
    """Return the paper's loop: score, rank, remove the lowest, update, and again."""
    boxes = {"score": (30, 40), "rank": (230, 40), "remove the lowest": (430, 40), "update": (430, 140)}
    parts = []
    for name, (x, y) in boxes.items():
        parts += [_box(x, y, 150, 44, radius=8), _text(x + 75, y + 27, name)]
    parts += [_arrow(180, 62, 228, 62), _arrow(380, 62, 428, 62), _arrow(505, 84, 505, 138)]
    parts += [_box(180, 140, 200, 44, radius=22), _text(280, 167, "target reached?")]
    parts += [_arrow(430, 162, 382, 162), _line(180, 162, 105, 162, strong=True), _arrow(105, 162, 105, 86)]
    parts += [_text(140, 154, "no"), _arrow(280, 184, 280, 222), _text(302, 208, "yes"), _text(280, 242, "done")]
    description = "A circle of steps: score, rank, remove the lowest, update; until the target is reached, score again."
    return Diagram(parts, width=600, height=255, description=description)


def _text(x: int, y: int, text: str, size: int | None = None, color: str | None = None) -> str:
    style = (f' font-size="{size}"' if size else "") + (f' fill="{color}"' if color else "")
    return f'<text x="{x}" y="{y}"{style}>{escape(text)}</text>'


def _box(x: int, y: int, width: int, height: int, radius: int = 3) -> str:
    size = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"'
    return f'<rect {size} fill="none" stroke="currentColor" stroke-width="2"/>'


def _map(x: int, y: int, label: str, color: int | None, *, side: int = SIDE, dashed: bool = True) -> str:
    """Return a square for a map: filled with a layer's colour, or empty, and dashed where its gate is closed."""
    size = f'x="{x}" y="{y}" width="{side}" height="{side}" rx="3"'
    middle = x + side // 2, y + side // 2 + 5
    if color is None:
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        return f'<rect {size} fill="none" stroke="currentColor" stroke-width="1.5"{dashes}/>' + _text(*middle, label)
    return f'<rect {size} fill="{LAYER_COLORS[color]}"/>' + _text(*middle, label, color=INK[color])


def _line(x1: int, y1: int, x2: int, y2: int, *, strong: bool = False) -> str:
    stroke = 'stroke-width="2"' if strong else 'stroke-width="1" stroke-opacity="0.3"'
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" {stroke}/>'


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    tip = [(x2, y2), (x2 - 10 * dx - 5 * dy, y2 - 10 * dy + 5 * dx), (x2 - 10 * dx + 5 * dy, y2 - 10 * dy - 5 * dx)]
    points = " ".join(f"{x:.0f},{y:.0f}" for x, y in tip)
    return _line(x1, y1, round(x2 - 8 * dx), round(y2 - 8 * dy), strong=True) + f'<polygon points="{points}"/>'
