"""The calls by which a network reads its feature maps: convolutions and linear layers, as functions.

Every module ends in one of these functions, whatever its ``forward``, its hooks and its subclasses do. A
``TorchFunctionMode`` sees each call, so what is analysed, what is gated and what runs are the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_READERS: dict[Callable[..., Any], tuple[int, bool, tuple[str, ...]]] = {
    F.linear: (0, False, ("input", "weight", "bias")),
    **{f: (k, False, _CONV) for k, f in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    **{
        f: (k, True, _TRANSPOSED) for k, f in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), 1)
    },
}
"""Function -> spatial dimensions, whether it is transposed, the names of its arguments."""


@dataclass(frozen=True)
class Read:
    """One call of a convolution or a linear layer.

    Attributes:
        input, weight, bias: as they were passed.
        spatial: how many dimensions of positions it has; 0 for a linear layer.
        transposed: whether it is a transposed convolution, whose weight is (in, out / groups, ...).
        groups: 1 for a linear layer.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    spatial: int
    transposed: bool
    groups: int

    @property
    def channel_dim(self) -> int:
        """The dimension of the input along which channels lie, counted from the end."""
        return -1 - self.spatial

    @property
    def in_dim(self) -> int:
        """The weight's dimension for the channels that it reads."""
        return 0 if self.transposed else 1

    @property
    def in_channels(self) -> int:
        return self.input.shape[self.channel_dim]

    @property
    def is_depthwise(self) -> bool:
        """Whether each filter reads one channel of its own."""
        return 1 < self.groups == self.in_channels


def read_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Read | None:
    """Return the call as a :class:`Read`; None if it is another function's."""
    try:
        kind = _READERS.get(function)
    except TypeError:  # a callable that cannot be hashed
        return None
    if kind is None:
        return None
    spatial, transposed, names = kind
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return Read(given["input"], given["weight"], given.get("bias"), spatial, transposed, given.get("groups", 1))


def with_input(
    read: Read, x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of the call, with ``x`` in place of its input."""
    if "input" in kwargs:
        return list(args), {**kwargs, "input": x}
    return [x, *args[1:]], dict(kwargs)


def tensor_names(model: nn.Module) -> dict[int, str]:
    """Return id -> name of each parameter and buffer; one that several modules share has the name of the first."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names: dict[int, str] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), name)
    return names


def layer_name(tensor: str) -> str:
    """Return the name of the layer that holds the weight ``tensor``: the module's, or the parameter's own."""
    return tensor.removesuffix(".weight")
