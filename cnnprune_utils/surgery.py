"""Surgery: a new network without the plan's filters, and without everything that belonged to them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .nodes import is_depthwise
from .plan import Plan
from .structure import Layer, Port, analyse, loose_tensors, removals


def prune(model: nn.Module, plan: Plan) -> nn.Module:
    """A smaller copy of ``model``, without the plan's filters; it computes what :func:`.gates.mask` computes.

    A filter takes with it the filters of other convolutions that share its channel, their biases, the channel's numbers
    in the layer's followers (BatchNorm, depthwise convolution, PReLU) and the inputs of the consumers that read it: a
    channel of the next convolution, or the H * W columns of a linear layer behind a flatten. All kept numbers, dtypes,
    devices, ``requires_grad`` flags and train/eval flags stay as they were; ``model`` is unchanged. Make a new
    optimizer for the result: the old one holds the old parameters.

    Raises:
        ValueError: the plan does not fit the model, or it leaves a layer without filters.
    """
    found = analyse(model)
    outputs: dict[str, Tensor] = {}  # which outputs of a module stay
    inputs: dict[str, Tensor] = {}  # which inputs of a module stay
    for name, filters in removals(found.layers, found.skipped, plan).items():
        layer = found.layers[name]
        kept = _kept_filters(layer, filters)
        outputs.update(dict.fromkeys(layer.producers, kept))
        outputs.update({port.name: _kept_numbers(kept, port) for port in layer.followers})
        inputs.update({port.name: _kept_numbers(kept, port) for port in layer.consumers})
    pruned = copy.deepcopy(model, loose_tensors(model))
    for name in outputs | inputs:
        _cut(pruned.get_submodule(name), outputs.get(name), inputs.get(name))
    return pruned


def _kept_filters(layer: Layer, filters: tuple[int, ...]) -> Tensor:
    if len(filters) == layer.out_channels:
        raise ValueError(
            f"the plan removes all {layer.out_channels} filters of {layer.name!r}, and nothing would pass. "
            "Leave at least one, or use gates.mask to see what an empty layer does."
        )
    return torch.tensor([k for k in range(layer.out_channels) if k not in set(filters)])


def _kept_numbers(kept: Tensor, port: Port) -> Tensor:
    """The kept filters' numbers in a module that holds ``port.block`` numbers for each filter."""
    return (kept[:, None] * port.block + torch.arange(port.block)).flatten()


def _cut(module: nn.Module, outputs: Tensor | None, inputs: Tensor | None) -> None:
    """Keep only these outputs and inputs of the module, in place; None keeps all."""
    if outputs is not None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(module, name, outputs, dim=0)
        # The module's own record of its sizes: repr, torchinfo and forward read it.
        depthwise = ("in_channels", "groups") if is_depthwise(module) else ()
        for name in ("out_channels", "num_features", "num_parameters", *depthwise):
            if hasattr(module, name):
                setattr(module, name, len(outputs))
    if inputs is not None:
        _keep(module, "weight", inputs, dim=1)
        setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", len(inputs))


def _keep(module: nn.Module, name: str, index: Tensor, dim: int) -> None:
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    smaller = tensor.detach().index_select(dim, index.to(tensor.device))
    if tensor.ndim == 4 and not tensor.is_contiguous():
        smaller = smaller.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, smaller)
