"""Data: examples in memory, or anything that yields batches; and the batches that a network runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset

from .example import Example
from .files import fingerprint

_TARGETS = ("labels", "label", "targets", "target")
"""The entries of a batch that is a dict which are its targets; the others are arguments of forward."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Inputs with their targets, all in memory, on one device.

    Args:
        inputs: (N, ...), of any shape and type that the network takes. N is at least 1.
        targets: (N, ...), whatever the loss takes: classes are int64.

    Raises:
        TypeError: not tensors.
        ValueError: not as many targets as inputs, no example at all, or two devices.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be a torch.Tensor, not {type(value).__name__}; torch.as_tensor makes one. For a "
                    "network of several inputs, pass batches instead: a DataLoader, or a list of ((a, b), targets)."
                )
            if value.ndim == 0:
                raise ValueError(f"{name} must have a first dimension for the examples, not shape ()")
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.targets)} targets: each input needs one target")
        if len(self.inputs) == 0:
            raise ValueError("a split needs at least one example, got 0")
        if self.inputs.device != self.targets.device:
            raise ValueError(
                f"inputs are on {self.inputs.device}, targets on {self.targets.device}: move both to one device"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.inputs.shape[1:])
        return f"Split({len(self)} examples of {shape})"

    def to(self, device: torch.device | str) -> Split:
        """Return the same split on ``device``; this one stays where it is."""
        return Split(self.inputs.to(device), self.targets.to(device))

    def subset(self, n: int, seed: int = 0) -> Split:
        """Return ``n`` examples drawn at random without replacement, in random order.

        The same for the same seed, on every device; a smaller subset is the beginning of a larger one.

        Raises:
            ValueError: n is not between 1 and the length.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"cannot draw {n} of {len(self)} examples: n must lie between 1 and {len(self)}")
        drawn = torch.randperm(len(self), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:n]
        drawn = drawn.to(self.inputs.device)
        return Split(self.inputs[drawn], self.targets[drawn])

    def batches(
        self, batch_size: int, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return one pass over the split, in (inputs, targets) of ``batch_size``; the last batch may be shorter.

        Args:
            batch_size: examples in a batch.
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
            return ((self.inputs[i : i + batch_size], self.targets[i : i + batch_size]) for i in starts)
        order = torch.randperm(len(self), generator=generator, device="cpu").to(self.inputs.device)
        chosen = (order[i : i + batch_size] for i in starts)
        return ((self.inputs[batch], self.targets[batch]) for batch in chosen)


Data: TypeAlias = Split | Iterable[Any]
"""A :class:`Split`, or what can be iterated again and again and yields batches: a ``DataLoader``, or a list.

A batch is ``(inputs, targets)``, or a dict whose ``"labels"`` (or ``"targets"``) are the targets and whose other
entries are keyword arguments of forward. Inputs are a tensor, a tuple of positional arguments, or a dict of keyword
arguments. Batches are moved to the model's device one by one. A ``DataLoader`` draws from PyTorch's global random
numbers each time that it is iterated, as in a loop of your own.
"""


@dataclass(frozen=True, eq=False)
class Splits:
    """``train`` to fit on, ``validation`` to decide on, ``test`` to report once: :data:`Data` of any kind."""

    train: Any  # not Data: whoever has splits in memory reads their inputs and targets
    validation: Any
    test: Any = None

    def to(self, device: torch.device | str) -> Splits:
        """Return the same splits on ``device``; these stay where they are. Loaders stay as they are."""
        moved = (x.to(device) if isinstance(x, Split) else x for x in (self.train, self.validation, self.test))
        return Splits(*moved)


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one forward pass, and the targets of their examples.

    ``len`` is the number of examples: the first dimension of the first input.
    """

    inputs: Example
    targets: Any

    @classmethod
    def of(cls, given: Any, device: torch.device | None = None) -> Batch:
        """Return the batch that a loader yielded, on ``device``.

        Raises:
            TypeError: it is of another kind.
            ValueError: it has no targets, or not as many as inputs.
        """
        if isinstance(given, Batch):
            batch = given
        elif isinstance(given, Mapping):
            found = [name for name in _TARGETS if name in given]
            if len(found) != 1:
                raise ValueError(
                    f"a batch that is a dict needs its targets under one of {', '.join(_TARGETS)}; it has "
                    f"{', '.join(map(str, given)) or 'no entry'}."
                )
            rest = {name: value for name, value in given.items() if name != found[0]}
            batch = cls(Example(kwargs=rest), given[found[0]])
        elif isinstance(given, (tuple, list)) and len(given) == 2:
            inputs, targets = given
            batch = cls(_example(inputs), targets)
        else:
            what = f"{len(given)} parts" if isinstance(given, (tuple, list)) else f"a {type(given).__name__}"
            raise TypeError(
                f"a batch must be (inputs, targets), or a dict with its targets under 'labels', not {what}. Several "
                "inputs are a tuple: ((a, b), targets)."
            )
        batch = batch._mapped(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x)
        n = len(batch)
        if isinstance(batch.targets, Tensor) and batch.targets.ndim == 0:
            raise ValueError(
                "data yield batches, and this is a single example, with one number as its target: pass "
                "DataLoader(data, batch_size=32)."
            )
        if isinstance(batch.targets, Tensor) and len(batch.targets) != n:
            raise ValueError(f"a batch has {n} inputs and targets of shape {tuple(batch.targets.shape)}: one for each.")
        return batch if device is None else batch._mapped(lambda x: x.to(device) if isinstance(x, Tensor) else x)

    def __len__(self) -> int:
        for tensor in self._tensors():
            if tensor.ndim:
                return len(tensor)
        raise ValueError(f"a batch has no tensor among its inputs ({self.inputs}).")

    def first(self, n: int) -> Batch:
        """Return the batch of the first ``n`` examples: of each tensor that has a row for each example."""
        return self._rows(0, n)

    def one_by_one(self) -> Iterator[Batch]:
        """Yield batches of one example each."""
        return (self._rows(i, i + 1) for i in range(len(self)))

    def laid_out(self, layout: torch.memory_format) -> Batch:
        """Return the batch with its pictures copied into this order of memory."""

        # Not x.to(memory_format=...): with one channel both orders look alike to it, and it would do nothing.
        def copied(x: Any) -> Any:
            is_picture = isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()
            return torch.empty_like(x, memory_format=layout).copy_(x) if is_picture else x

        inputs = Example(tree_map(copied, self.inputs.args), tree_map(copied, dict(self.inputs.kwargs)))
        return Batch(inputs, self.targets)

    def through(self, model: nn.Module) -> Any:
        """Return the outputs of ``model``.

        Raises:
            TypeError: the inputs are bytes, or of torch.float64, and the network takes other numbers.
        """
        try:
            return model(*self.inputs.args, **self.inputs.kwargs)
        except RuntimeError as error:
            hint = self.inputs.hint(error)
            if not hint:
                raise
            message = f"{type(model).__name__} fails on inputs of {self.inputs}: {error}.{hint}"
            raise TypeError(message) from error

    def _tensors(self) -> Iterator[Tensor]:
        return (x for x in tree_leaves((self.inputs.args, dict(self.inputs.kwargs))) if isinstance(x, Tensor))

    def _rows(self, start: int, end: int) -> Batch:
        whole = len(self)
        return self._mapped(lambda x: x[start:end] if isinstance(x, Tensor) and x.ndim and len(x) == whole else x)

    def _mapped(self, change: Callable[[Any], Any]) -> Batch:
        args, kwargs, targets = tree_map(change, (self.inputs.args, dict(self.inputs.kwargs), self.targets))
        return Batch(Example(args, kwargs), targets)


def _example(inputs: Any) -> Example:
    if isinstance(inputs, Mapping):
        return Example(kwargs=dict(inputs))
    return Example(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,))


class Batches:
    """The batches of ``data``, on the device of a model; they can be iterated again and again.

    Args:
        data: see :data:`Data`.
        batch_size: examples in a batch of a :class:`Split`; other data come in batches of their own.
        model: the batches go where its parameters are; None: they stay where they are.

    Raises:
        TypeError: data of another kind.
        ValueError: a batch size below 1, or there is no batch.
    """

    def __init__(self, data: Data, batch_size: int, model: nn.Module | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.data, self.batch_size = checked(data), batch_size
        self.device = None if model is None else device_of(model)
        self._started = self._pass()
        self._first = next(self._started, None)
        if self._first is None:
            raise no_batch(data)

    @classmethod
    def of(cls, data: Data, batch_size: int, model: nn.Module) -> Batches:
        """Return the batches of ``data``, or ``data`` itself where it is such."""
        return data if isinstance(data, cls) else cls(data, batch_size, model)

    @property
    def first(self) -> Batch:
        """The first batch. The first iteration begins with it, so no batch is fetched twice."""
        assert self._first is not None
        return self._first

    def __iter__(self) -> Iterator[Batch]:
        if self._started is not None:
            started, self._started = self._started, None  # type: ignore[assignment]
            return chain([self.first], started)
        return self._pass()

    def _pass(self) -> Iterator[Batch]:
        if isinstance(self.data, Split):
            for inputs, targets in self.data.batches(self.batch_size):
                yield Batch.of((inputs, targets), self.device)
        else:
            for given in self.data:
                batch = Batch.of(given, self.device)
                if len(batch):
                    yield batch


def checked(data: Data) -> Data:
    """Return ``data``.

    Raises:
        TypeError: it is not :data:`Data`; with what to pass instead.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise TypeError("data yield batches, and a Dataset yields single examples: pass DataLoader(dataset, ...).")
    if isinstance(data, (Tensor, str, bytes, Mapping)) or _is_two_tensors(data) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be Split(inputs, targets), a DataLoader, or a list of batches (inputs, targets), not "
            f"{_kind(data)}."
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"{_kind(data)} runs out after one pass, and this takes several: pass a DataLoader, or the list of its "
            "batches."
        )
    return data


def no_batch(data: Data) -> ValueError:
    """Return the error for data without a batch."""
    return ValueError(f"the data ({_kind(data)}) yield no batch: there must be at least one example.")


def sample(data: Data, n: int, seed: int) -> Data:
    """Return at most ``n`` examples, in memory: of a split, drawn with ``seed``; of other data, the first ones."""
    if isinstance(data, Split):
        return data.subset(min(n, len(data)), seed)
    found: list[Batch] = []
    for batch in Batches(data, n):
        found.append(batch.first(n))
        n -= len(found[-1])
        if n <= 0:
            break
    return found


class First:
    """The first ``n`` batches of data, each time; ``len`` is how many there are, where the data know it."""

    def __init__(self, data: Iterable[Any], n: int) -> None:
        self.data, self.n = data, n

    def __len__(self) -> int:
        return min(self.n, len(self.data))  # type: ignore[arg-type]  # TypeError, as of the data themselves

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.data), self.n)


def count(data: Data, batch_size: int) -> int:
    """Return how many batches one pass has; data that do not know it are counted."""
    if isinstance(data, Split):
        return -(-len(data) // batch_size)
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return sum(1 for _ in data)


def identity(data: Data) -> str:
    """Return what tells data from others: a fingerprint of a split, and kind and length of what yields batches."""
    if isinstance(data, Split):
        return fingerprint([data.inputs, data.targets])
    try:
        return f"{type(data).__name__} of {len(data)}"  # type: ignore[arg-type]
    except TypeError:
        return type(data).__name__


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the model's first parameter or buffer; None if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def _is_two_tensors(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data)


def _kind(data: Any) -> str:
    if _is_two_tensors(data):
        return "a tuple of two tensors"
    return "an empty list" if isinstance(data, Sequence) and not data else f"a {type(data).__name__}"
