"""Names: what was merged is one, and what nobody may remove is frozen with the first reason."""

import pytest
import torch

from cnnprune_utils.names import ANYBODY, NOBODY, Names, Stays


def labels(*names: int) -> torch.Tensor:
    return torch.tensor(names)


def test_the_same_place_keeps_its_names() -> None:
    names = Names()
    first = names.of("a", 0, 3)
    assert first.tolist() == [1, 2, 3]
    assert names.of("a", 1, 2).tolist() == [4, 5]
    assert names.of("a", 0, 3) is first
    assert names.of("b", 0, 5000)[-1] == 5005


def test_merged_names_have_one_root() -> None:
    names = Names()
    names.of("a", 0, 9)
    for one, other in [([1, 2], [3, 4]), ([3, 4], [5, 6]), ([1, 1, 1], [7, 8, 7])]:
        names.merge(labels(*one), labels(*other), "")
    assert names.roots(labels(*range(10))).tolist() == [0, 1, 2, 1, 2, 1, 2, 1, 1, 9]
    assert names.roots(labels(ANYBODY, NOBODY)).tolist() == [ANYBODY, NOBODY]


def test_the_first_reason_stays_through_merges() -> None:
    names = Names()
    names.of("a", 0, 5)
    names.freeze(labels(3), "first")
    names.freeze(labels(4), "second")
    names.merge(labels(1), labels(3), "")
    names.merge(labels(1), labels(4), "")
    assert names.why(1) == "first"
    assert names.why(2) == ""


def test_who_meets_nobody_is_frozen() -> None:
    names = Names()
    names.of("a", 0, 3)
    names.merge(labels(1, 2, 3), labels(NOBODY, ANYBODY, 3), "met nobody")
    assert [names.why(k) for k in (1, 2, 3)] == ["met nobody", "", ""]


def test_anybody_is_no_variation() -> None:
    names = Names()
    names.of("a", 0, 3)
    assert not names.varies(labels(1, ANYBODY, 1), 0)
    assert names.varies(labels(1, NOBODY), 0)
    names.merge(labels(1), labels(2), "")
    assert not names.varies(labels(1, 2), 0)


def test_names_along_a_dimension() -> None:
    names = Names()
    names.of("a", 0, 3)
    assert names.along(torch.tensor([[1, ANYBODY], [2, 2]]), 0).tolist() == [1, 2]
    with pytest.raises(Stays, match="positions of one input belong to different filters"):
        names.along(torch.tensor([[1, 2], [2, 2]]), 0)
