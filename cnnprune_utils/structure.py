"""Which filters can leave a network, and what leaves with each of them.

A filter's feature map is followed through the network's graph (``torch.fx``) from its convolution to the layers that
read it. On the way it meets nodes that keep channels apart: activations, pooling, dropout, flatten, and *followers*,
which hold numbers of their own for each channel (BatchNorm, depthwise convolution, PReLU). It ends at its *consumers*,
the convolutions and linear layers that mix channels. A layer whose feature map goes anywhere else (an add, a cat, the
output, anything unknown) is skipped, and the reason is kept: no layer is pruned on a guess.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from .nodes import (
    ACTIVATION_CALLS,
    CARRIER_CALLS,
    CARRIER_MODULES,
    JOINS,
    NORMS,
    flattens,
    inputs_of,
    is_activation,
    is_depthwise,
    is_size,
    name_of,
    reads_only_size,
)
from .plan import Plan


@dataclass(frozen=True)
class Port:
    """A module that holds numbers for a layer's channels.

    ``block`` counts the neighbouring numbers that belong to one filter: 1 for a convolution or a BatchNorm, H * W for
    a linear layer behind a flatten.
    """

    name: str
    block: int


@dataclass(frozen=True)
class Layer:
    """A convolution whose filters can leave.

    ``followers`` lose the same channels as the layer, ``consumers`` lose the inputs that read them. ``gate_edges``
    are the edges (from node, to node) of the traced graph on which a closed gate silences a filter for good: as far
    back as the last node that could turn a zero into something else.
    """

    name: str
    out_channels: int
    followers: tuple[Port, ...]
    consumers: tuple[Port, ...]
    gate_edges: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Structure:
    """What :func:`analyse` found: a traced copy that shares the model's tensors, its layers, the skipped layers."""

    graph: fx.GraphModule
    layers: dict[str, Layer]
    skipped: dict[str, str]


class _Skip(Exception):
    """Why the layer that is being followed is not prunable."""


def prunable_layers(model: nn.Module) -> list[Layer]:
    """The convolutions whose filters can leave ``model``, in the order in which the network calls them.

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
    for name, filters in plan.remove.items():
        if name not in layers:
            why = skipped.get(name, "there is no convolution of that name")
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
    layers, skipped = _sort(graph, owners)
    try:
        in_training, why = _sort(_trace(model, train=True), owners)
    except ValueError:  # a network that only traces in eval mode: nothing more can be known
        in_training, why = layers, {}
    for name in list(layers):
        other = in_training.get(name)
        if other is None or (other.followers, other.consumers) != (
            layers[name].followers,
            layers[name].consumers,
        ):
            skipped[name] = f"in train mode {why.get(name, 'other modules read it')}"
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


def _sort(graph: fx.GraphModule, owners: Counter[int]) -> tuple[dict[str, Layer], dict[str, str]]:
    follow = _Follower(graph, owners)
    layers: dict[str, Layer] = {}
    skipped: dict[str, str] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Conv2d):
            try:
                layers[node.target] = follow(node)
            except _Skip as reason:
                skipped[node.target] = str(reason)
    return layers, skipped


class _Follower:
    """Follows the feature map of one convolution after the other through one graph."""

    def __init__(self, graph: fx.GraphModule, owners: Counter[int]) -> None:
        self.modules: dict[str, nn.Module] = dict(graph.named_modules())
        self.calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
        self.read_directly = {n.target.rpartition(".")[0] for n in graph.graph.nodes if n.op == "get_attr"}
        self.owners = owners

    def __call__(self, node: fx.Node) -> Layer:
        conv = self._module(node)
        assert isinstance(conv, nn.Conv2d)
        if is_depthwise(conv):
            raise _Skip("depthwise: each filter belongs to the channel that it reads")
        if conv.groups > 1:
            raise _Skip(f"its filters come in {conv.groups} groups of equal size")
        self.channels = conv.out_channels
        self.followers: dict[str, Port] = {}
        self.consumers: dict[str, Port] = {}
        edges: dict[tuple[str, str], None] = {}
        paths = list(self._paths([node], 0, flat=False))
        for path, gate_at in paths:
            # Where the map forks behind this gate and gets a gate later on the other way, two gates would count there.
            while any(later > gate_at and other[: gate_at + 2] == path[: gate_at + 2] for other, later in paths):
                gate_at += 1
            edges[path[gate_at].name, path[gate_at + 1].name] = None
        if not self.consumers:
            raise _Skip("no layer reads it")
        ports = tuple(self.followers.values()), tuple(self.consumers.values())
        return Layer(str(node.target), self.channels, *ports, tuple(edges))

    def _paths(self, path: list[fx.Node], gate_at: int, flat: bool) -> Iterator[tuple[list[fx.Node], int]]:
        """Every path to a consumer, with the index of the node that the gate sits behind."""
        for user in path[-1].users:
            longer = [*path, user]
            if user.op == "output":
                raise _Skip("its feature map is part of the network's output")
            if reads_only_size(user, flat):
                continue
            others = [n for n in user.all_input_nodes if n is not path[-1] and not is_size(n)]
            if others or user.target in JOINS:
                raise _Skip(f"{name_of(user)} joins its channels with others")
            if user.op == "call_module":
                module = self._module(user)
                if self._is_consumer(module, flat):
                    self._note(self.consumers, user, module)
                    yield longer, gate_at
                    continue
                if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
                    yield from self._paths(longer, gate_at, True)
                elif is_activation(module):
                    yield from self._behind_activation(longer, flat)
                elif self._is_follower(module, flat):
                    self._note(self.followers, user, module)
                    yield from self._paths(longer, len(path), flat)
                elif isinstance(module, CARRIER_MODULES):
                    yield from self._paths(longer, gate_at, flat)
                else:
                    raise _Skip(f"{name_of(user)} ({type(module).__name__}) is not known to keep channels apart")
            elif user.target in ACTIVATION_CALLS:
                yield from self._behind_activation(longer, flat)
            elif user.target in CARRIER_CALLS:
                yield from self._paths(longer, gate_at, flat)
            elif flattened := flattens(user):
                yield from self._paths(longer, gate_at, flat or flattened == "flat")
            else:
                raise _Skip(f"{name_of(user)} is not known to keep channels apart")

    def _behind_activation(self, path: list[fx.Node], flat: bool) -> Iterator[tuple[list[fx.Node], int]]:
        if not path[-1].users:  # in place, as a statement: the map that others read changes under a gate
            raise _Skip(f"the result of {name_of(path[-1])} is not read: assign it, or leave the call out")
        yield from self._paths(path, len(path) - 1, flat)

    def _module(self, node: fx.Node) -> nn.Module:
        """The module that a node calls; if it holds numbers, they must be its own and be read here alone."""
        name = str(node.target)
        module = self.modules[name]
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.PReLU, *NORMS)) or is_activation(module):
            return module
        if self.calls[name] > 1:
            raise _Skip(f"{name} is called {self.calls[name]} times in one forward pass")
        if name in self.read_directly:
            raise _Skip(f"the network reads the parameters of {name} directly")
        if any(self.owners[id(p)] > 1 for p in module.parameters(recurse=False)):
            raise _Skip(f"{name} shares a parameter with another module")
        if parametrize.is_parametrized(module) or "weight" not in module._parameters or "bias" in vars(module):
            raise _Skip(f"the weight or bias of {name} is computed from other tensors")
        return module

    @staticmethod
    def _is_consumer(module: nn.Module, flat: bool) -> bool:
        return isinstance(module, nn.Linear) if flat else isinstance(module, nn.Conv2d) and module.groups == 1

    @staticmethod
    def _is_follower(module: nn.Module, flat: bool) -> bool:
        if flat:
            return isinstance(module, nn.BatchNorm1d)
        return isinstance(module, (nn.PReLU, *NORMS)) or is_depthwise(module)

    def _note(self, ports: dict[str, Port], node: fx.Node, module: nn.Module) -> None:
        width = inputs_of(module)
        block, rest = divmod(width, self.channels)
        if rest or not block:
            raise _Skip(f"{name_of(node)} reads {width} inputs, which {self.channels} channels do not divide")
        ports[str(node.target)] = Port(str(node.target), block)
