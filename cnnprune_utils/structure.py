"""Which filters can leave a network, and what leaves with each of them: see :mod:`.channels` for how that is found."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from .channels import Layer, Port, layers_of
from .plan import Plan

__all__ = ["Layer", "Port", "Structure", "analyse", "prunable_layers", "removals", "skipped_layers"]


@dataclass(frozen=True)
class Structure:
    """What :func:`analyse` found: a traced copy that shares the model's tensors, its layers, the skipped layers."""

    graph: fx.GraphModule
    layers: dict[str, Layer]
    skipped: dict[str, str]


def prunable_layers(model: nn.Module) -> list[Layer]:
    """What can leave ``model``, in the order in which the network calls it: a record for each convolution, or for each
    set of convolutions whose filters leave together.

    Raises:
        ValueError: torch.fx cannot trace the model.
    """
    return list(analyse(model).layers.values())


def skipped_layers(model: nn.Module) -> dict[str, str]:
    """The convolutions whose filters stay, each with the reason. Raises as :func:`prunable_layers`."""
    return analyse(model).skipped


def removals(layers: Mapping[str, Layer], skipped: Mapping[str, str], plan: Plan) -> dict[str, tuple[int, ...]]:
    """The filters that ``plan`` removes from each layer, checked against the network's layers.

    Raises:
        ValueError: the plan names a layer that is not prunable, or a filter that the layer does not have.
    """
    together = {producer: layer.name for layer in layers.values() for producer in layer.producers}
    for name, filters in plan.remove.items():
        if name not in layers:
            why = skipped.get(name, "there is no convolution of that name")
            if name in together:
                why = f"its filters leave together with those of {together[name]!r}, so name that layer"
            raise ValueError(f"cannot remove filters of {name!r}: {why}. Prunable layers: {', '.join(layers)}.")
        n = layers[name].out_channels
        if beyond := [k for k in filters if k >= n]:
            raise ValueError(
                f"{name!r} has filters 0 to {n - 1}; the plan removes {beyond}. Was it made for this model?"
            )
    return dict(plan.remove)


def analyse(model: nn.Module) -> Structure:
    """Trace ``model`` and sort its convolutions into prunable layers and skipped ones; ``model`` stays as it was.

    The graph is that of eval mode. A layer that is read by other modules in train mode is skipped as well, since the
    pruned network has to train.

    Raises:
        ValueError: torch.fx cannot trace the model.
    """
    owners = _owners(model)
    graph = _trace(model, train=False)
    layers, skipped = layers_of(graph, owners)
    try:
        in_training, why = layers_of(_trace(model, train=True), owners)
    except ValueError:  # a network that only traces in eval mode: nothing more can be known
        in_training, why = layers, {}
    for name, layer in list(layers.items()):
        other = in_training.get(name)
        if other is None or _ports(other) != _ports(layer):
            reason = f"in train mode {why.get(name, 'other modules read it')}"
            skipped |= dict.fromkeys(layer.producers, reason)
            del layers[name]
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name not in called:
            skipped.setdefault(name, "the network does not call it in eval mode")
    return Structure(graph, layers, skipped)


def _trace(model: nn.Module, *, train: bool) -> fx.GraphModule:
    """A traced copy of ``model`` that shares its parameters and, in eval mode, its buffers, but none of its modules.

    Tracing runs ``forward``, which in train mode may count steps in a buffer or draw random numbers: not the model's.
    """
    shared = loose_tensors(model)
    shared |= {id(tensor): tensor for tensor in chain(model.parameters(), () if train else model.buffers())}
    try:
        with torch.random.fork_rng(devices=[]):
            return fx.symbolic_trace(copy.deepcopy(model, shared).train(train))
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Pruning needs the network's graph: move branches "
            "that depend on the data out of forward, or prune the traceable part on its own."
        ) from error


def loose_tensors(model: nn.Module) -> dict[int, Any]:
    """A memo for ``copy.deepcopy``, which refuses a tensor with a history: a cached feature map, a masked weight."""
    attributes = chain.from_iterable(vars(module).values() for module in model.modules())
    return {
        id(value): value.detach().clone() for value in attributes if isinstance(value, Tensor) and not value.is_leaf
    }


def _owners(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, also those that the network never calls."""
    return Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))


def _ports(layer: Layer) -> tuple[Any, ...]:
    return layer.producers, layer.followers, layer.consumers
