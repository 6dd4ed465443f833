"""The specification of the book's deeper network, cnnprune_utils.book.resnet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnprune_utils.batches import Split
from cnnprune_utils.book.resnet import Block, ResNet
from cnnprune_utils.gates import mask
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import prunable_layers, skipped_layers
from cnnprune_utils.surgery import prune, same_outputs


def test_its_size() -> None:
    assert parameters(ResNet()) == 174_970
    assert macs(ResNet()) == 5_537_984


def test_filters_that_are_added_are_removed_together() -> None:
    """The stem's with those of the blocks behind it; in later stages, those of the skip and of all second ones."""
    layers = {layer.name: (layer.out_channels, len(layer.producers)) for layer in prunable_layers(ResNet())}
    assert layers == {
        "stem.0": (16, 3),
        "stages.0.0.first.0": (16, 1),
        "stages.0.1.first.0": (16, 1),
        "stages.1.0.first.0": (32, 1),
        "stages.1.0.second.0": (32, 3),
        "stages.1.1.first.0": (32, 1),
        "stages.2.0.first.0": (64, 1),
        "stages.2.0.second.0": (64, 3),
        "stages.2.1.first.0": (64, 1),
    }
    assert skipped_layers(ResNet()) == {}


@pytest.mark.parametrize(
    ("after", "stride", "skips"), [(4, 1, nn.Identity), (6, 1, nn.Sequential), (4, 2, nn.Sequential)]
)
def test_a_block_skips_as_its_shape_asks(after: int, stride: int, skips: type[nn.Module]) -> None:
    block = Block(4, after, stride)
    assert isinstance(block.skip, skips)
    assert block(torch.rand(2, 4, 9, 9)).shape == (2, after, -(-9 // stride), -(-9 // stride))


def test_other_shapes_and_what_is_left_of_them() -> None:
    model = ResNet((3, 5), blocks=1, in_channels=2, n_classes=4).eval()
    assert model(torch.rand(3, 2, 11, 8)).shape == (3, 4)
    plan, images = Plan({"stem.0": (0,), "stages.1.0.first.0": (1, 4)}), torch.rand(6, 2, 11, 8)
    split = Split(images, torch.zeros(6, dtype=torch.int64))
    assert same_outputs(prune(model, plan, images[:2]), mask(model, plan, images[:2]), split) < 1e-6
    assert prune(model, plan).example_input_array.shape == (2, 2, 28, 28)


@pytest.mark.parametrize(
    "wrong", [{"widths": ()}, {"widths": (4, 0)}, {"blocks": 0}, {"in_channels": 0}, {"n_classes": 0}]
)
def test_no_channel_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="each number must be at least 1"):
        ResNet(**wrong)
