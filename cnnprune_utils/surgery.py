"""Surgery: a new network without the plan's filters and all that belongs to them, proved on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batches, Data
from .cutting import copy_of, without
from .example import Example, untouched
from .flow import tensors_in
from .gates import closed_network
from .plan import Plan
from .structure import Structure, analyse, runs
from .training import evaluating

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far two ways to compute the same may lie apart, as a share of the largest output."""


def prune(model: nn.Module, plan: Plan, example: Any = None) -> nn.Module:
    """Return a smaller copy of ``model``, without the plan's filters; it computes what :func:`.gates.mask` computes.

    With a filter, all numbers that belong to it are deleted, as :func:`.structure.prunable_layers` lists them. All kept
    numbers, dtypes, devices, ``requires_grad`` flags and train/eval flags stay as they were; ``model`` is unchanged.
    Make a new optimizer for the result: the old one holds the old parameters.

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
        if why := runs(copy_of(pruned), structure):
            raise ValueError(f"cannot remove these filters: {why}")
        small, masked = copy_of(pruned).eval(), closed_network(model, structure, plan)
        for inputs, grad in product((structure.example, structure.example.drawn()), (False, True)):
            with torch.set_grad_enabled(grad):  # forward may ask whether gradients are on
                apart, tolerance = _apart(small, masked, inputs)
            if not apart <= tolerance:
                raise ValueError(
                    f"without these filters, {type(model).__name__} computes something else than with their gates "
                    f"closed (outputs differ by {apart:.2g} of the largest, on an example of {structure.example}). "
                    "Something in forward depends on the number of channels or on the parameters as a whole, such as a "
                    f"division by out_channels or a mean over weights. {_guilty(model, structure, plan)}"
                )


def _guilty(model: nn.Module, structure: Structure, plan: Plan) -> str:
    """Which layers of the plan cannot be removed by themselves, for the message."""
    found = []
    for name, filters in plan.remove.items():
        alone = Plan({name: filters})
        small = without(model, structure.kept(alone)).eval()
        with torch.no_grad():
            apart, tolerance = _apart(small, closed_network(model, structure, alone), structure.example.drawn())
        if not apart <= tolerance:
            found.append(name)
    return f"Leave out {', '.join(found)}, or change forward." if found else "Change forward, or another plan."


def _apart(small: nn.Module, masked: nn.Module, example: Example) -> tuple[float, float]:
    """How far the outputs lie apart, and how far they may; in float64 where the network runs in it."""
    try:
        first, second = (_outputs(copy_of(network).double(), example.double()) for network in (small, masked))
    except Exception:  # a network that holds fast to its own precision
        first, second = (_outputs(network, example) for network in (small, masked))
    if not second:
        raise ValueError("forward returns no tensors, so nothing shows that a pruned network computes the same.")
    dtype = next((x.dtype for x in second if x.is_floating_point()), torch.float32)
    return difference(first, second), _TOLERANCE.get(dtype, 1e-3)


def _outputs(network: nn.Module, example: Example) -> list[Tensor]:
    torch.manual_seed(0)  # what forward draws is drawn by both networks
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
