"""The checks of "Your turn": what they say of a skeleton, of mistakes and of the right answer, and where they stand."""

from __future__ import annotations

import inspect
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
CHECKS = {name: check for name, check in inspect.getmembers(checks, inspect.isfunction) if not name.startswith("_")}

RIGHT: dict[str, Callable[..., Any]] = {
    "expected_change": lambda part, rest: -2 * (rest + part) * part,
    "taylor_score": lambda slopes, positions: slopes.abs().mean(0) / positions,
}
WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("expected_change", lambda part, rest: 2 * (rest + part) * part, "the gate goes down"),
    ("expected_change", lambda part, rest: rest**2 - (rest + part) ** 2, "that is the true change"),
    ("expected_change", lambda part, rest: -2 * part, "y is rest + part"),
    ("expected_change", lambda part, rest: -0.46, "use both arguments"),
    ("taylor_score", lambda slopes, positions: slopes.mean(0).abs() / positions, "cancelled"),
    ("taylor_score", lambda slopes, positions: slopes.mean(0) / positions, "cancelled"),
    ("taylor_score", lambda slopes, positions: slopes.abs().mean(0), "divide by"),
    ("taylor_score", lambda slopes, positions: slopes.abs().mean(1) / positions, "dimension 0"),
    ("taylor_score", lambda slopes, positions: slopes.square().mean(0) / positions, "has the sizes"),
]


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


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}: {hint}" for name, _, hint in WRONG])
def test_a_mistake_has_its_hint(
    name: str, answer: Callable[..., Any], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, name, answer)
    assert line.startswith("not yet: ")
    assert hint in line.partition(" Hint: ")[2]


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
