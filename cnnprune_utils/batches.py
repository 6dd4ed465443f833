"""Examples in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, all in memory, on one device.

    Args:
        images: floating point, (N, channels, height, width).
        labels: int64, (N,). N is at least 1.

    Raises:
        TypeError: not tensors, or not of these types.
        ValueError: other shapes, no image at all, or two devices.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for name, value in (("images", self.images), ("labels", self.labels)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}; torch.as_tensor makes one")
        if not self.images.is_floating_point():
            raise TypeError(f"images must be floating point, not {self.images.dtype}; images.float() / 255 for bytes")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be torch.int64, not {self.labels.dtype}; labels.long() for other integers")
        if self.images.ndim != 4:
            raise ValueError(
                f"images must have the 4 dimensions (N, channels, height, width), not shape {tuple(self.images.shape)}"
            )
        if self.labels.ndim != 1:
            raise ValueError(f"labels must have the one dimension (N,), not shape {tuple(self.labels.shape)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels: each image needs one label")
        if len(self.images) == 0:
            raise ValueError("a split needs at least one image, got 0")
        if self.images.device != self.labels.device:
            raise ValueError(
                f"images are on {self.images.device}, labels on {self.labels.device}: move both to one device"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        return f"Split({len(self)} images of {shape})"

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``; this one stays where it is."""
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, n: int, seed: int = 0) -> Split:
        """``n`` images drawn at random without replacement, in random order.

        The same for the same seed, on every device; a smaller subset is the beginning of a larger one.

        Raises:
            ValueError: n is not between 1 and the length.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"cannot draw {n} of {len(self)} images: n must lie between 1 and {len(self)}")
        drawn = torch.randperm(len(self), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:n]
        drawn = drawn.to(self.images.device)
        return Split(self.images[drawn], self.labels[drawn])

    def batches(
        self, batch_size: int, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the split, in (images, labels) of ``batch_size``; the last batch may be shorter.

        Args:
            batch_size: images in a batch.
            shuffle: False: in order, and every batch is a view of the split. True: in an order drawn when this is
                called, the same on every device.
            generator: the CPU generator to draw from; None: PyTorch's global one.

        Raises:
            ValueError: a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        starts = range(0, len(self), batch_size)
        if not shuffle:
            return ((self.images[i : i + batch_size], self.labels[i : i + batch_size]) for i in starts)
        order = torch.randperm(len(self), generator=generator, device="cpu").to(self.images.device)
        chosen = (order[i : i + batch_size] for i in starts)
        return ((self.images[batch], self.labels[batch]) for batch in chosen)


@dataclass(frozen=True, eq=False)
class Splits:
    """``train`` to fit on, ``validation`` to decide on, ``test`` to report once."""

    train: Split
    validation: Split
    test: Split

    def to(self, device: torch.device | str) -> Splits:
        """The same splits on ``device``; these stay where they are."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device))
