"""The book's network, given by its widths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class CNN(nn.Module):
    """Convolutions of 3x3 with padding 1, each followed by a ReLU; then one linear layer on all positions.

    Args:
        widths: filters of each convolution.
        in_channels: channels of the images.
        image_size: their height and width, as one number or (height, width).
        n_classes: outputs.

    ``network`` is the ``nn.Sequential`` of the layers. The properties read them, so they hold for a pruned copy too.

    Raises:
        ValueError: no width, or a number below 1.
    """

    def __init__(
        self,
        widths: Sequence[int] = (2, 4, 8),
        *,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if not widths or min(*widths, in_channels, height, width, n_classes) < 1:
            raise ValueError(
                f"widths={tuple(widths)}, in_channels={in_channels}, image_size={image_size}, n_classes={n_classes}: "
                "there must be at least one width, and each number must be at least 1."
            )
        self._image_size = (height, width)
        layers: list[nn.Module] = []
        for before, after in pairwise((in_channels, *widths)):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * height * width, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (n, n_classes), of images (n, in_channels, height, width)."""
        outputs: Tensor = self.network(images)
        return outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """The filters of each convolution."""
        return tuple(conv.out_channels for conv in self._convolutions())

    @property
    def in_channels(self) -> int:
        return self._convolutions()[0].in_channels

    @property
    def image_size(self) -> int | tuple[int, int]:
        """One number for square images, else (height, width). No layer holds it, and pruning does not change it."""
        height, width = self._image_size
        return height if height == width else (height, width)

    @property
    def example_input_array(self) -> Tensor:
        """Two random images, (2, in_channels, height, width), for analyses that run the network."""
        like, generator = next(self.parameters()), torch.Generator().manual_seed(0)
        images = torch.rand((2, self.in_channels, *self._image_size), generator=generator)
        return images.to(like.device, like.dtype)

    @property
    def n_classes(self) -> int:
        return next(m.out_features for m in reversed(self.network) if isinstance(m, nn.Linear))

    def _convolutions(self) -> list[nn.Conv2d]:
        return [m for m in self.network if isinstance(m, nn.Conv2d)]
