"""Proof on the example: a cut network runs wherever the whole one does, and computes what closed gates compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .calls import read_of, with_input
from .cutting import copy_of
from .example import Example, untouched
from .flow import tensors_in, user_frame

Closed: TypeAlias = Mapping[tuple[str, int], Tensor]
"""(weight of a layer, its dimension for what it reads) -> bool (channels,): those whose gates are closed."""
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far two ways to compute the same may lie apart, as a share of the largest output."""
_ROUNDINGS, _UNSURE = 10, 0.01
"""Some networks, most of them without training, make much of one rounding: a difference of at most so many times what
roundings of their layers' inputs do shows nothing, up to this share of the largest output."""


class Proof:
    """Holds cut copies of ``model`` against ``model`` itself, on the example; both are left as they are.

    Args:
        model: the whole network.
        example: inputs that it takes.
        trains: whether it runs in train mode, too.
    """

    def __init__(self, model: nn.Module, example: Example, trains: bool) -> None:
        self.model, self.example, self.trains = copy_of(model, shared=True).eval(), example, trains
        self.exact = _in_float64(self.model)

    def failure(self, small: nn.Module, closed: Closed) -> str:
        """Return why ``small`` is not ``model`` with these gates closed, or an empty text.

        It is where ``small`` runs in train mode, and where its outputs in eval mode are those of closed gates: on the
        example and on random numbers, with gradients and without, for forward may ask whether they are on. Both run in
        float64 where the network can.

        Raises:
            ValueError: forward returns no tensors.
        """
        exact = _in_float64(small)
        for example, grad in ((self.example, True), (self.example.drawn(), False)):
            with torch.set_grad_enabled(grad):
                try:
                    exactly = example.double()
                    second, first = _outputs(self.exact, exactly, closed), _outputs(exact, exactly, {})
                    whole, inputs = self.exact, exactly
                except Exception:  # a network that holds fast to its own precision
                    if example is not self.example and not example.passes(copy_of(self.model)):
                        continue  # nor does it take random numbers
                    second, whole, inputs = _outputs(self.model, example, closed), self.model, example
                    try:
                        first = _outputs(small, example, {})
                    except Exception as error:
                        return _fails(error)
            if not second:
                raise ValueError(
                    "forward returns no tensors, so nothing shows that a pruned network computes the same."
                )
            dtype = next((x.dtype for x in second if x.is_floating_point()), torch.float32)
            apart = difference(first, second)
            if not apart <= _TOLERANCE.get(dtype, 1e-3):
                rounding = difference(_outputs(whole, inputs, closed, rounded=True), second)
                if apart <= min(_ROUNDINGS * rounding, _UNSURE):
                    continue
                return (
                    f"without these filters, {type(self.model).__name__} computes something else than with their gates "
                    f"closed (outputs differ by {apart:.2g} of the largest, on an example of {self.example}). {DEPENDS}"
                )
        del exact
        if self.trains:
            try:
                with torch.enable_grad():
                    copy_of(small).train()(*self.example.args, **self.example.kwargs)
            except Exception as error:
                return _fails(error)
        return ""


def _fails(error: Exception) -> str:
    return f"forward fails without these filters, at {user_frame(error)}: {_first_line(error)}. {HINT}"


def _in_float64(network: nn.Module) -> nn.Module:
    try:
        return copy_of(network).eval().double()
    except Exception:  # what does not take its numbers either
        return network


class _Closing(TorchFunctionMode):
    """Layers read zeros in the place of closed channels; ``rounded``, they read all numbers off by a rounding."""

    def __init__(self, model: nn.Module, closed: Closed, rounded: bool) -> None:
        super().__init__()
        self.rounded = rounded
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(
            model.named_buffers(remove_duplicate=False)
        )
        self.closed = {(id(tensors[weight]), dim): channels for (weight, dim), channels in closed.items()}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = read_of(func, args, kwargs)
        closed = self.closed.get((id(read.weight), read.in_dim)) if read is not None else None
        if read is not None and (closed is not None or self.rounded):
            x = read.input
            if self.rounded:
                x = x * (1 + torch.finfo(x.dtype).eps * torch.randn_like(x))
            if closed is not None:
                x = x * (~closed).to(x).view(-1, *[1] * read.spatial)
            args, kwargs = with_input(read, x, args, kwargs)
        return func(*args, **kwargs)


def _outputs(network: nn.Module, example: Example, closed: Closed, rounded: bool = False) -> list[Tensor]:
    """The outputs of a fresh copy with these gates closed: a network may count its calls, or set its weights."""
    network = copy_of(network, shared=True).eval()
    with untouched(network), _Closing(network, closed, rounded):  # and what forward draws is drawn by every copy
        return list(tensors_in(network(*example.args, **example.kwargs)))


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of outputs, as a share of the largest number of each tensor.

    Infinity where the shapes differ, or where one is not finite and the other is.
    """
    if [x.shape for x in first] != [x.shape for x in second]:
        return float("inf")
    largest = 0.0
    for x, y in zip(first, second, strict=True):
        if x.numel():
            x, y = x.detach().double(), y.detach().double()
            scale = y[y.isfinite()].abs().max() if bool(y.isfinite().any()) else y.new_ones(())
            gap = torch.where(x == y, 0.0, (x - y).abs())
            gap = torch.where(x.isnan() & y.isnan(), 0.0, gap).nan_to_num(nan=float("inf"))
            largest = max(largest, float(gap.max() / scale) if scale > 0 else float(gap.max()))
    return largest


HINT = (
    "Sizes that forward holds as numbers do not follow: write x.flatten(1) or x.view(x.size(0), -1) for a flatten, and "
    "x.shape[1] for a number of channels."
)
DEPENDS = (
    "Something in forward depends on the number of channels or on the parameters as a whole, such as "
    "arange(x.shape[1]), a division by out_channels, or a mean over weights."
)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
