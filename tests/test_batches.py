"""Splits: examples in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cnnprune_utils.batches import Split, Splits


@pytest.fixture
def ten() -> Split:
    return Split(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 3).contiguous(), torch.arange(10))


@pytest.mark.parametrize(
    ("images", "labels", "error", "said"),
    [
        (np.zeros((2, 1, 4, 4)), torch.zeros(2).long(), TypeError, "images must be a torch.Tensor, not ndarray"),
        (torch.zeros(2, 1, 4, 4), [0, 1], TypeError, "labels must be a torch.Tensor, not list"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).long(), TypeError, "floating point, not torch.uint8"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2), TypeError, "must be torch.int64, not torch.float32"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).int(), TypeError, "must be torch.int64, not torch.int32"),
        (torch.zeros(2, 4, 4), torch.zeros(2).long(), ValueError, r"4 dimensions .* not shape \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1).long(), ValueError, r"one dimension .* not shape \(2, 1\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3).long(), ValueError, "2 images but 3 labels"),
        (torch.zeros(0, 1, 4, 4), torch.zeros(0).long(), ValueError, "at least one image"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, device="meta").long(), ValueError, "are on cpu, labels on meta"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(images, labels, error, said):
    with pytest.raises(error, match=said):
        Split(images, labels)


def test_a_split_cannot_be_changed(ten):
    with pytest.raises(AttributeError):
        ten.inputs = torch.zeros(10, 1, 2, 3)


def test_a_split_takes_other_floating_types_and_sizes():
    assert len(Split(torch.zeros(3, 3, 8, 5, dtype=torch.float64), torch.zeros(3).long())) == 3


def test_a_split_shows_itself_in_one_line(ten):
    assert repr(ten) == "Split(10 images of 1x2x3)"
    assert "\n" not in repr(Splits(ten, ten, ten))


def test_splits_are_compared_by_identity(ten):
    assert ten == ten
    assert ten != Split(ten.inputs, ten.targets)
    assert len({ten, Splits(ten, ten, ten)}) == 2


def test_to_moves_a_copy_and_leaves_the_split_where_it_is(ten):
    moved = Splits(ten, ten, ten).to("meta")
    assert {part.inputs.device.type for part in (moved.train, moved.validation, moved.test)} == {"meta"}
    assert {part.targets.device.type for part in (moved.train, moved.validation, moved.test)} == {"meta"}
    assert ten.inputs.device.type == ten.targets.device.type == "cpu"


def test_a_subset_is_drawn_without_replacement_with_the_labels_of_its_images(ten):
    for n in (1, 4, 10):
        drawn = ten.subset(n)
        assert len(drawn) == len(set(drawn.targets.tolist())) == n
        assert torch.equal(drawn.inputs[:, 0, 0, 0].long(), drawn.targets)


def test_a_subset_depends_on_its_seed_alone(ten):
    drawn = ten.subset(6).targets
    torch.rand(7)
    assert torch.equal(ten.subset(6, seed=0).targets, drawn)
    assert not torch.equal(ten.subset(6, seed=1).targets, drawn)
    state = torch.get_rng_state()
    ten.subset(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_smaller_subset_is_the_beginning_of_a_larger_one(ten):
    assert torch.equal(ten.subset(9).targets[:4], ten.subset(4).targets)


@pytest.mark.parametrize("n", [0, -1, 11])
def test_a_subset_of_an_impossible_size_is_refused(n, ten):
    with pytest.raises(ValueError, match=f"cannot draw {n} of 10 images: n must lie between 1 and 10"):
        ten.subset(n)


def test_batches_are_in_order_with_a_short_last_one(ten):
    batches = list(ten.batches(4))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), ten.inputs)
    assert torch.equal(torch.cat([labels for _, labels in batches]), ten.targets)
    assert [len(labels) for _, labels in ten.batches(5)] == [5, 5]
    assert [len(labels) for _, labels in ten.batches(99)] == [10]


def test_batches_in_order_are_views(ten):
    starts = [images.data_ptr() - ten.inputs.data_ptr() for images, _ in ten.batches(4)]
    assert starts == [0, 4 * 6 * 4, 8 * 6 * 4]


def test_shuffled_batches_hold_every_image_once_with_its_label(ten):
    batches = list(ten.batches(4, shuffle=True, generator=torch.Generator().manual_seed(3)))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(torch.cat([images for images, _ in batches])[:, 0, 0, 0].long(), labels)
    assert sorted(labels.tolist()) == list(range(10))
    assert labels.tolist() != list(range(10))


def order(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


def test_the_order_comes_from_the_generator_and_not_from_the_batch_size(ten):
    def drawn(batch_size: int, seed: int) -> list[int]:
        return order(ten.batches(batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed)))

    assert drawn(3, seed=0) == drawn(7, seed=0) != drawn(3, seed=1)
    generator = torch.Generator().manual_seed(0)
    epochs = [order(ten.batches(3, shuffle=True, generator=generator)) for _ in range(2)]
    assert epochs[0] != epochs[1]


def test_without_a_generator_the_order_follows_the_global_seed(ten):
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(order(ten.batches(3, shuffle=True)))
    assert drawn[0] == drawn[1]


def test_the_order_is_drawn_on_the_cpu_whatever_the_device(ten):
    # meta tensors have no contents; what is seen here is where the random numbers come from
    here, there = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    list(ten.batches(3, shuffle=True, generator=here))
    moved = list(ten.to("meta").batches(3, shuffle=True, generator=there))
    assert torch.equal(here.get_state(), there.get_state())
    assert not torch.equal(here.get_state(), torch.Generator().manual_seed(0).get_state())
    assert [labels.device.type for _, labels in moved] == ["meta"] * 4
    assert ten.to("meta").subset(4).inputs.shape == (4, 1, 2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_every_device_sees_the_same_order(ten):
    orders = [
        order(ten.to(device).batches(3, shuffle=True, generator=torch.Generator().manual_seed(0)))
        for device in ("cpu", "cuda")
    ]
    assert orders[0] == orders[1]
    assert torch.equal(ten.subset(4).targets, ten.to("cuda").subset(4).targets.cpu())


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused_when_asked_for(batch_size, ten):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {batch_size}"):
        ten.batches(batch_size)
