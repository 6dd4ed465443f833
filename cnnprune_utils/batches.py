"""Fashion-MNIST in memory: fetched, verified, split into train, validation and test.

``python -m cnnprune_utils.data`` fetches the four files, and says from where and to which folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from . import fetch

__all__ = ["CLASS_NAMES", "Split", "Splits", "fetch_fashion_mnist", "load_fashion_mnist", "main"]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
N_TRAINING_IMAGES = 60_000  # before the validation images are taken out


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, all in memory, on one device.

    Args:
        images: floating point, (N, channels, height, width); Fashion-MNIST: float32 (N, 1, 28, 28) in [0, 1].
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


def fetch_fashion_mnist(root: str | os.PathLike[str] | None = None) -> Path:
    """Fetch what is missing or damaged of Fashion-MNIST.

    Args:
        root: the data folder; else the environment variable CNNPRUNE_DATA, else the checkout's data/, else the
            user's cache folder.

    Returns:
        The folder of the four verified files, ``<root>/FashionMNIST/raw``, where torchvision looks for them too.

    Raises:
        cnnprune_utils.fetch.FetchError: no source has them; the message says three ways to get them.
    """
    return fetch.fetch(root).folder


def load_fashion_mnist(root: str | os.PathLike[str] | None = None, *, validation: int = 5000, seed: int = 0) -> Splits:
    """Fashion-MNIST on the CPU, fetched if need be: 55,000 images to train, 5,000 to validate, 10,000 to test.

    The checksums of the files are verified on every call, so that a damaged file never trains a network.

    Args:
        root: the data folder, as for :func:`fetch_fashion_mnist`.
        validation: how many of the 60,000 training images to hold out, equally many of each of the ten classes.
        seed: draws them. All images keep their order in the files.

    Raises:
        ValueError: ten classes cannot share ``validation`` equally, or it leaves a class without training images.
        cnnprune_utils.fetch.FetchError: as for :func:`fetch_fashion_mnist`.
    """
    n_classes = len(CLASS_NAMES)
    most = N_TRAINING_IMAGES - n_classes
    if not isinstance(validation, int) or validation % n_classes or not n_classes <= validation <= most:
        raise ValueError(
            f"validation must be a multiple of {n_classes}, one share for each class, from {n_classes} to {most}; "
            f"got {validation!r}"
        )
    folder = fetch_fashion_mnist(root)
    images, labels = _read(folder, "train")
    held_out = _balanced(labels, validation // n_classes, seed)
    return Splits(
        train=_split(images[~held_out], labels[~held_out]),
        validation=_split(images[held_out], labels[held_out]),
        test=_split(*_read(folder, "t10k")),
    )


def _read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "t10k"."""
    images = read_image_file(str(folder / f"{part}-images-idx3-ubyte"))
    labels = read_label_file(str(folder / f"{part}-labels-idx1-ubyte"))
    return images, labels


def _balanced(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """A mask (N,) that is True for ``per_class`` random examples of each class."""
    generator = torch.Generator("cpu").manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASS_NAMES)):
        members = (labels == label).nonzero().squeeze(1)
        chosen[members[torch.randperm(len(members), generator=generator)[:per_class]]] = True
    return chosen


def _split(images: Tensor, labels: Tensor) -> Split:
    return Split(images.unsqueeze(1).float().div_(255), labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m cnnprune_utils.data``: fetch, print what was done; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnprune_utils.data",
        description="Fetch Fashion-MNIST to CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder.",
    )
    parser.parse_args(arguments)
    return fetch_and_say()


def fetch_and_say(root: str | os.PathLike[str] | None = None) -> int:
    """:func:`fetch_fashion_mnist` for a command: prints what was done, or what is wrong; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        folder, origin = fetch.fetch(root)
    except (fetch.FetchError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the folder holds whole files only", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"Fashion-MNIST is in {folder}")
    for name, source in origin.items():
        print(f"  {name:<23}  SHA-256 ok  {source}")
    return 0


if __name__ == "__main__":
    # a polite kill becomes an exception, which removes temporary files on its way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
