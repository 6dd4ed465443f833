"""The book's deeper network: residual blocks with BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its BatchNorm, whose shift stands for the convolution's bias."""
    convolution = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


class Block(nn.Module):
    """Two convolutions, whose result is added to what they read: ``relu(second(relu(first(x))) + skip(x))``.

    Args:
        before, after: channels that come in and go out.
        stride: of the first convolution. Where it or the channels change the shape, ``skip`` is a convolution of 1x1;
            else it is the identity.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _convolution(before, after, 3, stride)
        self.second = _convolution(after, after, 3)
        same = stride == 1 and before == after
        self.skip = nn.Identity() if same else _convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, after, height / stride, width / stride), rounded up, of maps (n, before, height, width)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class ResNet(nn.Module):
    """A small residual network (arXiv:1512.03385, section 4.2, with a first convolution of stride 2).

    Args:
        widths: channels of each stage; each stage but the first halves height and width.
        blocks: residual blocks in a stage.
        in_channels: channels of the images, which may have any size.
        n_classes: outputs.

    Raises:
        ValueError: no width, or a number below 1.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64), *, blocks: int = 2, in_channels: int = 1, n_classes: int = 10
    ) -> None:
        super().__init__()
        if not widths or min(*widths, blocks, in_channels, n_classes) < 1:
            raise ValueError(
                f"widths={tuple(widths)}, blocks={blocks}, in_channels={in_channels}, n_classes={n_classes}: there "
                "must be at least one width, and each number must be at least 1."
            )
        self.stem = _convolution(in_channels, widths[0], 3, stride=2)
        stages = [self._stage(widths[0], widths[0], blocks, stride=1)]
        stages += [self._stage(before, after, blocks, stride=2) for before, after in pairwise(widths)]
        self.stages = nn.Sequential(*stages)
        self.last = nn.Linear(widths[-1], n_classes)

    @staticmethod
    def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(before, after, stride), *(Block(after, after) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (n, n_classes), of images (n, in_channels, height, width)."""
        maps = self.stages(F.relu(self.stem(images)))
        outputs: Tensor = self.last(maps.mean((2, 3)))
        return outputs

    @property
    def example_input_array(self) -> Tensor:
        """Two random images, (2, in_channels, 28, 28), for analyses that run the network."""
        weight, generator = self.stem.get_parameter("0.weight"), torch.Generator().manual_seed(0)
        return torch.rand((2, weight.shape[1], 28, 28), generator=generator).to(weight)
