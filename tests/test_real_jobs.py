"""Small jobs like those of readers, from data to a pruned network that still does its job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cnnprune_utils import (
    Splits,
    Target,
    compress,
    evaluate,
    fit,
    mask,
    per_layer,
    prunable_layers,
    prune,
    rank,
    taylor,
)
from cnnprune_utils.batches import Batches, Data
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.surgery import same_outputs


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def loaders(dataset: Dataset[Any], n_train: int, batch_size: int = 32) -> Splits:
    train, validation = torch.utils.data.random_split(
        dataset,
        [n_train, len(dataset) - n_train],
        torch.Generator().manual_seed(0),
    )
    return Splits(DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(validation, batch_size))


def removed(model: nn.Module, splits: Splits, share: float, **how: Any) -> nn.Module:
    """``model`` without a share of the filters of each layer; it computes what closed gates compute on the data."""
    plan = per_layer(rank(taylor(model, splits.train, **how)), share)
    example = Batches(splits.train, 1).first.inputs
    small = prune(model, plan, example)
    assert same_outputs(small, mask(model, plan, example), splits.validation) < 1e-4
    assert parameters(small) < parameters(model)
    assert macs(small, example) < macs(model, example)
    return small


# A U-Net, a class for each pixel


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up, self.end = (
            self._block(1, 8), self._block(8, 16), nn.ConvTranspose2d(16, 8, 2, 2), self._block(16, 8)
        )  # fmt: skip
        self.classes = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.down(x)
        up = self.up(self.deep(F.max_pool2d(first, 2)))
        return {"out": self.classes(self.end(torch.cat([first, up], 1)))}


def discs(n: int) -> TensorDataset:
    """Bright discs in noise; the target says which pixels belong to them. The border does not count (255)."""
    generator = torch.Generator().manual_seed(1)
    place = torch.rand(n, 2, 1, 1, generator=generator) * 10 + 3
    radius = 2 + 3 * torch.rand(n, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    inside = ((rows - place[:, 0]) ** 2 + (columns - place[:, 1]) ** 2) < radius**2
    pictures = 0.7 * inside[:, None] + 0.5 * torch.randn(n, 1, 16, 16, generator=generator)
    targets = inside.long()
    targets[:, 0] = 255
    return TensorDataset(pictures, targets)


def iou(network: nn.Module, data: Data) -> float:
    """The intersection over the union of the discs that are found and those that are there."""
    both = either = 0
    with torch.no_grad():
        for pictures, targets in data:
            found, there, counts = network(pictures)["out"].argmax(1) == 1, targets == 1, targets != 255
            both += int((found & there & counts).sum())
            either += int(((found | there) & counts).sum())
    return both / either


def test_a_unet_keeps_its_discs() -> None:
    splits, loss = loaders(discs(320), 256), nn.CrossEntropyLoss(ignore_index=255)
    model = UNet()
    log = fit(model, splits, epochs=8, learning_rate=1e-2, loss=loss, evaluate=iou)
    assert (found := log["validation_accuracy"].iloc[-1]) > 0.8
    assert {layer.name for layer in prunable_layers(model)} == {"down.0", "deep.0", "up", "end.0"}
    assert evaluate(model, splits.validation, loss=loss).accuracy > 0.9  # of the pixels that count
    small = removed(model, splits, 0.25, loss=loss)
    fit(small, splits, epochs=4, learning_rate=1e-2, loss=loss)
    assert iou(small.eval(), splits.validation) > found - 0.05

    target = Target(macs=macs(model) * 2 // 3, points=5)
    between: dict[str, Any] = {"update": 8, "learning_rate": 5e-3, "loss": loss, "evaluate": iou}
    kept = compress(model, splits, target=target, per_layer=True, step=3, **between)
    assert macs(kept.network) <= macs(model) * 2 // 3
    assert iou(kept.network.eval(), splits.validation) > found - 0.051
    assert kept.history["loss_after"].isna().all()  # iou measures, not the loss


# A network of Hugging Face, batches that are dicts


class Dicts(Dataset[dict[str, Any]]):
    """As the datasets library gives them: one dict for each example."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(2)
        self.labels = torch.arange(n) % 3
        self.pictures = torch.randn(n, 3, 32, 32, generator=generator)
        self.pictures[torch.arange(n), self.labels] += 0.5  # the brighter colour is the class

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": self.pictures[i], "labels": int(self.labels[i])}


def test_a_hugging_face_resnet() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model, splits = transformers.ResNetForImageClassification(config), loaders(Dicts(240), 192)
    fit(model, splits, epochs=3, learning_rate=1e-2)
    assert (before := evaluate(model, splits.validation).accuracy) > 0.9
    small = removed(model, splits, 0.3)
    fit(small, splits, epochs=1, learning_rate=1e-3)
    assert evaluate(small, splits.validation).accuracy > before - 0.05


# Sound: one dimension


def tones(n: int) -> TensorDataset:
    """Sines of three pitches, in noise."""
    generator = torch.Generator().manual_seed(3)
    labels, time = torch.arange(n) % 3, torch.arange(64.0)
    phase = 6.28 * torch.rand(n, 1, generator=generator)
    waves = torch.sin(0.3 * (1 + labels[:, None]) * time + phase) + 0.3 * torch.randn(n, 64, generator=generator)
    return TensorDataset(waves[:, None], labels)


def test_sound() -> None:
    splits = loaders(tones(320), 256)
    model = nn.Sequential(
        nn.Conv1d(1, 8, 9), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 12, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    fit(model, splits, epochs=6, learning_rate=1e-2)
    assert evaluate(model, splits.validation).accuracy > 0.95
    small = removed(model, splits, 0.3)
    fit(small, splits, epochs=2, learning_rate=3e-3)
    assert evaluate(small, splits.validation).accuracy > 0.9


# Two inputs, and a training loop of the user's


class Same(nn.Module):
    """Whether two pictures show the same: one body for both, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.end = nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        first, second = self.body(left).flatten(1), self.body(right).flatten(1)
        compared: Tensor = self.end((first - second).abs())
        return compared


class Pairs:
    """Batches of ((left, right), targets), drawn again in each pass."""

    def __init__(self, n_batches: int, seed: int) -> None:
        self.n_batches, self.seed = n_batches, seed

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.n_batches):
            same = torch.randint(2, (32,), generator=generator)
            left = torch.randint(2, (32,), generator=generator)
            right = torch.where(same == 1, left, 1 - left)
            yield (self._stripes(left, generator), self._stripes(right, generator)), same

    def _stripes(self, upright: Tensor, generator: torch.Generator) -> Tensor:
        pattern = (torch.arange(10) % 4 < 2).float().expand(10, 10)
        picture = torch.where(upright[:, None, None] == 1, pattern, pattern.T)
        return (picture + 0.2 * torch.randn(32, 10, 10, generator=generator))[:, None]


def test_two_inputs_and_your_own_training() -> None:
    splits = Splits(Pairs(24, seed=4), Pairs(6, seed=5))
    model, trained = Same(), []

    def train(network: nn.Module) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for (left, right), targets in splits.train:
            optimizer.zero_grad()
            F.cross_entropy(network.train()(left, right), targets).backward()
            optimizer.step()
        trained.append(parameters(network))

    fit(model, splits, epochs=8, learning_rate=1e-2)
    assert evaluate(model, splits.validation).accuracy > 0.95
    found = compress(model.eval(), splits, target=Target(filters=6), step=3, update=train, n_images=96)
    assert len(trained) == len(found.history) - 1 == 2  # once for each step
    assert not found.network.training
    assert found.history["accuracy_after"].iloc[-1] > 0.9
    again = prune(model, found.plan, Batches(splits.train, 1).first.inputs)
    assert [p.shape for p in again.parameters()] == [p.shape for p in found.network.parameters()]


# Numbers as targets


def test_numbers_as_targets() -> None:
    """How much of a picture is bright; R², the share of the variance that is explained, is what is kept."""
    pictures = (torch.rand(320, 1, 12, 12) < torch.rand(320, 1, 1, 1)).float()
    splits = loaders(TensorDataset(pictures, pictures.mean((2, 3))), 256)

    def r2(network: nn.Module, data: Data) -> float:
        pairs = [(network(x), y) for x, y in data]
        outputs, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
        return float(1 - (outputs - targets).var() / targets.var())

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 1),
    )  # fmt: skip
    fit(model, splits, epochs=8, learning_rate=1e-2, loss=F.mse_loss)
    assert math.isnan(evaluate(model, splits.validation, loss=F.mse_loss).accuracy)
    small = removed(model, splits, 0.3, loss=F.mse_loss)
    fit(small, splits, epochs=2, learning_rate=3e-3, loss=F.mse_loss)
    with torch.no_grad():
        assert r2(small.eval(), splits.validation) > 0.9
    with pytest.raises(ValueError, match="there is none where targets are not classes: pass evaluate="):
        compress(model, splits, target=Target(points=1), loss=F.mse_loss, update=8)
