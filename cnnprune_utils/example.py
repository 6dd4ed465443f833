"""Inputs to run a network on, and running it without a trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

_SIZES = (*range(8, 129, 4), *range(144, 513, 16))  # of the pictures that are tried


@dataclass(frozen=True)
class Example:
    """Positional and keyword arguments of a forward pass."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, given: Any = None) -> Example:
        """Return what was given, or the model's own ``example_input_array``, or the first picture that it takes.

        Args:
            model: in eval mode; it is run, to find a picture.
            given: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

        Raises:
            TypeError: ``given`` is of another kind.
            ValueError: no picture is taken.
        """
        device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        if given is None:
            given = getattr(model, "example_input_array", None)
        if given is None:
            return _smallest_picture(model, device)
        if not isinstance(given, (Tensor, tuple, Mapping, Example)):
            raise TypeError(
                f"example must be a tensor, a tuple of positional arguments or a dict of keyword arguments, not "
                f"{type(given).__name__}."
            )
        moved = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, given)
        if isinstance(moved, Example):
            return moved
        if isinstance(moved, Mapping):
            return cls(kwargs=dict(moved))
        return cls(moved if isinstance(moved, tuple) else (moved,))

    def drawn(self) -> Example:
        """Return random numbers in the place of those of floating point, in the same shapes."""
        generator = torch.Generator().manual_seed(1)

        def draw(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                return x
            return torch.randn(x.shape, generator=generator).to(x.device, x.dtype)

        return Example(tree_map(draw, self.args), tree_map(draw, dict(self.kwargs)))

    def double(self) -> Example:
        """Return the inputs with numbers of floating point in float64."""

        def convert(x: Any) -> Any:
            return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

        return Example(tree_map(convert, self.args), tree_map(convert, dict(self.kwargs)))

    def hint(self, error: Exception) -> str:
        """What to pass instead, where a network says this of these inputs; or an empty text."""
        kinds = {x.dtype for x in tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Tensor)}
        if torch.uint8 in kinds:
            return " They are bytes (torch.uint8): pass what it was trained on, such as inputs.float() / 255."
        if torch.float64 in kinds and "double" in str(error).lower():  # it says that the types differ
            return " They are torch.float64, as numpy makes them: for a network in float32 pass inputs.float()."
        return ""

    def passes(self, model: nn.Module) -> bool:
        """Whether ``model`` takes these inputs."""
        try:
            with torch.no_grad():
                model(*self.args, **self.kwargs)
        except Exception:  # whatever a network says of inputs that it does not take
            return False
        return True

    def __str__(self) -> str:
        """Return the shapes: ``2x3x32x32``."""
        parts = [_shape(value) for value in self.args]
        return ", ".join(parts + [f"{name}={_shape(value)}" for name, value in self.kwargs.items()])


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _smallest_picture(model: nn.Module, device: torch.device) -> Example:
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution, so there is no filter to remove.")
    generator, like = torch.Generator().manual_seed(0), first.weight.detach()
    training = copy.deepcopy(model).train()
    found: Example | None = None  # the smallest in eval mode; better one that passes in train mode, too
    for size in _SIZES:
        if found is not None and size > 4 * found.args[0].shape[-1]:
            break
        for channels in dict.fromkeys((first.in_channels, 3, 1)):
            shape = (2, channels, *[size] * (like.ndim - 2))
            picture = Example((torch.randn(shape, generator=generator).to(device, like.dtype),))
            if picture.passes(model):
                if picture.passes(training):
                    return picture
                found = found or picture
    if found is not None:
        return found
    raise ValueError(
        f"{type(model).__name__} takes no picture of {_SIZES[0]} to {_SIZES[-1]} pixels with {first.in_channels} "
        "channels: pass inputs that it takes as example=, such as example=images[:2]."
    )


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """What runs inside changes no random state and no buffer of ``model``; it draws the same numbers every time.

    A parameter whose ``data`` is set to another tensor gets its own back.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for buffer, before in buffers:
                if not buffer.is_meta and not same_numbers(buffer, before):
                    buffer.copy_(before)  # a version says nothing: batch_norm writes without a new one
        for parameter, data in parameters:
            if parameter.data.data_ptr() != data.data_ptr():
                parameter.data = data


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape and layout hold the same numbers; PyTorch compares no sparse ones."""
    if one.layout is torch.strided:
        return torch.equal(one, other)
    return torch.equal(one.to_dense(), other.to_dense())
