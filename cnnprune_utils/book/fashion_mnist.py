"""Fashion-MNIST in memory: fetched, verified, split into train, validation and test.

``python -m cnnprune_utils.book.fashion_mnist`` fetches the four files, and says from where and to which folder. Nothing
here imports PyTorch before images are asked for: the command's help reads the sizes.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..batches import Split, Splits

__all__ = ["CLASS_NAMES", "IMAGE_SIZE", "N_TRAINING_IMAGES", "fetch_and_say", "load_fashion_mnist", "main"]

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
IMAGE_SIZE = 28  # height and width, in pixels; one channel
N_TRAINING_IMAGES = 60_000  # before the validation images are taken out


def load_fashion_mnist(
    root: str | os.PathLike[str] | None = None, *, train: int | None = None, validation: int = 5000, seed: int = 0
) -> Splits:
    """Return Fashion-MNIST on the CPU, fetched if need be: 55,000 images to train, 5,000 to validate, 10,000 to test.

    Images are float32 (N, 1, 28, 28) in [0, 1], labels int64 (N,). The checksums of the files are verified on every
    call, so that a damaged file never trains a network.

    Args:
        root: the data folder; else the environment variable CNNPRUNE_DATA, else the checkout's data/, else the user's
            cache folder.
        train: keep only so many images to train on, in the order in which ``train.subset`` draws them from all, and
            spare the memory of the others; None for all, in the order of the files.
        validation: how many of the 60,000 training images to hold out, equally many of each of the ten classes.
        seed: draws them. Validation and test images keep their order in the files.

    Raises:
        ValueError: ten classes cannot share ``validation`` equally, or it leaves a class without training images, or
            fewer images than ``train``.
        cnnprune_utils.book.fetch.FetchError: no source has the files; the message says three ways to get them.
    """
    from ..batches import Split, Splits
    from .fetch import fetch

    n_classes = len(CLASS_NAMES)
    most = N_TRAINING_IMAGES - n_classes
    if not isinstance(validation, int) or validation % n_classes or not n_classes <= validation <= most:
        raise ValueError(
            f"validation must be a multiple of {n_classes}, one share for each class, from {n_classes} to {most}; "
            f"got {validation!r}"
        )
    left = N_TRAINING_IMAGES - validation
    if train is not None and (not isinstance(train, int) or not 1 <= train <= left):
        raise ValueError(f"train must be a number from 1 to {left}, or None for all of them; got {train!r}")
    folder = fetch(root).folder
    images, labels = _read(folder, "train")
    held_out = _balanced(labels, validation // n_classes, seed)
    to_train = Split(images[~held_out], labels[~held_out])
    if train is not None:
        to_train = to_train.subset(train)
    return Splits(
        train=_split(to_train.inputs, to_train.targets),
        validation=_split(images[held_out], labels[held_out]),
        test=_split(*_read(folder, "t10k")),
    )


def _read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "t10k"."""
    import numpy as np
    import torch

    images = np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8, offset=16)  # behind a header of 16 bytes
    labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
    return torch.from_numpy(images).reshape(-1, IMAGE_SIZE, IMAGE_SIZE), torch.from_numpy(labels).long()


def _balanced(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return a mask (N,) that is True for ``per_class`` random examples of each class."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASS_NAMES)):
        members = (labels == label).nonzero().squeeze(1)
        chosen[members[torch.randperm(len(members), generator=generator)[:per_class]]] = True
    return chosen


def _split(images: Tensor, labels: Tensor) -> Split:
    from ..batches import Split

    return Split(images.unsqueeze(1).float().div_(255), labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m cnnprune_utils.book.fashion_mnist``: fetch the data, print its sources, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnprune_utils.book.fashion_mnist",
        description="Fetch Fashion-MNIST to CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder.",
    )
    parser.parse_args(arguments)
    return fetch_and_say()


def fetch_and_say(root: str | os.PathLike[str] | None = None) -> int:
    """Fetch missing or damaged files, print the source of each file or the error, and return the exit code."""
    from .fetch import FetchError, fetch

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        folder, origin = fetch(root)
    except (FetchError, OSError) as error:
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
    # SIGTERM becomes an exception, so that temporary files are removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
