"""Fashion-MNIST as it is split; how its files come is in test_fetch.py."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book import fetch
from cnnprune_utils.book.fashion_mnist import CLASS_NAMES, load_fashion_mnist
from cnnprune_utils.book.fetch import FetchError


def test_loading_checks_the_files_every_time(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(fetch.data_root() / "FashionMNIST" / "raw", tmp_path / "FashionMNIST" / "raw")
    images = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    with images.open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01\x02\x03")
    monkeypatch.setattr(fetch, "sources", lambda: [])
    with pytest.raises(FetchError, match="t10k-images-idx3-ubyte: there, but with a wrong checksum"):
        load_fashion_mnist(tmp_path)


def test_the_splits_have_their_sizes(splits: Splits) -> None:
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [55_000, 5_000, 10_000]
    for part in (splits.train, splits.validation, splits.test):
        assert part.inputs.shape == (len(part), 1, 28, 28)
        assert part.inputs.dtype == torch.float32
        assert (part.inputs.min().item(), part.inputs.max().item()) == (0.0, 1.0)
        assert part.targets.dtype == torch.int64
        assert part.inputs.device.type == part.targets.device.type == "cpu"


def test_every_class_has_its_share_everywhere(splits: Splits) -> None:
    assert splits.validation.targets.bincount().tolist() == [500] * 10
    assert splits.train.targets.bincount().tolist() == [5500] * 10
    assert splits.test.targets.bincount().tolist() == [1000] * 10
    assert len(CLASS_NAMES) == 10


def test_the_class_names_are_torchvisions() -> None:
    assert list(CLASS_NAMES) == torchvision.datasets.FashionMNIST.classes


def test_train_and_validation_are_a_partition(splits: Splits) -> None:
    reference = torchvision.datasets.FashionMNIST(fetch.data_root(), train=True)
    together = [digest for part in (splits.train, splits.validation) for digest in digests(part)]
    expected = digests(Split(reference.data.unsqueeze(1).float() / 255, reference.targets))
    assert sorted(together) == sorted(expected)


def test_images_keep_the_order_of_the_files(splits: Splits) -> None:
    reference = torchvision.datasets.FashionMNIST(fetch.data_root(), train=False)
    expected = reference.data.numpy().astype(np.float32)[:, None] / np.float32(255)
    assert np.array_equal(splits.test.inputs.numpy(), expected)
    assert torch.equal(splits.test.targets, reference.targets)


def digests(split: Split) -> list[bytes]:
    rows = zip(split.inputs.mul(255).round().to(torch.uint8).numpy(), split.targets.tolist(), strict=True)
    return [hashlib.sha256(image.tobytes() + bytes([label])).digest() for image, label in rows]


def test_the_split_is_always_the_same(splits: Splits) -> None:
    # the committed results were measured on these very images
    whole = hashlib.sha256(b"".join(digests(splits.validation))).hexdigest()
    assert whole[:16] == "0aa36c93ddd3193e"


def test_the_seed_chooses_the_validation_images(splits: Splits) -> None:
    again = load_fashion_mnist()
    assert torch.equal(again.validation.inputs, splits.validation.inputs)
    assert torch.equal(again.train.targets, splits.train.targets)
    other = load_fashion_mnist(seed=1)
    assert not torch.equal(other.validation.inputs, splits.validation.inputs)
    assert other.validation.targets.bincount().tolist() == [500] * 10
    assert torch.equal(other.test.inputs, splits.test.inputs)


@pytest.mark.parametrize("n", [10, 59_990])
def test_the_validation_size_can_be_chosen(n: Any, splits: Splits) -> None:
    chosen = load_fashion_mnist(validation=n)
    assert chosen.validation.targets.bincount().tolist() == [n // 10] * 10
    assert chosen.train.targets.bincount().tolist() == [6000 - n // 10] * 10


def test_some_training_images_can_be_had_alone(splits: Splits) -> None:
    few = load_fashion_mnist(train=300)
    assert torch.equal(few.train.inputs, splits.train.subset(300).inputs)
    assert torch.equal(few.train.targets, splits.train.subset(300).targets)
    assert few.train.inputs.untyped_storage().nbytes() == 4 * 300 * 28 * 28  # no view into all of them
    assert torch.equal(few.validation.inputs, splits.validation.inputs)


@pytest.mark.parametrize("n", [0, -1, 55_001, 300.0, "300"])
def test_a_wrong_number_of_training_images_is_refused(n: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "fetch", lambda root: pytest.fail("fetched first"))
    with pytest.raises(ValueError, match=r"train must be a number from 1 to 55000.*; got") as error:
        load_fashion_mnist(train=n)
    assert repr(n) in str(error.value)


@pytest.mark.parametrize("n", [0, -10, 5, 5001, 60_000, 5000.0, "5000", None])
def test_an_unbalanced_validation_is_refused(n: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "fetch", lambda root: pytest.fail("fetched first"))
    with pytest.raises(ValueError, match=r"multiple of 10.*from 10 to 59990; got") as error:
        load_fashion_mnist(validation=n)
    assert repr(n) in str(error.value)


def test_an_old_processed_copy_is_not_trusted(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST" / "processed").mkdir(parents=True)
    shutil.copytree(fetch.data_root() / "FashionMNIST" / "raw", tmp_path / "FashionMNIST" / "raw")
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(20, 28, 28), torch.zeros(20)), tmp_path / "FashionMNIST" / "processed" / name)
    assert torch.equal(load_fashion_mnist(tmp_path).test.targets, splits.test.targets)
