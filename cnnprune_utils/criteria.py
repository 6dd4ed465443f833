"""Criteria: a score for every filter. A higher score says: keep.

All are called alike: ``criterion(model, split, *, loss=cross_entropy, batch_size=256)``. They measure in eval mode, and
the model comes back as it was: parameters, buffers, gradients, train and eval flags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .batches import Split
from .example import untouched
from .gates import GatedNetwork, Loss, check_losses, closed, gate_gradients, gated_for
from .plan import Scores
from .structure import Structure, analyse


def taylor(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The Taylor criterion: how much the loss would move, to first order, if the filter were gone.

    For a feature map z of M positions and one example, ``|1/M * sum over positions of dC/dz * z|``; then the mean over
    the examples (arXiv:1611.06440, equations 7 and 8, section 2.2). The sum inside is the slope of the loss along the
    filter's gate, so the score is the mean over examples of ``|dC/dg| / M``.

    Args:
        model: any network, or a gated network of it.
        split: the examples to score on, on the model's device.
        loss: ``loss(outputs, labels, reduction="none")`` -> (n,).
        batch_size: how many examples at once; the scores do not depend on it.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss per position. Not normalised:
        :func:`cnnprune_utils.plan.rank` does that.

    Raises:
        ValueError: the network cannot be followed, no filter can be removed, or the loss is not one number per example.
    """
    network = gated_for(model, split)
    sums = _sums_over_examples(network, split, loss, batch_size, torch.abs)
    return {name: (s / network.gates[name].positions / len(split)).float() for name, s in sums.items()}


def fisher(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The mean over the examples of ``(dC/dg) ** 2``, the squared slope of the loss along the filter's gate.

    Up to the factor 1/2 it is Fisher pruning (Theis, Korshunova, Tejani, Huszár, arXiv:1801.05787): a second-order
    guess of what closing the gate costs, with the Fisher information in place of the curvature.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss squared. It is that of the whole
        map, not per position as in :func:`taylor`.

    Raises:
        ValueError: as :func:`taylor`.
    """
    sums = _sums_over_examples(gated_for(model, split), split, loss, batch_size, torch.square)
    return {name: (s / len(split)).float() for name, s in sums.items()}


def _sums_over_examples(
    network: GatedNetwork, split: Split, loss: Loss, batch_size: int, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Layer name -> float64 tensor (out_channels,): the sum over the examples of ``of(dC/dg)``."""
    sums: dict[str, Tensor] = {}
    for slopes in gate_gradients(network, split, loss=loss, batch_size=batch_size):
        for name, slope in slopes.items():
            sums[name] = sums.get(name, 0) + of(slope.cpu().double()).sum(0)  # float64: 10,000s of small terms
    return sums


def activation_mean(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The mean of what the filter's readers read ("activation", arXiv:1611.06440, section 2.2).

    ``1/N * sum of z``, where z runs over the N numbers of the filter's feature map: all examples, all positions, and
    all places where the map is read. It looks at no label: ``loss`` is there so that all criteria are called alike.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the feature map; negative where the map is.

    Raises:
        ValueError: the network cannot be followed, or no filter can be removed.
    """
    return {name: mean.float() for name, (mean, _) in _moments(model, split, batch_size).items()}


def activation_std(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """The standard deviation of what the filter's readers read ("activation", arXiv:1611.06440, section 2.2).

    ``sqrt(1/N * sum of (z - mean) ** 2)``, with z, N and mean as in :func:`activation_mean`, also what it raises.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the feature map.
    """
    return {name: variance.sqrt().float() for name, (_, variance) in _moments(model, split, batch_size).items()}


def apoz(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """1 - APoZ: the share of the numbers that the filter's readers read that is not zero.

    APoZ is the average percentage of zeros (Hu, Peng, Tai, Tang, arXiv:1607.03250; in arXiv:1611.06440, section 2.2).
    It is meant for ReLU; where an activation gives no exact zeros, every filter scores 1. It counts what
    :func:`activation_mean` averages, and raises what that raises.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, from 0 to 1.
    """
    shares = _moments(model, split, batch_size, lambda maps: maps != 0)
    return {name: share.float() for name, (share, _) in shares.items()}


@torch.no_grad()
def _moments(
    model: nn.Module, split: Split, batch_size: int, of: Callable[[Tensor], Tensor] = lambda x: x
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> (mean, variance) of ``of(x)`` per filter, over all numbers x that a layer reads, in one pass.

    Both are float64 tensors (out_channels,). What passes is folded in, and none of it is kept.
    """
    network = gated_for(model, split)
    n_filters = network.structure.n_filters
    seen = _Moments.nothing(n_filters)

    def fold(reader: tuple[str, int], x: Tensor, dim: int) -> None:
        nonlocal seen
        filters = network.structure.readers[reader]
        rows = of(x).movedim(dim, 0).flatten(1).cpu().double()[filters >= 0]
        variance, mean = torch.var_mean(rows, 1, correction=0)
        channels = _Moments(torch.full_like(mean, rows.shape[1]), mean, variance)
        seen = seen.merged(channels.summed(filters[filters >= 0], n_filters))

    before, network.on_read = network.on_read, fold
    try:
        with untouched(model), torch.no_grad():
            for images, _ in split.batches(batch_size):
                network(images)
    finally:
        network.on_read = before
    means, variances = network.structure.by_layer(seen.mean), network.structure.by_layer(seen.variance)
    return {name: (mean, variances[name]) for name, mean in means.items()}


@dataclass(frozen=True)
class _Moments:
    """Counts, means and variances of several sets of numbers, float64 (sets,) each.

    Two variances merge by the difference of their means (Chan): a sum of squares would cancel under a large mean.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def nothing(cls, n: int) -> _Moments:
        return cls(*torch.zeros(3, n, dtype=torch.float64))

    def merged(self, other: _Moments) -> _Moments:
        total = (self.count + other.count).clamp(min=1)
        share, step = other.count / total, other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * step**2
        return _Moments(self.count + other.count, self.mean + share * step, variance)

    def summed(self, to: Tensor, n: int) -> _Moments:
        """The sets with the same number in ``to`` become one, of ``n``."""
        count = torch.zeros(n, dtype=torch.float64).index_add_(0, to, self.count)
        mean = torch.zeros_like(count).index_add_(0, to, self.count * self.mean) / count.clamp(min=1)
        spread = self.count * (self.variance + (self.mean - mean[to]) ** 2)
        return _Moments(count, mean, torch.zeros_like(count).index_add_(0, to, spread) / count.clamp(min=1))


def magnitude(
    model: nn.Module, split: Split | None = None, *, loss: Loss = F.cross_entropy, batch_size: int = 256
) -> Scores:
    """The mean of the squared weights of each filter ("minimum weight", arXiv:1611.06440, section 2.2).

    Where the filters of several convolutions leave together, the mean is over the weights of all of them. It looks at
    no image: ``split``, ``loss`` and ``batch_size`` are there so that all criteria are called alike.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU.
    """
    network = model.network if isinstance(model, GatedNetwork) else model
    structure = structure_for(model, split)
    tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    squares = torch.zeros(structure.n_filters, dtype=torch.float64)
    count = torch.zeros_like(squares)
    for weight, dim in structure.outputs.items():
        if (owners := structure.owners.get((weight, dim))) is not None:
            rows = tensors[weight].detach().cpu().double().movedim(dim, 0).flatten(1)[owners >= 0]
            squares.index_add_(0, owners[owners >= 0], rows.pow(2).sum(1))
            count.index_add_(0, owners[owners >= 0], torch.full((len(rows),), rows.shape[1], dtype=torch.float64))
    return structure.by_layer((squares / count).float())


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
    structure, generator = structure_for(model, split), torch.Generator().manual_seed(seed)
    return {name: torch.rand(layer.out_channels, generator=generator) for name, layer in structure.layers.items()}


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


def oracle_loss(model: nn.Module, split: Split, *, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """As :func:`oracle`, with the sign: ``C(closed) - C(open)`` ("oracle-loss", arXiv:1611.06440, section 2.2).

    Below 0, the loss falls when the filter leaves.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss.

    Raises:
        ValueError: as :func:`taylor`.
    """
    return {name: change.float() for name, change in loss_changes(model, split, loss, batch_size).items()}


def loss_changes(model: nn.Module, split: Split, loss: Loss = F.cross_entropy, batch_size: int = 256) -> Scores:
    """``C(closed) - C(open)`` for each gate, with its sign: what the mean loss does when one filter leaves.

    Returns:
        Layer name -> float64 tensor (out_channels,) on the CPU, in units of the loss.
    """
    network = gated_for(model, split)
    unpruned = _mean_loss(network, split, loss, batch_size)
    changes = {name: torch.zeros(len(gate.values), dtype=torch.float64) for name, gate in network.gates.items()}
    filters = [(name, k) for name, change in changes.items() for k in range(len(change))]
    for name, k in tqdm(filters, desc="closing gates", leave=False):
        with closed(network, [(name, k)]):
            changes[name][k] = _mean_loss(network, split, loss, batch_size) - unpruned
    return changes


@torch.no_grad()
def _mean_loss(network: GatedNetwork, split: Split, loss: Loss, batch_size: int) -> float:
    total = 0.0
    with untouched(network):
        for images, labels in split.batches(batch_size):
            losses = loss(network(images), labels, reduction="none")
            check_losses(losses, len(images))
            total += float(losses.cpu().double().sum())
    return total / len(split)


def structure_for(model: nn.Module, split: Split | None) -> Structure:
    """The structure of ``model``, a network or a gated one, seen on the first examples where there are any."""
    if isinstance(model, GatedNetwork):
        return model.structure
    return analyse(model, None if split is None else split.images[:2])


CRITERIA: dict[str, Callable[..., Scores]] = {
    "taylor": taylor,
    "fisher": fisher,
    "activation_mean": activation_mean,
    "activation_std": activation_std,
    "apoz": apoz,
    "magnitude": magnitude,
    "random": random,
    "oracle": oracle,
    "oracle_loss": oracle_loss,
}
"""Name -> criterion."""
