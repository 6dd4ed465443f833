"""Copies of a network: whole ones, and ones without some of the numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

Kept: TypeAlias = dict[str, dict[int, Tensor]]
"""Name of a parameter or buffer -> dimension -> the indices that stay."""


def copy_of(model: nn.Module, *, shared: bool = False, instead: Mapping[int, Tensor] | None = None) -> nn.Module:
    """Return a copy of ``model``; with ``shared``, it has the same parameters.

    A network whose modules do something of their own in ``train()`` or ``eval()``, such as merging weights, shares
    nothing: it would change the other one.

    Args:
        model: the network.
        shared: whether parameters are the same tensors.
        instead: id of a tensor -> the tensor that the copy has in its place.
    """
    memo: dict[int, Any] = dict(instead or {})
    if shared and not switches(model):
        memo |= {id(parameter): parameter for parameter in model.parameters()}
    with _WithoutHistory():
        return copy.deepcopy(model, memo)


class _WithoutHistory(TorchFunctionMode):
    """``copy.deepcopy`` refuses a tensor with a history, such as a cached feature map: its numbers are copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def switches(model: nn.Module) -> bool:
    """Whether a module of ``model`` does something of its own in ``train()`` or ``eval()``."""
    own = {type(module).train for module in model.modules()} | {type(module).eval for module in model.modules()}
    return not own <= {nn.Module.train, nn.Module.eval} or any(
        name in vars(module) for module in model.modules() for name in ("train", "eval")
    )


def without(model: nn.Module, kept: Kept) -> nn.Module:
    """Return a copy of ``model`` with some of the numbers of its parameters and buffers.

    All other numbers, dtypes, devices, ``requires_grad`` and train/eval flags stay as they were, and so does what
    several modules share. The modules' records of their sizes (``out_channels``, ``num_features``, ...) follow.
    What ``kept`` does not name stays whole.
    """
    tensors = dict(chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)))
    smaller = {name: _smaller(tensors[name], dims) for name, dims in kept.items()}
    rows = {id(smaller[name]): dims[0] for name, dims in kept.items() if 0 in dims}
    small = copy_of(model, instead={id(tensors[name]): tensor for name, tensor in smaller.items()})
    changed = {id(tensor) for tensor in smaller.values()}
    for module in small.modules():
        held = {**module._parameters, **module._buffers}
        if not changed.isdisjoint(map(id, held.values())):
            _record_sizes(module, rows.get(id(held.get("weight"))))
    return small


def _smaller(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    result = tensor.detach()
    for dim, indices in dims.items():
        result = result.index_select(dim, indices.to(tensor.device))
    if tensor.ndim == 4 and not tensor.is_contiguous():
        result = result.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(result, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result


def _record_sizes(module: nn.Module, kept_rows: Tensor | None) -> None:
    """Set what the module says of its sizes to those of its tensors: repr, torchinfo and forward read it.

    The rows that a depthwise convolution keeps say how many of its channels are left.
    """
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, _ConvNd):
        rows, columns = weight.shape[:2]
        multiplier = module.out_channels // module.groups
        is_depthwise = 1 < module.groups == module.in_channels and kept_rows is not None
        if isinstance(module, _ConvTransposeNd):
            module.groups = rows if is_depthwise else module.groups
            module.in_channels, module.out_channels = rows, columns * module.groups
        else:
            if is_depthwise and kept_rows is not None:
                module.groups = len(set((kept_rows // multiplier).tolist()))
            module.in_channels, module.out_channels = columns * module.groups, rows
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = next(len(t) for t in (weight, module.running_mean) if t is not None)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
