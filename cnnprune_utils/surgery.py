"""Surgery: a new network without the plan's filters and all that belongs to them, proved on the spot."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .batches import Batches, Data
from .cutting import without
from .example import untouched
from .flow import tensors_in
from .plan import Plan
from .proof import Proof, difference
from .structure import Structure, analyse
from .training import evaluating


def prune(model: nn.Module, plan: Plan, example: Any = None) -> nn.Module:
    """Return a smaller copy of ``model``, without the plan's filters; it computes what :func:`.gates.mask` computes.

    With a filter, all numbers that belong to it are deleted, as :func:`.structure.prunable_layers` lists them. All kept
    numbers, dtypes, devices, ``requires_grad`` flags and train/eval flags stay as they were; ``model`` is unchanged.
    Make a new optimizer for the result: the old one holds the old parameters. Hooks of modules come along; hooks of
    tensors (``weight.register_hook``), which may know their shapes, do not: register them again.

    The result is proved before it is returned: on the example, it must run wherever ``model`` does, and give the
    outputs of closed gates.

    Args:
        model: any network.
        plan: which filters to remove.
        example: inputs that the model takes: see :func:`.structure.prunable_layers`.

    Raises:
        ValueError: the plan does not fit the model or empties a layer, or the pruned network fails, or it computes
            something else than closed gates do; with the reason, and what to change.
    """
    structure = analyse(model, example)
    structure.check(plan)
    for name, filters in plan.remove.items():
        if len(filters) == structure.layers[name].out_channels:
            raise ValueError(
                f"the plan removes all {len(filters)} filters of {name!r}, and nothing would pass. "
                "Leave at least one, or use gates.mask to see what an empty layer does."
            )
    pruned = without(model, structure.kept(plan))
    if plan.remove:
        _prove(model, pruned, structure, plan)
    return pruned


def _prove(model: nn.Module, pruned: nn.Module, structure: Structure, plan: Plan) -> None:
    with untouched(model):
        proof = Proof(model, structure.example, structure.trains)
        if why := proof.failure(pruned, structure.closed(plan)):
            raise ValueError(f"cannot remove these filters: {why} {_guilty(model, proof, structure, plan)}")


def _guilty(model: nn.Module, proof: Proof, structure: Structure, plan: Plan) -> str:
    """Which layers of the plan cannot be removed by themselves, for the message."""
    found = []
    for name, filters in plan.remove.items():
        alone = Plan({name: filters})
        if proof.failure(without(model, structure.kept(alone)), structure.closed(alone)):
            found.append(name)
    return f"Leave out {', '.join(found)}, or change forward." if found else "Change forward, or another plan."


def same_outputs(one: nn.Module, other: nn.Module, data: Data, *, batch_size: int = 256) -> float:
    """Return how far the outputs of two networks lie apart on ``data``, as a share of the largest output of ``other``.

    Both are measured in eval mode, and both are left as they were. For a pruned network and the one with closed gates
    it is 0 up to rounding: about 1e-6 in float32.

    Returns:
        The largest difference of any output on any example; infinity where shapes differ.
    """
    largest = 0.0
    with evaluating(one), evaluating(other), torch.no_grad():
        for batch in Batches(data, batch_size, other):
            first, second = (list(tensors_in(batch.through(network))) for network in (one, other))
            largest = max(largest, difference(first, second))
    return largest
