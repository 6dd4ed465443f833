"""The checks of "Your turn": what they say of a skeleton, of mistakes and of the right answer, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from cnnprune_utils.book import checks
from cnnprune_utils.book.chapters import chapters_in

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHECKS = {name: check for name, check in vars(checks).items() if isinstance(check, checks.Check)}

RIGHT: dict[str, Callable[..., Any]] = {
    "convolution_parameters": lambda filters, channels: filters * (9 * channels + 1),
    "gone_with": lambda n: n * (9 * 4 + 1 + 10 * 784),
    "expected_change": lambda part, rest: -2 * (rest + part) * part,
    "taylor_score": lambda slopes, positions: slopes.abs().mean(0) / positions,
    "divide_by_norm": lambda scores: scores / scores.norm(),
    "is_dead": lambda outputs: [bool((maps <= 0).all()) for maps in outputs.unbind(1)],
    "columns_of": lambda k, positions: [k * positions + i for i in range(positions)],
    "cut": lambda weight, rows, columns: torch.stack([weight[row, columns] for row in rows]),
    "share_made_good": lambda before, cut, after: (after - cut) / (before - cut),
    "mean_interval": lambda d, t: (d.mean() - t * d.std() / len(d) ** 0.5, d.mean() + t * d.std() / len(d) ** 0.5),
    "half_interval": lambda p, n: 1.96 * (p * (1 - p) / n) ** 0.5,
    "multiplications": lambda filters, channels, positions: 9 * filters * channels * positions,
    "second_order": lambda slopes, bends, closed: (
        sum(bends[i, j] for i in closed for j in closed) / 2 - sum(slopes[k] for k in closed)
    ),
    "old_number": lambda k, gone: [n for n in range(20) if n not in gone][k],
    "passes_needed": lambda widths: 2 ** sum(widths[:-1]),
    "share_not_better": lambda mine, rivals: 100 * sum(r <= mine for r in rivals.tolist()) / len(rivals),
    "norm_with_zeros": lambda scores: scores / scores.norm() if scores.any() else scores,
    "share_of_last_batches": lambda n, momentum: sum(momentum * (1 - momentum) ** i for i in range(n)),
    "divide_by_mean": lambda scores: len(scores) * scores / scores.sum(),
    "one_vote": lambda slopes: sum(row.abs() / row.abs().sum().clamp(min=1e-30) for row in slopes) / len(slopes),
}


def said(capsys: pytest.CaptureFixture[str], name: str, answer: Callable[..., Any]) -> str:
    CHECKS[name](answer)
    line, end = capsys.readouterr().out.split("\n")
    assert end == ""
    return line


@pytest.mark.parametrize("name", CHECKS)
def test_a_skeleton_is_not_filled_in(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for nothing in (..., None):
        line = said(capsys, name, lambda *_, nothing=nothing: nothing)
        assert line.startswith("not filled in yet. Hint: ")


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_answer_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, name, RIGHT[name]).startswith("right: ")


@pytest.mark.parametrize("name", CHECKS)
def test_a_mistake_has_its_hint(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No hint is out of reach, and none belongs to a right answer."""
    for mistake, hint in CHECKS[name].mistakes:
        line = said(capsys, name, mistake)
        assert line.startswith("not yet: ")
        assert line.endswith(f" Hint: {hint}")


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_tells_what_it_compares_with(name: str) -> None:
    """The answer of each case, computed in another way."""
    for given, expected, _ in CHECKS[name].cases:
        assert checks._equal(RIGHT[name](*given), expected)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("answer", ["0.46", {}, torch.zeros(3), float("nan"), [[1], [2, 3]]], ids=str)
def test_an_answer_of_any_type_is_judged(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, name, lambda *_: answer).startswith("not yet: ")


def printed(path: Path) -> dict[str, str]:
    """Check -> what it printed in a notebook, for each cell that ends with a check."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    found = [(re.search(r"^checks\.(\w+)\(\w+\)$", cell.source, re.MULTILINE), cell) for cell in cells]
    return {call[1]: cell.outputs[0].text for call, cell in found if call}


def test_chapters_have_skeletons_and_solutions_fill_them_in() -> None:
    used: list[str] = []
    for chapter in chapters_in(NOTEBOOKS):
        skeletons, filled = printed(chapter), printed(chapter.parent / "solutions" / chapter.name)
        assert list(skeletons) == list(filled), chapter.name
        assert all(line.startswith("not filled in yet") for line in skeletons.values()), chapter.name
        assert all(line.startswith("right") for line in filled.values()), chapter.name
        used += skeletons
    assert sorted(used) == sorted(CHECKS)
