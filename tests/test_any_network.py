"""Networks of many kinds: the pruned network, closed gates, and a removal by hand compute the same."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more_networks import KINDS, Known, build, by_hand, readers_closed, run, some_filters, tensors_of
from random_networks import PROPERTY, assert_unchanged, one_thread, snapshot  # noqa: F401
from torch import Tensor, nn

from cnnprune_utils.gates import GatedNetwork, gated, mask
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Layer, prunable_layers, skipped_layers
from cnnprune_utils.surgery import prune

TOLERANCE = 1e-10


@dataclass
class Trial:
    """A network, what the package says of it, and the plan of a random removal."""

    model: Known
    example: Any
    found: dict[frozenset[str], Layer]
    layers: dict[str, Layer]
    skipped: dict[str, str]
    kept: dict[str, list[int]]
    plan: Plan

    @functools.cached_property
    def hand(self) -> nn.Module:
        return by_hand(self.model, self.kept)

    @functools.cached_property
    def pruned(self) -> nn.Module:
        return prune(self.model, self.plan, self.example)

    @functools.cached_property
    def masked(self) -> GatedNetwork:
        return mask(self.model, self.plan, self.example)


TRIALS: dict[tuple[str, int], Trial] = {}


def trial(kind: type[Known], seed: int) -> Trial:
    """The same one for every test."""
    if (kind.__name__, seed) not in TRIALS:
        TRIALS[kind.__name__, seed] = new_trial(kind, seed)
    return TRIALS[kind.__name__, seed]


def new_trial(kind: type[Known], seed: int) -> Trial:
    """Layers are known by their producers, so how a layer is called is left to the package."""
    model = build(kind, seed)
    example = model.example()
    found = {producers(model, layer): layer for layer in prunable_layers(model, example)}
    skipped = skipped_layers(model, example)
    layers = {name: found[frozenset(made)] for name, made in model.layers.items() if frozenset(made) in found}
    everything = {name: list(range(n)) for name, n in model.widths.items()}
    kept = everything | {name: stay for name, stay in some_filters(model, seed).items() if name in layers}
    plan = Plan({layer.name: tuple(set(everything[name]) - set(kept[name])) for name, layer in layers.items()})
    return Trial(model, example, found, layers, skipped, kept, plan)


def depthwise(model: nn.Module, name: str) -> bool:
    """Such a convolution passes filters on. Whether it counts as one of their producers is left to the package."""
    module = model.get_submodule(name)
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def producers(model: nn.Module, layer: Layer) -> frozenset[str]:
    return frozenset(name for name in layer.producers if not depthwise(model, name))


def difference(one: Any, other: Any) -> float:
    """The largest difference of two outputs, relative to the largest number of each tensor."""
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


@torch.no_grad()
def outputs(model: nn.Module, example: Any) -> Any:
    return run(copy.deepcopy(model).eval() if not isinstance(model, GatedNetwork) else model, example)


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@every_kind
def test_the_removal_by_hand_is_right(kind: type[Known]) -> None:
    """With no package in it: zeros where readers read the filters."""
    for seed in range(3):
        model = build(kind, seed)
        kept = some_filters(model, seed)
        x = model.example()
        assert difference(outputs(by_hand(model, kept), x), outputs(readers_closed(model, kept), x)) < TOLERANCE


@every_kind
def test_expected_layers_are_prunable_and_no_others(kind: type[Known]) -> None:
    t = trial(kind, 0)
    found = {made: layer.out_channels for made, layer in t.found.items()}
    expected = {frozenset(made): t.model.widths[name] for name, made in kind.layers.items()}
    optional = {frozenset(kind.layers[name]) for name in kind.may_stay}
    assert found.items() <= expected.items()
    assert expected.keys() - optional <= found.keys(), t.skipped


@every_kind
def test_every_convolution_is_prunable_or_skipped_with_a_reason(kind: type[Known]) -> None:
    t = trial(kind, 0)
    prunable = {name for layer in t.layers.values() for name in layer.producers}
    convolutions = {
        name
        for name, module in t.model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and not depthwise(t.model, name)
    }
    assert convolutions - prunable <= t.skipped.keys()
    assert not prunable & t.skipped.keys()
    assert all(t.skipped.values())
    for name, pattern in kind.stays.items():
        assert re.search(pattern, t.skipped[name], re.IGNORECASE), t.skipped[name]


@every_kind
def test_open_gates_change_nothing(kind: type[Known]) -> None:
    t = trial(kind, 0)
    if not t.layers:
        pytest.skip("nothing can be removed")
    network = gated(t.model, t.example)
    assert {name: gate.values.shape for name, gate in network.gates.items()} == {
        layer.name: (layer.out_channels,) for layer in t.layers.values()
    }
    for n in (1, 3):
        opened, whole = outputs(network, t.model.example(n)), outputs(t.model, t.model.example(n))
        assert type(opened) is type(whole)
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(opened), tensors_of(whole), strict=True))


@every_kind
def test_pruned_is_closed_gates_is_by_hand(kind: type[Known]) -> None:
    t = trial(kind, 0)
    if not t.layers:
        pytest.skip("nothing can be removed")
    for n in (3, 1, 5):
        x = t.model.example(n)
        pruned = outputs(t.pruned, x)
        assert difference(pruned, outputs(t.hand, x)) < TOLERANCE
        assert difference(pruned, outputs(t.masked, x)) < TOLERANCE


@settings(PROPERTY, max_examples=25)
@given(st.sampled_from(KINDS), st.integers(1, 1000))
def test_any_widths_and_any_filters(kind: type[Known], seed: int) -> None:
    t = trial(kind, seed)
    assert_equal_tensors(t.pruned, dict(t.hand.state_dict()))
    assert difference(outputs(t.pruned, t.example), outputs(t.hand, t.example)) < TOLERANCE


@every_kind
def test_pruned_tensors_are_those_by_hand(kind: type[Known]) -> None:
    t = trial(kind, 0)
    assert_equal_tensors(t.pruned, dict(t.hand.state_dict()))
    flags = {name: p.requires_grad for name, p in t.model.named_parameters()}
    assert {name: p.requires_grad for name, p in t.pruned.named_parameters()} == flags


@every_kind
def test_modules_know_their_sizes(kind: type[Known]) -> None:
    t = trial(kind, 0)
    assert repr(t.pruned) == repr(t.hand)


@every_kind
def test_places_say_what_leaves(kind: type[Known]) -> None:
    """A pruner of a few lines, which knows the places and nothing else, makes the same tensors."""
    t = trial(kind, 0)
    assert_equal_tensors(t.pruned, without_places(t.model, [*t.layers.values()], t.plan))


@every_kind
def test_places_are_disjoint(kind: type[Known]) -> None:
    t = trial(kind, 0)
    sizes = {name: tensor.shape for name, tensor in tensors(t.model).items()}
    taken: set[tuple[str, int, int]] = set()
    for layer in t.layers.values():
        for place in layer.places:
            assert len(place.indices) == layer.out_channels
            for i in (i for indices in place.indices for i in indices):
                assert 0 <= i < sizes[place.tensor][place.dim]
                assert (place.tensor, place.dim, i) not in taken
                taken.add((place.tensor, place.dim, i))


@every_kind
def test_the_pruned_network_trains(kind: type[Known]) -> None:
    t = trial(kind, 0)
    network = copy.deepcopy(t.pruned).requires_grad_(True).train()
    parts = tensors_of(run(network, t.example))
    assert [p.shape for p in parts] == [p.shape for p in tensors_of(run(copy.deepcopy(t.model).train(), t.example))]
    sum(part.square().sum() for part in parts).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters())


@every_kind
def test_nothing_of_the_model_changes(kind: type[Known]) -> None:
    t = trial(kind, 0)
    model = copy.deepcopy(t.model).train(len(t.model.layers) % 2 > 0)
    before = snapshot(model)
    prune(model, t.plan, t.example)
    if t.layers:
        mask(model, t.plan, t.example)
    assert_unchanged(model, before)


# a pruner that knows the places only


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def without_places(model: nn.Module, layers: list[Layer], plan: Plan) -> dict[str, Tensor]:
    """All tensors of the model, without the indices that leave."""
    left = {name: tensor.detach() for name, tensor in tensors(model).items()}
    gone: dict[tuple[str, int], set[int]] = {}
    for layer in layers:
        for place in layer.places:
            for k in plan.remove.get(layer.name, ()):
                gone.setdefault((place.tensor, place.dim), set()).update(place.indices[k])
    for (name, dim), indices in gone.items():
        stay = torch.tensor([i for i in range(left[name].shape[dim]) if i not in indices])
        left[name] = left[name].index_select(dim, stay)
    return left


def assert_equal_tensors(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = tensors(model)
    assert found.keys() == expected.keys()
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in expected.items()}
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_library_has_every_kind_once() -> None:
    assert len({kind.__name__ for kind in KINDS}) == len(KINDS)
    assert all(kind.layers.keys() <= inspect.signature(kind).parameters.keys() for kind in KINDS)
