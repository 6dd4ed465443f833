"""A gate on every filter: a number that multiplies its feature map.

Open (1), it changes nothing. Closed (0), the filter is gone, for every layer that reads it. The slope of the loss at 1
says, to first order, what closing the gate would cost: ``C(0) - C(1) ~ -dC/dg``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Split
from .plan import Plan
from .structure import Structure, analyse, removals
from .training import fastest_layout, laid_out

Loss = Callable[..., Tensor]
"""Called as ``loss(outputs, labels, reduction="none")``; returns one loss per example, shape (n,)."""


class Gate(nn.Module):
    """One number per filter, multiplied with the filter's feature map.

    Attributes:
        values: shape (out_channels,), or (n, out_channels) for gates of their own for each example. Starts at ones.
        positions: M, the number of positions of the feature map, known after the first forward pass. A layer that is
            read at several places counts the largest map.
    """

    values: Tensor

    def __init__(self, like: Tensor, out_channels: int) -> None:
        super().__init__()
        self.register_buffer("values", like.new_ones(out_channels), persistent=False)
        self.positions = 0

    def forward(self, x: Tensor) -> Tensor:
        maps = x.reshape(len(x), self.values.shape[-1], -1)  # (n, filters, positions), flattened maps too
        self.positions = max(self.positions, maps.shape[-1])
        return (maps * self.values.unsqueeze(-1)).reshape(x.shape)


class GatedNetwork(nn.Module):
    """A network with a :class:`Gate` on every prunable layer: ``gates[layer].values`` opens and closes them.

    It shares its parameters and buffers with the model that it was made from, and it stays in eval mode: it measures,
    and never trains.
    """

    def __init__(self, network: nn.Module, gates: dict[str, Gate]) -> None:
        super().__init__()
        self.network = network
        self.gates = gates
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(*inputs)
        return outputs

    def train(self, mode: bool = True) -> GatedNetwork:
        if mode:
            raise RuntimeError("a gated network only measures; train the model itself, or the one that prune returns.")
        super().train(False)
        return self


def gated(model: nn.Module) -> GatedNetwork:
    """A network that computes what ``model`` does in eval mode, with an open gate on every filter that can leave.

    Each gate sits where the layer's consumers read: behind the activation, and behind the last node that could turn a
    zero into something else, on every branch. ``model`` is unchanged, and its parameters are shared, not copied.

    Raises:
        ValueError: torch.fx cannot trace the model, or no layer is prunable.
    """
    return _with_gates(model, analyse(model))


def _with_gates(model: nn.Module, found: Structure) -> GatedNetwork:
    if not found.layers:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items()) or "it has no convolution"
        raise ValueError(f"no filter of {type(model).__name__} can leave: {why}.")
    nodes = {node.name: node for node in found.graph.graph.nodes}
    gates: dict[str, Gate] = {}
    for i, (name, layer) in enumerate(found.layers.items()):
        gates[name] = Gate(next(found.graph.get_submodule(name).parameters()).detach(), layer.out_channels)
        found.graph.add_submodule(f"cnnprune_gate_{i}", gates[name])  # a name that no network has by itself
        for source, reader in layer.gate_edges:
            with found.graph.graph.inserting_before(nodes[reader]):
                gate = found.graph.graph.call_module(f"cnnprune_gate_{i}", (nodes[source],))
            nodes[reader].replace_input_with(nodes[source], gate)
    found.graph.recompile()
    return GatedNetwork(found.graph, gates)


def mask(model: nn.Module, plan: Plan) -> GatedNetwork:
    """``model`` with the plan's gates closed: the pruned network, simulated. A plan may empty a layer here.

    Raises:
        ValueError: the plan does not fit the model.
    """
    found = analyse(model)
    closed = removals(found.layers, found.skipped, plan)
    network = _with_gates(model, found)
    for name, filters in closed.items():
        network.gates[name].values[list(filters)] = 0.0
    return network


@contextmanager
def closed(network: GatedNetwork, filters: Iterable[tuple[str, int]]) -> Iterator[None]:
    """The gates of these filters, (layer, number) each, are closed inside, and open afterwards, also after an error."""
    filters = list(filters)
    try:
        for name, k in filters:
            network.gates[name].values[k] = 0.0
        yield
    finally:
        for name, k in filters:
            network.gates[name].values[k] = 1.0


def gate_gradients(
    model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256
) -> Iterator[dict[str, Tensor]]:
    """The slope of each example's loss along each gate, batch by batch.

    Every example gets gates of its own, so one backward pass of the summed loss gives all slopes, and no example sees
    another. Only gates are differentiated: no weight gradient is computed, and no ``.grad`` is touched.

    Args:
        model: any model, or a :class:`GatedNetwork`: then the slopes are taken where its gates stand.
        split: the examples, on the model's device.
        loss: ``loss(outputs, labels, reduction="none")`` -> (n,).
        batch_size: how many examples at once; the result does not depend on it.

    Yields:
        Layer name -> dC_i/dg_k, shape (n, out_channels), for the n examples of a batch.

    Raises:
        ValueError: the loss does not return one number per example, or no gradient comes with it.
    """
    network = model if isinstance(model, GatedNetwork) else gated(model)
    standing = {name: gate.values for name, gate in network.gates.items()}
    layout = fastest_layout(network, split.images)
    for images, labels in split.batches(batch_size):
        own = {name: v.repeat(len(images), 1).requires_grad_() for name, v in standing.items()}
        try:
            for name, values in own.items():
                network.gates[name].values = values
            with torch.enable_grad():
                losses = loss(network(laid_out(images, layout)), labels, reduction="none")
                check_losses(losses, len(images))
                if not losses.requires_grad:
                    raise ValueError(
                        "the losses carry no gradient: compute them from the outputs by differentiable operations, "
                        "without detach, and outside torch.inference_mode()."
                    )
                slopes = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
        finally:
            for name, values in standing.items():
                network.gates[name].values = values
        # Copies: a caller who keeps the slopes would else keep large buffers of the backward pass from being freed.
        yield {name: slope.clone() for name, slope in zip(own, slopes, strict=True)}


def check_losses(losses: Tensor, n: int) -> None:
    """Raise ValueError unless ``losses`` holds one number for each of ``n`` examples."""
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        given = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else repr(losses)
        raise ValueError(
            f'loss(outputs, labels, reduction="none") must return one loss per example, shape ({n},); '
            f"it returned {given}."
        )
