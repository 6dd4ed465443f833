"""Criteria: a score for every filter. A higher score says: keep.

All are called alike: ``criterion(model, split, *, loss=cross_entropy, batch_size=256)``. They measure in eval mode, and
the model comes back as it was: parameters, buffers, gradients, train and eval flags.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .data import Split
from .gates import GatedNetwork, Loss, check_losses, gate_gradients, gated
from .plan import Scores
from .structure import prunable_layers


def taylor(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The Taylor criterion: how much the loss would move, to first order, if the filter were gone.

    For a feature map z of M positions and one example, ``|1/M * sum over positions of dC/dz * z|``; then the mean over
    the examples (arXiv:1611.06440, equations 7 and 8, section 2.2). The sum inside is the slope of the loss along the
    filter's gate, so the score is the mean over examples of ``|dC/dg| / M``.

    Args:
        model: any network that torch.fx can trace.
        split: the examples to score on, on the model's device.
        loss: ``loss(outputs, labels, reduction="none")`` -> (n,).
        batch_size: how many examples at once; the scores do not depend on it.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss per position. Not normalised:
        :func:`cnnprune_utils.plan.rank` does that.

    Raises:
        ValueError: torch.fx cannot trace the model, no filter can leave, or the loss is not one number per example.
    """
    network = gated(model)
    sums: dict[str, Tensor] = {}
    for slopes in gate_gradients(network, split, loss=loss, batch_size=batch_size):
        for name, slope in slopes.items():
            sums[name] = sums.get(name, 0) + slope.abs().cpu().double().sum(0)  # float64: 10,000s of small terms
    return {name: (s / network.gates[name].positions / len(split)).float() for name, s in sums.items()}


def magnitude(
    model: nn.Module, split: Split | None = None, *, loss: Loss = F.cross_entropy, batch_size: int = 256
) -> Scores:
    """The mean of the squared weights of each filter ("minimum weight", arXiv:1611.06440, section 2.2).

    It looks at no image: ``split``, ``loss`` and ``batch_size`` are there so that all criteria are called alike.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU.
    """
    weights = {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in prunable_layers(model)}
    return {name: w.detach().cpu().double().pow(2).flatten(1).mean(1).float() for name, w in weights.items()}


def random(
    model: nn.Module,
    split: Split | None = None,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    seed: int = 0,
) -> Scores:
    """A score drawn at random for each filter, uniform in [0, 1): the control that every criterion has to beat.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU; the same seed gives the same scores.
    """
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.out_channels, generator=generator) for layer in prunable_layers(model)}


def oracle(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The truth that the others guess: close one gate at a time and measure ``|C(closed) - C(open)|``.

    ``C`` is the mean loss over the split ("oracle-abs", arXiv:1611.06440, section 2.2). It takes one pass over the data
    for each filter.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss.

    Raises:
        ValueError: as :func:`taylor`.
    """
    return {name: change.abs().float() for name, change in loss_changes(model, split, loss, batch_size).items()}


def loss_changes(model: nn.Module, split: Split, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """``C(closed) - C(open)`` for each gate, with its sign: what the mean loss does when one filter leaves.

    Returns:
        Layer name -> float64 tensor (out_channels,) on the CPU, in units of the loss.
    """
    network = gated(model)
    unpruned = _mean_loss(network, split, loss, batch_size)
    changes = {name: torch.zeros(len(gate.values), dtype=torch.float64) for name, gate in network.gates.items()}
    filters = [(name, k) for name, change in changes.items() for k in range(len(change))]
    for name, k in tqdm(filters, desc="closing gates", leave=False):
        network.gates[name].values[k] = 0.0
        changes[name][k] = _mean_loss(network, split, loss, batch_size) - unpruned
        network.gates[name].values[k] = 1.0
    return changes


@torch.no_grad()
def _mean_loss(network: GatedNetwork, split: Split, loss: Loss, batch_size: int) -> float:
    total = 0.0
    for images, labels in split.batches(batch_size):
        losses = loss(network(images), labels, reduction="none")
        check_losses(losses, len(images))
        total += float(losses.cpu().double().sum())
    return total / len(split)


CRITERIA = {"taylor": taylor, "magnitude": magnitude, "random": random, "oracle": oracle}
"""Name -> criterion."""
