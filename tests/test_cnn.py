"""The specification of the book's network, cnnprune_utils.book.cnn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchinfo

from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import Plan
from cnnprune_utils.surgery import prune

BEFORE = """\
=================================================================
Layer (type:depth-idx)                   Param #
=================================================================
CNN                                      --
├─Sequential: 1-1                        --
│    └─Conv2d: 2-1                       20
│    └─ReLU: 2-2                         --
│    └─Conv2d: 2-3                       76
│    └─ReLU: 2-4                         --
│    └─Conv2d: 2-5                       296
│    └─ReLU: 2-6                         --
│    └─Flatten: 2-7                      --
│    └─Linear: 2-8                       62,730
=================================================================
Total params: 63,122
Trainable params: 63,122
Non-trainable params: 0
================================================================="""
AFTER = """\
=================================================================
Layer (type:depth-idx)                   Param #
=================================================================
CNN                                      --
├─Sequential: 1-1                        --
│    └─Conv2d: 2-1                       10
│    └─ReLU: 2-2                         --
│    └─Conv2d: 2-3                       20
│    └─ReLU: 2-4                         --
│    └─Conv2d: 2-5                       57
│    └─ReLU: 2-6                         --
│    └─Flatten: 2-7                      --
│    └─Linear: 2-8                       23,530
=================================================================
Total params: 23,617
Trainable params: 23,617
Non-trainable params: 0
================================================================="""
PLAN = Plan({"network.0": (1,), "network.2": (0, 3), "network.4": (0, 1, 2, 5, 6)})  # 1 of 2, 2 of 4, 5 of 8


def test_summary_before_pruning() -> None:
    assert str(torchinfo.summary(CNN(), verbose=0)) == BEFORE


def test_summary_after_pruning() -> None:
    assert str(torchinfo.summary(CNN((1, 2, 3)), verbose=0)) == AFTER
    assert str(torchinfo.summary(prune(CNN(), PLAN), verbose=0)) == AFTER


@pytest.mark.parametrize(
    ("widths", "options", "shape"),
    [
        ((2, 4, 8), {}, (1, 28, 28)),
        ((5,), {"in_channels": 3, "image_size": 9, "n_classes": 4}, (3, 9, 9)),
        ((1, 2, 3, 4), {"image_size": (6, 11), "n_classes": 2}, (1, 6, 11)),
    ],
)
def test_a_cnn_knows_how_it_was_built(widths: tuple[int, ...], options: dict[str, Any], shape: tuple[int, ...]) -> None:
    model = CNN(widths, **options)
    built = {"in_channels": 1, "image_size": 28, "n_classes": 10} | options
    assert model.widths == widths
    assert {name: getattr(model, name) for name in built} == built
    assert model(torch.rand(3, *shape)).shape == (3, built["n_classes"])
    assert [type(m).__name__ for m in model.network] == ["Conv2d", "ReLU"] * len(widths) + ["Flatten", "Linear"]


def test_a_square_given_twice_is_one_number() -> None:
    assert CNN(image_size=(5, 5)).image_size == 5


def test_a_pruned_copy_tells_its_own_widths() -> None:
    baseline = CNN(image_size=(6, 7), n_classes=3)
    pruned = prune(baseline, PLAN)
    assert type(pruned) is CNN
    assert (pruned.widths, pruned.in_channels, pruned.image_size, pruned.n_classes) == ((1, 2, 3), 1, (6, 7), 3)
    assert baseline.widths == (2, 4, 8)


@pytest.mark.parametrize(
    ("widths", "options"), [((), {}), ((2, 0), {}), ((2,), {"n_classes": 0}), ((2,), {"image_size": (0, 3)})]
)
def test_a_cnn_that_cannot_be_built_is_refused(widths: tuple[int, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CNN(widths, **options)
