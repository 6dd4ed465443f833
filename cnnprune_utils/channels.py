"""How channels run through a traced graph: from the convolutions that make them to the layers that read them.

A filter's feature map is followed through the graph (``torch.fx``) from its convolution on. On the way it meets nodes
that keep channels apart: activations, pooling, dropout, flatten, and *followers*, which hold numbers of their own for
each channel (BatchNorm, depthwise convolution, PReLU). It ends at its *consumers*, the convolutions and linear layers
that mix channels. Where two maps meet number by number (a residual add), filter k of one convolution and filter k of
the other share a channel, and they leave together. A map that goes anywhere else (a cat, the output, anything unknown)
keeps its filters, and the reason is kept: nothing is pruned on a guess.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import fx, nn
from torch.nn.utils import parametrize

from .nodes import (
    ACTIVATION_CALLS,
    CARRIER_CALLS,
    CARRIER_MODULES,
    ELEMENTWISE,
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
    """Filters that can leave: those of a convolution, or of several whose feature maps meet number by number.

    Filter k of each of the ``producers`` makes channel k, and they leave together; the layer is named by the producer
    that is called first. ``followers`` lose the same channels, ``consumers`` lose the inputs that read them.
    ``gate_edges`` are the edges (from node, to node) of the traced graph on which a closed gate silences a channel for
    good: on the way to every consumer, behind the last node that could turn a zero into something else.
    """

    name: str
    out_channels: int
    producers: tuple[str, ...]
    followers: tuple[Port, ...]
    consumers: tuple[Port, ...]
    gate_edges: tuple[tuple[str, str], ...]


def layers_of(graph: fx.GraphModule, owners: Counter[int]) -> tuple[dict[str, Layer], dict[str, str]]:
    """(layers by name, name -> reason of the convolutions that stay); ``owners``: how many modules hold a parameter."""
    flow = _Flow(graph, owners)
    layers: dict[str, Layer] = {}
    skipped = dict.fromkeys(flow.depthwise, "depthwise: each filter belongs to the channel that it reads")
    for unit in flow.units():
        if not unit.consumers:
            unit.why = unit.why or "no layer reads it"
        if unit.why:
            skipped |= dict.fromkeys(unit.producers, unit.why)
        else:
            layers[unit.name] = flow.layer(unit)
    return layers, skipped


class _Stays(Exception):
    """Why the channels that are being followed stay."""


@dataclass(eq=False)
class _Unit:
    """Channels that stay or leave together, and everything that holds numbers for them."""

    channels: int
    producers: list[str]
    nodes: list[fx.Node]  # whose results carry these channels
    why: str = ""  # they stay
    followers: dict[str, Port] = field(default_factory=dict)
    consumers: dict[str, Port] = field(default_factory=dict)
    reads: set[fx.Node] = field(default_factory=set)  # the calls of the consumers

    @property
    def name(self) -> str:
        return self.producers[0]

    def absorb(self, other: _Unit) -> None:
        self.producers += other.producers
        self.nodes += other.nodes
        self.why = self.why or other.why
        self.followers |= other.followers
        self.consumers |= other.consumers
        self.reads |= other.reads

    def note(self, ports: dict[str, Port], node: fx.Node, module: nn.Module) -> None:
        width = inputs_of(module)
        block, rest = divmod(width, self.channels)
        if rest or not block:
            raise _Stays(f"{name_of(node)} reads {width} inputs, which {self.channels} channels do not divide")
        ports[str(node.target)] = Port(str(node.target), block)


class _Flow:
    """Follows all channels through one graph, node by node, in the order of the calls."""

    def __init__(self, graph: fx.GraphModule, owners: Counter[int]) -> None:
        self.modules: dict[str, nn.Module] = dict(graph.named_modules())
        self.calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
        self.read_directly = {n.target.rpartition(".")[0] for n in graph.graph.nodes if n.op == "get_attr"}
        self.owners = owners
        self.order = {node: i for i, node in enumerate(graph.graph.nodes)}
        self.depthwise: list[str] = []
        self.carried: dict[fx.Node, _Unit] = {}
        self.flat: set[fx.Node] = set()  # (n, features); the others are maps, (n, channels, height, width)
        self.carriers: set[fx.Node] = set()  # these map zeros to zeros, so a gate may stand before them
        for node in graph.graph.nodes:
            self._visit(node)

    def units(self) -> list[_Unit]:
        """In the order in which their first producers are called."""
        return list(dict.fromkeys(self.carried.values()))

    def layer(self, unit: _Unit) -> Layer:
        clean = set(unit.reads)  # from here on, nothing turns a zero into something else, and nothing else reads it
        for node in reversed(unit.nodes):
            if node in self.carriers and all(user in clean for user in self._readers(node)):
                clean.add(node)
        edges = [(n.name, u.name) for n in unit.nodes if n not in clean for u in self._readers(n) if u in clean]
        ports = tuple(unit.followers.values()), tuple(unit.consumers.values())
        return Layer(unit.name, unit.channels, tuple(unit.producers), *ports, tuple(edges))

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if not reads_only_size(user, node in self.flat)]

    def _visit(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if n in self.carried]
        if any(not reads_only_size(node, n in self.flat) for n in sources):
            try:
                self._follow(node, sources)
            except _Stays as reason:
                for unit in {self.carried[n] for n in sources}:
                    unit.why = unit.why or str(reason)
        if node.op == "call_module" and isinstance(conv := self.modules[str(node.target)], nn.Conv2d):
            self._start(node, conv)

    def _start(self, node: fx.Node, conv: nn.Conv2d) -> None:
        """A convolution makes channels; a depthwise one passes on those that it reads."""
        if is_depthwise(conv):
            self.depthwise.append(str(node.target))
            return
        unit = self.carried[node] = _Unit(conv.out_channels, [str(node.target)], [node])
        try:
            self._module(node)
        except _Stays as reason:
            unit.why = str(reason)
        if conv.groups > 1:
            unit.why = f"its filters come in {conv.groups} groups of equal size"

    def _follow(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """What a node does to the channels that it reads; raises _Stays where they cannot be followed."""
        name, target = name_of(node), node.target
        if node.op == "output":
            raise _Stays("its feature map is part of the network's output")
        if target in JOINS or any(n not in sources and not is_size(n) for n in node.all_input_nodes):
            raise _Stays(f"{name} joins its channels with others")
        if target in ELEMENTWISE:
            self._meet(node, sources)
            return
        if len(sources) > 1:
            raise _Stays(f"{name} joins its channels with others")
        unit, flat = self.carried[sources[0]], sources[0] in self.flat
        module = self._module(node) if node.op == "call_module" else None
        if module is not None and self._is_consumer(module, flat):
            unit.note(unit.consumers, node, module)
            unit.reads.add(node)
            return
        flattened = "flat" if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1) else ""
        flattened = flattened or (flattens(node) if module is None else "")
        if is_activation(module) or (module is None and target in ACTIVATION_CALLS):
            _check_is_read(node)
        elif module is not None and self._is_follower(module, flat):
            unit.note(unit.followers, node, module)
        elif flattened or isinstance(module, CARRIER_MODULES) or (module is None and target in CARRIER_CALLS):
            self.carriers.add(node)
        else:
            kind = "" if module is None else f" ({type(module).__name__})"
            raise _Stays(f"{name}{kind} is not known to keep channels apart")
        self._carry(node, unit, flat or flattened == "flat")

    def _meet(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """Maps meet number by number: from here on, and before, their channels are the same ones."""
        together = {self.carried[n] for n in sources}
        if len({unit.channels for unit in together}) > 1 or len({n in self.flat for n in sources}) > 1:
            raise _Stays(f"{name_of(node)} joins its channels with others")
        _check_is_read(node)
        first, *others = (unit for unit in self.units() if unit in together)
        for other in others:
            first.absorb(other)
        # In the order of the calls, also for maps that meet late.
        first.nodes.sort(key=self.order.__getitem__)
        first.producers.sort(key=[str(n.target) for n in first.nodes].index)
        self.carried |= dict.fromkeys(first.nodes, first)
        self._carry(node, first, sources[0] in self.flat)

    def _carry(self, node: fx.Node, unit: _Unit, flat: bool) -> None:
        self.carried[node] = unit
        unit.nodes.append(node)
        if flat:
            self.flat.add(node)

    def _module(self, node: fx.Node) -> nn.Module:
        """The module that a node calls; if it holds numbers, they must be its own and be read here alone."""
        name = str(node.target)
        module = self.modules[name]
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.PReLU, *NORMS)) or is_activation(module):
            return module
        if self.calls[name] > 1:
            raise _Stays(f"{name} is called {self.calls[name]} times in one forward pass")
        if name in self.read_directly:
            raise _Stays(f"the network reads the parameters of {name} directly")
        if any(self.owners[id(p)] > 1 for p in module.parameters(recurse=False)):
            raise _Stays(f"{name} shares a parameter with another module")
        if parametrize.is_parametrized(module) or "weight" not in module._parameters or "bias" in vars(module):
            raise _Stays(f"the weight or bias of {name} is computed from other tensors")
        return module

    @staticmethod
    def _is_consumer(module: nn.Module, flat: bool) -> bool:
        return isinstance(module, nn.Linear) if flat else isinstance(module, nn.Conv2d) and module.groups == 1

    @staticmethod
    def _is_follower(module: nn.Module, flat: bool) -> bool:
        if flat:
            return isinstance(module, nn.BatchNorm1d)
        return isinstance(module, (nn.PReLU, *NORMS)) or is_depthwise(module)


def _check_is_read(node: fx.Node) -> None:
    if not node.users:  # in place, as a statement: the map that others read changes under a gate
        raise _Stays(f"the result of {name_of(node)} is not read: assign it, or leave the call out")
