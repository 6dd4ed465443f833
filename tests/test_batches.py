"""Data: splits in memory, and whatever yields batches."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cnnprune_utils.batches import Batch, Batches, First, Split, Splits, count, identity, sample


@pytest.fixture
def ten() -> Split:
    return Split(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 3).contiguous(), torch.arange(10))


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "said"),
    [
        (np.zeros((2, 1, 4, 4)), torch.zeros(2), TypeError, "inputs must be a torch.Tensor, not ndarray"),
        (torch.zeros(2, 1, 4, 4), [0, 1], TypeError, "targets must be a torch.Tensor, not list"),
        ((torch.zeros(2), torch.zeros(2)), torch.zeros(2), TypeError, r"a list of \(\(a, b\), targets\)"),
        (torch.zeros(()), torch.zeros(2), ValueError, r"a first dimension for the examples, not shape \(\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3), ValueError, "2 inputs but 3 targets"),
        (torch.zeros(0, 1, 4, 4), torch.zeros(0), ValueError, "at least one example"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, device="meta"), ValueError, "are on cpu, targets on meta"),
    ],
)
def test_impossible_splits_are_refused(inputs, targets, error, said):
    with pytest.raises(error, match=said):
        Split(inputs, targets)


def test_a_split_cannot_be_changed(ten):
    with pytest.raises(AttributeError):
        ten.inputs = torch.zeros(10, 1, 2, 3)


def test_a_split_takes_other_floating_types_and_sizes():
    assert len(Split(torch.zeros(3, 3, 8, 5, dtype=torch.float64), torch.zeros(3).long())) == 3


def test_a_split_shows_itself_in_one_line(ten):
    assert repr(ten) == "Split(10 examples of 1x2x3)"
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
    with pytest.raises(ValueError, match=f"cannot draw {n} of 10 examples: n must lie between 1 and 10"):
        ten.subset(n)


def test_batches_are_in_order_with_a_short_last_one(ten):
    batches = list(ten.batches(4))
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), ten.inputs)
    assert torch.equal(torch.cat([labels for _, labels in batches]), ten.targets)
    assert [len(labels) for _, labels in ten.batches(5)] == [5, 5]
    assert [len(labels) for _, labels in ten.batches(99)] == [10]


def test_batches_in_order_are_views(ten):
    starts = [inputs.data_ptr() - ten.inputs.data_ptr() for inputs, _ in ten.batches(4)]
    assert starts == [0, 4 * 6 * 4, 8 * 6 * 4]


def test_shuffled_batches_hold_every_image_once_with_its_label(ten):
    batches = list(ten.batches(4, shuffle=True, generator=torch.Generator().manual_seed(3)))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(torch.cat([inputs for inputs, _ in batches])[:, 0, 0, 0].long(), labels)
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


# Data of other kinds

LOADER = DataLoader(TensorDataset(torch.arange(10.0)[:, None], torch.arange(10)), batch_size=4)


def lengths(data: Any) -> list[int]:
    return [len(batch) for batch in Batches(data, 4)]


def test_batches_come_again_and_again(ten) -> None:
    for data in (ten, LOADER, list(LOADER)):
        batches = Batches(data, 4)
        assert len(batches.first) == 4
        assert [[len(batch) for batch in batches] for _ in range(3)] == [[4, 4, 2]] * 3


def test_the_first_batch_is_fetched_once() -> None:
    class Counted:
        fetched = 0

        def __iter__(self) -> Iterator[Any]:
            for batch in LOADER:
                self.fetched += 1
                yield batch

    data = Counted()
    batches = Batches(data, 4)
    assert (batches.first.targets.tolist(), data.fetched) == ([0, 1, 2, 3], 1)
    assert [batch.targets.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert data.fetched == 3


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [
        ((torch.zeros(2, 3), torch.zeros(2)), 1, []),
        ([torch.zeros(2, 3), torch.zeros(2)], 1, []),
        (((torch.zeros(2), torch.zeros(2)), torch.zeros(2)), 2, []),
        ([[torch.zeros(2), torch.zeros(2)], torch.zeros(2)], 2, []),
        (({"x": torch.zeros(2), "mask": None}, torch.zeros(2)), 0, ["x", "mask"]),
        ({"pixel_values": torch.zeros(2), "labels": torch.zeros(2)}, 0, ["pixel_values"]),
        (UserDict(x=torch.zeros(2), target=torch.zeros(2)), 0, ["x"]),
        ((np.zeros((2, 3), np.float32), np.zeros(2)), 1, []),
    ],
)
def test_inputs_and_targets_are_told_apart(given: Any, args: int, kwargs: list[str]) -> None:
    batch = Batch.of(given)
    assert (len(batch.inputs.args), list(batch.inputs.kwargs), len(batch)) == (args, kwargs, 2)
    assert batch.targets.shape == (2,)
    assert all(isinstance(x, Tensor) for x in batch.inputs.args)


def test_the_first_examples_of_a_batch() -> None:
    batch = Batch.of({"x": torch.arange(4), "scale": torch.ones(3), "labels": torch.arange(4)}).first(2)
    assert (batch.inputs.kwargs["x"].tolist(), len(batch.inputs.kwargs["scale"])) == ([0, 1], 3)
    assert batch.targets.tolist() == [0, 1]
    assert [one.targets.tolist() for one in batch.one_by_one()] == [[0], [1]]


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (iter(LOADER), TypeError, "runs out after one pass, and this takes several: pass a DataLoader, or the list"),
        ((batch for batch in LOADER), TypeError, "a generator runs out after one pass"),
        (LOADER.dataset, TypeError, r"a Dataset yields single examples: pass DataLoader\(dataset, \.\.\.\)"),
        ((torch.zeros(2), torch.zeros(2)), TypeError, r"must be Split\(inputs, targets\).* not a tuple of two tensors"),
        (torch.zeros(2), TypeError, r"must be Split\(inputs, targets\), a DataLoader, or a list of batches"),
        (3, TypeError, "not a int"),
        ([], ValueError, r"the data \(an empty list\) yield no batch"),
        ([torch.zeros(2, 3)], TypeError, r"a batch must be \(inputs, targets\), .* not a Tensor"),
        ([(torch.zeros(2), torch.zeros(2), torch.zeros(2))], TypeError, r"not 3 parts\. Several inputs are a tuple"),
        (
            [{"x": torch.zeros(2)}],
            ValueError,
            "needs its targets under one of labels, label, targets, target; it has x",
        ),
        ([(torch.zeros(2), torch.zeros(3))], ValueError, r"2 inputs and targets of shape \(3,\): one for each"),
        (DataLoader(LOADER.dataset, batch_size=None), ValueError, r"a single example, .* DataLoader\(data, batch_size"),
        ([("text", torch.zeros(3))], ValueError, "a batch has no tensor among its inputs"),
    ],
)
def test_what_is_not_data_says_what_to_pass(data: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        lengths(data)


def test_bytes_say_what_the_network_takes() -> None:
    model = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(
        TypeError, match=r"Conv2d fails on inputs of 2x1x4x4: .* They are bytes .* such as inputs\.float\(\) / 255"
    ):
        Batch.of((torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2))).through(model)


def test_numbers_of_numpy_say_what_to_pass() -> None:
    given = Batch.of((np.zeros((2, 1, 4, 4)), np.zeros(2)))
    with pytest.raises(TypeError, match=r"They are torch\.float64, .* pass inputs\.float\(\)"):
        given.through(torch.nn.Conv2d(1, 1, 1))


def test_what_fails_for_another_reason_stays_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Unflatten(1, (2, 2))).double()
    with pytest.raises(RuntimeError) as failed:
        Batch.of((torch.zeros(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2))).through(model)
    assert "float64" not in str(failed.value)


def test_a_sample_is_held_in_memory(ten) -> None:
    assert torch.equal(sample(ten, 4, seed=1).targets, ten.subset(4, 1).targets)
    assert len(sample(ten, 99, seed=1)) == 10
    for n, expected in ((6, [4, 2]), (4, [4]), (99, [4, 4, 2])):
        held = sample(LOADER, n, seed=1)
        assert [len(batch) for batch in held] == expected == lengths(held)


class Unknown:
    """Batches that do not know how many they are."""

    def __iter__(self) -> Iterator[Any]:
        return iter(LOADER)


def test_the_first_batches() -> None:
    assert [lengths(First(LOADER, n)) for n in (1, 2, 9)] == [[4], [4, 4], [4, 4, 2]]
    assert [len(First(LOADER, n)) for n in (1, 2, 9)] == [1, 2, 3]
    stream = First(Unknown(), 2)
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        len(stream)
    assert count(stream, 4) == 2


def test_batches_are_counted_where_nobody_knows(ten) -> None:
    assert [count(data, 4) for data in (ten, LOADER, list(LOADER), Unknown())] == [3, 3, 3, 3]


def test_identity_does_not_read_a_stream(ten) -> None:
    assert identity(ten) == identity(Split(ten.inputs.clone(), ten.targets)) != identity(ten.subset(10, 1))
    assert identity(LOADER) == "DataLoader of 3"
