"""The usual recipe, to which the book's is compared.

torchvision's Fashion-MNIST with ToTensor through a DataLoader, batches of 32, Adam at 1e-3: 10 epochs, a pass that
scores, 1 of 2, 2 of 4 and 5 of 8 filters removed, 10 epochs more. It scores ``mean |activation * gradient|`` over
examples and positions, follows the accuracy on the test images, and averages that of the batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import Plan, per_layer, rank

EPOCHS = 10  # before pruning, and again after it
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
REMOVED = {"network.0": 1, "network.2": 2, "network.4": 5}  # 63,122 parameters become 23,617
RELU_BEHIND = {"network.0": 1, "network.2": 3, "network.4": 5}


Loader: TypeAlias = Iterable[tuple[Tensor, Tensor]]


def loaders(root: Path, at_most: int | None = None) -> tuple[Loader, Loader]:
    """Return the training and test images from the files in ``root``, decoded one by one; the first of each only."""
    train, test = (FashionMNIST(root, train=part, transform=ToTensor()) for part in (True, False))
    if at_most is not None:
        train, test = (Subset(images, range(min(at_most, len(images)))) for images in (train, test))
    return DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(test, BATCH_SIZE)


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def train_epoch(model: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, loader: Loader) -> float:
    """Return the mean of the batches' accuracies."""
    model.eval()
    means = [(model(images).argmax(1) == labels).float().mean() for images, labels in loader]
    return torch.stack(means).mean().item()


def make_plan(model: CNN, loader: Loader) -> Plan:
    """Return the plan of the 1, 2 and 5 lowest scores; a pass of forward and backward over the training images."""
    maps: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        output.retain_grad()
        maps[name] = output

    hooks = [
        model.network[i].register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
        for name, i in RELU_BEHIND.items()
    ]
    totals: dict[str, Tensor] = {}
    for images, labels in loader:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for name, z in maps.items():
            assert z.grad is not None  # backward has been here
            totals[name] = totals.get(name, 0) + (z.detach() * z.grad).abs().mean(dim=(0, 2, 3))
    for hook in hooks:
        hook.remove()
    return per_layer(rank(totals), REMOVED)
