"""Which filters can be removed from a network, and which numbers are removed with each of them.

The network runs on an example while :mod:`.flow` follows the names of its filters. Numbers whose names met belong
together: removing the filter deletes them all. A convolution whose names reach the output, or something that mixes
channels, or something unknown, keeps its filters, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .calls import layer_name
from .cutting import Kept, copy_of, without
from .example import Example, untouched
from .flow import Flow, Undecided, user_frame
from .plan import Plan
from .proof import Proof

Owners: TypeAlias = dict[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Place:
    """Where a layer's filters have numbers: in one parameter or buffer, along one dimension.

    Attributes:
        tensor: the name of the parameter or buffer.
        dim: the dimension.
        indices: for each filter, its indices along that dimension.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layer:
    """Filters that can be removed one by one: those of a convolution, or of several whose feature maps meet.

    Attributes:
        name: the first convolution that makes them.
        out_channels: how many can be removed one by one, and the length of their scores. Of a grouped convolution it is
            the channels of a group: the same place of each group is removed together.
        producers: all layers that write these channels, in the order in which they are called. One that writes the
            channels of several others, behind a cat, is a producer of each of their layers.
    """

    name: str
    out_channels: int
    producers: tuple[str, ...]
    _first: int = field(repr=False, compare=False)  # its first filter, counted through all layers
    _owners: Owners = field(repr=False, compare=False)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """What is removed with each filter, in the order of the model's parameters and buffers."""
        found = []
        for (tensor, dim), owners in self._owners.items():
            indices: list[list[int]] = [[] for _ in range(self.out_channels)]
            for index, owner in enumerate((owners - self._first).tolist()):
                if 0 <= owner < self.out_channels:
                    indices[owner].append(index)
            if any(indices):
                found.append(Place(tensor, dim, tuple(map(tuple, indices))))
        return tuple(found)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.out_channels} filters, made by {', '.join(self.producers)}"]
        for place in self.places:
            each = {len(indices) for indices in place.indices}
            numbers = f"{min(each)}" if len(each) == 1 else f"{min(each)} to {max(each)}"
            lines.append(f"  {place.tensor}, dimension {place.dim}: {numbers} for each filter")
        return "\n".join(lines)


@dataclass(frozen=True)
class Structure:
    """What :func:`analyse` found. Filters are counted through all layers; -1 stands for what stays.

    Attributes:
        layers: by name, in the order in which the network calls them.
        skipped: the convolutions whose filters stay, with the reason.
        owners: (parameter or buffer, dimension) -> the filter to which each index along it belongs.
        readers: (weight of a layer, its dimension for what it reads) -> the filter behind each channel that is read.
        outputs: weight of a producer -> its dimension of output channels.
        example: the inputs on which this was seen.
        trains: whether the network runs in train mode on the example.
        batch_statistics: layers that normalise with the statistics of the batch, also in eval mode.
        overwritten: readers whose input forward writes to afterwards, in place.
        output: the weight of the layer whose result is the network's output, or an empty text.
    """

    layers: dict[str, Layer]
    skipped: dict[str, str]
    owners: Owners
    readers: Owners
    outputs: dict[str, int]
    example: Example
    trains: bool
    batch_statistics: tuple[str, ...] = ()
    overwritten: frozenset[tuple[str, int]] = frozenset()
    output: str = ""

    @classmethod
    def of(
        cls, widths: Mapping[str, int], producers: Mapping[str, tuple[str, ...]], owners: Owners, **rest: Any
    ) -> Structure:
        """Return the structure with layers of these names and numbers of filters."""
        first = accumulate(widths.values(), initial=0)
        layers = {name: Layer(name, n, producers[name], i, owners) for (name, n), i in zip(widths.items(), first)}  # noqa: B905
        return cls(layers, owners=owners, **rest)

    def filters(self, plan: Plan) -> Tensor:
        """Return the plan's filters, counted through all layers."""
        return torch.tensor(
            [self.layers[name]._first + k for name, ks in plan.remove.items() for k in ks], dtype=torch.int64
        )

    def check(self, plan: Plan) -> None:
        """Raise ValueError where ``plan`` names a layer that stays, or a filter that the layer does not have."""
        together = {producer: layer.name for layer in self.layers.values() for producer in layer.producers}
        for name, filters in plan.remove.items():
            if name not in self.layers:
                why = self.skipped.get(name, "there is no convolution of that name")
                if name in together:
                    why = f"its filters are removed together with those of {together[name]!r}, so name that layer"
                prunable = ", ".join(self.layers) or "none"
                raise ValueError(f"cannot remove filters of {name!r}: {why.rstrip('.')}. Prunable layers: {prunable}.")
            n = self.layers[name].out_channels
            if beyond := [k for k in filters if k >= n]:
                raise ValueError(
                    f"{name!r} has filters 0 to {n - 1}; the plan removes {beyond}. Was it made for this model?"
                )

    def kept(self, plan: Plan) -> Kept:
        """Return what a plan that fits leaves of each parameter and buffer that it cuts."""
        gone = self.filters(plan)
        kept: Kept = {}
        for (tensor, dim), owners in self.owners.items():
            stays = ~torch.isin(owners, gone)
            if not bool(stays.all()):
                kept.setdefault(tensor, {})[dim] = stays.nonzero().flatten()
        return kept

    def closed(self, plan: Plan) -> dict[tuple[str, int], Tensor]:
        """Return reader -> bool (channels,): the channels that it reads of the plan's filters."""
        gone = self.filters(plan)
        closed = {reader: torch.isin(filters, gone) for reader, filters in self.readers.items()}
        return {reader: channels for reader, channels in closed.items() if bool(channels.any())}

    def after(self, plan: Plan) -> Structure:
        """Return the structure of the network without the plan's filters; nothing is run again.

        Groups stay what they were: a plan for the result fits, behind ``plan``, the whole network as well. An analysis
        of the pruned network says the same, unless groups are left with one channel each, which is what a depthwise
        convolution is, or a depthwise convolution with one channel, which is an ordinary one.
        """
        self.check(plan)
        widths = {name: layer.out_channels - len(plan.remove.get(name, ())) for name, layer in self.layers.items()}
        return self._renumbered(
            widths, torch.isin(torch.arange(self.n_filters), self.filters(plan), invert=True), cut=True
        )

    def without_layers(self, skipped: Mapping[str, str]) -> Structure:
        """Return the structure where these layers stay, for these reasons."""
        widths = {name: layer.out_channels for name, layer in self.layers.items() if name not in skipped}
        kept = [name in widths for name, layer in self.layers.items() for _ in range(layer.out_channels)]
        why = {producer: text for name, text in skipped.items() for producer in self.layers[name].producers}
        found = self._renumbered(widths, torch.tensor(kept, dtype=torch.bool), cut=False)
        return replace(found, skipped=self.skipped | why)

    def by_layer(self, values: Tensor) -> dict[str, Tensor]:
        """Return a number for each filter, (n_filters,), layer by layer."""
        parts = torch.split(values, [layer.out_channels for layer in self.layers.values()])
        return dict(zip(self.layers, parts, strict=True))

    @property
    def n_filters(self) -> int:
        return sum(layer.out_channels for layer in self.layers.values())

    def _renumbered(self, widths: dict[str, int], kept: Tensor, *, cut: bool) -> Structure:
        """With the filters where ``kept`` is True; the places of the others are cut, or belong to nobody."""
        new = torch.where(kept, kept.cumsum(0) - 1, -1)

        def mapped(owners: Tensor) -> Tensor:
            stays = (owners < 0) | kept[owners.clamp(min=0)]
            owners = owners[stays] if cut else owners
            return torch.where(owners < 0, owners, new[owners.clamp(min=0)])

        rest = {
            name: getattr(self, name)
            for name in ("skipped", "outputs", "example", "trains", "batch_statistics", "overwritten", "output")
        }
        readers = {reader: mapped(filters) for reader, filters in self.readers.items()}
        producers = {name: layer.producers for name, layer in self.layers.items()}
        owners = {place: mapped(filters) for place, filters in self.owners.items()}
        return Structure.of(widths, producers, owners, readers=readers, **rest)


def prunable_layers(model: nn.Module, example: Any = None) -> list[Layer]:
    """Return what can be removed from ``model``, in the order in which the network calls it; ``print`` shows it.

    Args:
        model: any network; it is unchanged.
        example: inputs that it takes: a tensor, a tuple of positional arguments, or a dict of keyword arguments. None:
            ``model.example_input_array``, else the first size of picture, from 8 to 512 pixels, that it takes. Where
            forward branches on the size of its inputs, only the branch of the example is seen: pass inputs as large as
            yours.

    Raises:
        ValueError: the network does not run on the example, its branches depend on the numbers that pass, or it is
            compiled, scripted or wrapped for several devices.
    """
    return list(analyse(model, example).layers.values())


def skipped_layers(model: nn.Module, example: Any = None) -> dict[str, str]:
    """Return the convolutions whose filters stay, each with the reason; arguments as for :func:`prunable_layers`."""
    return analyse(model, example).skipped


_KNOWN: ContextVar[dict[int, Structure]] = ContextVar("_KNOWN", default={})  # noqa: B039 - never written to


@contextmanager
def known(model: nn.Module, structure: Structure) -> Iterator[None]:
    """Inside, :func:`analyse` does not run ``model`` again: it is known to have this structure."""
    token = _KNOWN.set({**_KNOWN.get(), id(model): structure})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def analyse(model: nn.Module, example: Any = None) -> Structure:
    """Follow the names of all filters through ``model``; arguments and errors as for :func:`prunable_layers`."""
    if (found := _KNOWN.get().get(id(model))) is not None:
        return found
    _refuse_wrappers(model)
    with untouched(model):
        twin = copy_of(model).eval()
        inputs = Example.of(twin, example)
        flow = Flow(twin)
        for grad in (torch.no_grad(), torch.enable_grad()):  # forward may ask which of both it is
            with grad:
                try:
                    flow.run(inputs.args, inputs.kwargs)
                except Undecided:
                    raise
                except Exception as error:
                    if flow.undecided:  # forward, or TorchScript, has wrapped it
                        raise Undecided(flow.undecided) from error
                    if inputs.passes(copy_of(model).eval()):
                        raise ValueError(
                            f"{type(model).__name__} runs, and cannot be followed, at {user_frame(error)}: {error}"
                        ) from error
                    raise ValueError(
                        f"{type(model).__name__} fails on the example ({inputs}): {error}."
                        + (inputs.hint(error) or " Pass inputs that it takes, as example= or in the data.")
                    ) from error
        twin.train()
        try:
            with torch.enable_grad():
                flow.run(inputs.args, inputs.kwargs)
            trains = True
        except Exception:  # a network that runs in eval mode only
            trains = False
        structure = _sorted(model, flow, inputs, trains)
        del flow, twin  # the proof makes copies of its own, and large networks are scored where memory is short
        return _proved(model, structure)


_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}
"""Class of PyTorch -> its attribute for what it wraps. They run copies, or other code than forward's."""


def _refuse_wrappers(model: nn.Module) -> None:
    """Raise ValueError where ``model``, or a part of it, is compiled or spread over devices."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a TorchScript module shows no layers: pass the module that it was made from.")
    for name, module in model.named_modules():
        inner = _WRAPPERS.get(type(module).__name__) if type(module).__module__.startswith("torch.") else None
        if inner is not None:
            path = f"model.{name}".rstrip(".")
            what = f"pass {path}.{inner}" if not name else f"put {path}.{inner} in its place"
            raise ValueError(f"{path} is a {type(module).__name__}, which runs something else than its layers: {what}.")


def _sorted(model: nn.Module, flow: Flow, example: Example, trains: bool) -> Structure:
    """Layers of filters that are removed one by one, and the convolutions that stay."""
    names = flow.names
    written = {weight: list(dict.fromkeys(names.roots(labels).tolist())) for weight, labels in flow.written.items()}
    read = {root for labels in flow.readings.values() for root in names.roots(labels).tolist()}
    skipped = dict.fromkeys(map(layer_name, flow.depthwise), _DEPTHWISE)
    widths: dict[str, int] = {}
    producers: dict[str, tuple[str, ...]] = {}
    roots: list[int] = []  # of each filter
    for weights in _together({weight: written[weight] for weight in flow.producers}):
        filters = list(dict.fromkeys(root for weight in weights for root in written[weight]))
        why = next(filter(None, map(names.why, filters)), "") or (
            "" if read.issuperset(filters) else "no layer reads it"
        )
        if why:
            skipped |= dict.fromkeys(map(layer_name, weights), why)
            continue
        for weight, own in _apart(weights, written).items():
            name, shared = layer_name(weight), set(own)
            widths[name] = len(own)
            producers[name] = tuple(layer_name(w) for w, rs in written.items() if not shared.isdisjoint(rs))
            roots += own
    produced = {name for several in producers.values() for name in several}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd) and name not in produced:
            skipped.setdefault(name, flow.computed.get(name, "the network does not call it in eval mode"))
    owner = torch.full((names.count,), -1)
    owner[torch.tensor(roots, dtype=torch.int64)] = torch.arange(len(roots))
    owners = {key: owner[names.roots(ids)] for key, ids in names.ids.items()}
    readers = {reader: owner[names.roots(labels).clamp(min=0)] for reader, labels in flow.readings.items()}
    order = {name: i for i, (name, _) in enumerate(chain(model.named_parameters(), model.named_buffers()))}
    return Structure.of(
        widths,
        producers,
        {key: owners[key] for key in sorted(owners, key=lambda k: (order[k[0]], k[1])) if (owners[key] >= 0).any()},
        skipped=skipped,
        readers={reader: filters for reader, filters in readers.items() if (filters >= 0).any()},
        outputs=flow.outputs,
        example=example,
        trains=trains,
        batch_statistics=tuple(dict.fromkeys(flow.batch_statistics)),
        overwritten=frozenset(flow.overwritten),
        output=flow.output,
    )


_DEPTHWISE = "depthwise: each filter belongs to the channel that it reads"


def _together(written: Mapping[str, list[int]]) -> list[list[str]]:
    """The weights that write the same filters, in the order of the first of each."""
    groups: list[tuple[list[str], set[int]]] = []
    for weight, filters in written.items():
        joined = [group for group in groups if not group[1].isdisjoint(filters)]
        if joined:
            first = joined[0]
            for other in joined[1:]:
                first[0].extend(other[0])
                first[1].update(other[1])
                groups.remove(other)
            first[0].append(weight)
            first[1].update(filters)
        else:
            groups.append(([weight], set(filters)))
    order = list(written)
    return [sorted(weights, key=order.index) for weights, _ in groups]


def _apart(weights: list[str], written: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Layers of the filters that these convolutions write, each under a name of its own.

    A convolution may write what several others write side by side, behind a cat. Theirs are layers apart: where each
    keeps a filter, nobody is left without any.
    """
    makers: dict[int, dict[str, None]] = {root: {} for weight in weights for root in written[weight]}
    for weight, roots in written.items():
        for root in makers.keys() & set(roots):
            makers[root][weight] = None
    alike: dict[tuple[str, ...], list[int]] = {}
    for root, names in makers.items():
        alike.setdefault(tuple(names), []).append(root)
    layers: dict[str, list[int]] = {}
    for several in sorted(alike, key=len):
        name = next((weight for weight in weights if weight in several and weight not in layers), "")
        if not name:  # more kinds of filters than convolutions
            return {weights[0]: list(makers)}
        layers[name] = alike[several]
    return {weight: layers[weight] for weight in weights if weight in layers}


def _proved(model: nn.Module, structure: Structure) -> Structure:
    """Without the layers that cannot lose a filter: forward may hold sizes as numbers, which no run of it shows.

    The first filter of each layer is removed, and the last one: ``arange(x.shape[1])`` is right without the last.
    """
    names = [name for name, layer in structure.layers.items() if layer.out_channels > 1]
    if not names:
        return structure
    proof, failed = Proof(model, structure.example, structure.trains), dict[str, str]()
    for last in (False, True):
        plan = {name: structure.layers[name].out_channels - 1 if last else 0 for name in names if name not in failed}
        failed |= _failing(model, structure, proof, plan)
    return structure.without_layers(failed) if failed else structure


def _failing(model: nn.Module, structure: Structure, proof: Proof, filters: dict[str, int]) -> dict[str, str]:
    """Which of these layers cannot lose its filter, with the reason; a half at a time."""
    if not filters:
        return {}
    plan = Plan({name: (k,) for name, k in filters.items()})
    why = proof.failure(without(model, structure.kept(plan)), structure.closed(plan))
    if not why:
        return {}
    if len(filters) == 1:
        return dict.fromkeys(filters, why)
    halves = dict(islice(filters.items(), len(filters) // 2)), dict(islice(filters.items(), len(filters) // 2, None))
    return {name: why for half in halves for name, why in _failing(model, structure, proof, half).items()}
