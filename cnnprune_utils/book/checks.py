"""Checks of the functions that a reader fills in under "Your turn": one for each, named after what it checks.

A check prints one line, and raises nothing because an answer is wrong. The line begins with "not filled in yet" where
the function returns ``...`` or nothing, with "not yet" where it returns something wrong, and with "right" otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def expected_change(yours: Callable[[float, float], Any]) -> None:
    """Check ``yours(part, rest)``: the change of ``(rest + g * part) ** 2`` that its slope at g = 1 promises."""
    part, rest = 0.2, 0.95
    answer = yours(part, rest)
    if _is_open(answer):
        print("not filled in yet. Hint: the slope is 2 * y * part, and the gate goes down from 1 to 0.")
    elif not _equal(answer, -0.46):
        hint = _hint(
            answer,
            [
                (0.46, "that is the slope itself; the gate goes down, from 1 to 0."),
                (rest**2 - (rest + part) ** 2, "that is the true change; the promise knows only the slope at 1."),
            ],
            "the slope is 2 * y * part, and y is rest + part while the gate is open.",
        )
        print(f"not yet: for the part 0.2 and the rest 0.95 the slope promises -0.46. Hint: {hint}")
    elif not _equal(yours(-0.05, 1.2), 0.115):
        print("not yet: right for A, but for B (part -0.05, rest 1.2) it promises +0.115. Hint: use both arguments.")
    else:
        print("right: closing A promises to lower the loss by 0.46, and closing B to raise it by 0.115.")


def taylor_score(yours: Callable[[Tensor, int], Any]) -> None:
    """Check ``yours(slopes, positions)``: from slopes (images, filters) to one Taylor score for each filter."""
    slopes = torch.tensor([[0.5, 0.1], [-0.5, 0.1], [0.5, 0.1], [-0.5, 0.1]])
    answer = yours(slopes, 2)
    if _is_open(answer):
        print("not filled in yet. Hint: the size of each slope, then the mean over the images (dimension 0), then / M.")
    elif not _equal(answer, [0.25, 0.05]):
        hint = _hint(
            answer,
            [
                (slopes.mean(0) / 2, "the slopes have cancelled; their sizes come before the mean."),
                (slopes.mean(0).abs() / 2, "the slopes have cancelled; their sizes come before the mean."),
                (slopes.abs().mean(0), "divide by the number of positions."),
                (slopes.abs().mean(1) / 2, "the mean is over the images, dimension 0."),
            ],
            "slopes.abs() has the sizes.",
        )
        print(
            f"not yet: with 2 positions, slopes of +0.5 and -0.5 score 0.25, and slopes of 0.1 score 0.05. Hint: {hint}"
        )
    else:
        print("right: +0.5 and -0.5 cancel in the mean, and still their filter has the higher score.")


def _is_open(answer: Any) -> bool:
    """Whether the reader has not begun: the skeleton returns ``...``."""
    return answer is ... or answer is None


def _hint(answer: Any, mistakes: Iterable[tuple[Any, str]], otherwise: str) -> str:
    """The hint for the mistake that leads to this answer."""
    return next((hint for wrong, hint in mistakes if _equal(answer, wrong)), otherwise)


def _equal(answer: Any, expected: Any) -> bool:
    """Whether an answer, of whatever type, has these numbers in this shape."""
    try:
        found = torch.as_tensor(answer, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        return False
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4)
