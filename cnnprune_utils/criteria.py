"""Criteria: a score for every filter. A higher score says: keep.

All are called alike: ``criterion(model, data, *, loss=cross_entropy, batch_size=256, group=None)``. They measure in
eval mode, and the model comes back as it was: parameters, buffers, gradients, train and eval flags. With a ``group``,
each process of it has a part of the data, and each gets the scores of all data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batches, Data
from .example import untouched
from .gates import GatedNetwork, closed, gate_gradients, gated_for
from .losses import Loss, of_each
from .plan import Scores
from .progress import progress
from .shards import gathered, summed
from .structure import Structure, analyse

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def taylor(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The Taylor criterion: how much the loss would move, to first order, if the filter were gone.

    For a feature map z of M positions and one example, ``|1/M * sum over positions of dC/dz * z|``; then the mean over
    the examples (arXiv:1611.06440, equations 7 and 8, section 2.2). The sum inside is the slope of the loss along the
    filter's gate, so the score is the mean over examples of ``|dC/dg| / M``.

    Args:
        model: any network, or a gated network of it.
        data: the examples to score on: a split, or what yields batches (:data:`.batches.Data`).
        loss: one number, or several, for each example (:data:`.losses.Loss`).
        batch_size: how many examples of a split at once; the scores do not depend on it. Other data come in batches of
            their own.
        group: a group of ``torch.distributed``, such as ``torch.distributed.group.WORLD``: ``data`` is this process's
            part of them, and the scores are those of all parts. None: this process alone.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss per position. Not normalised:
        :func:`cnnprune_utils.plan.rank` does that.

    Raises:
        ValueError: the network cannot be followed, no filter can be removed, or the loss is not one number per example.
        TypeError: data of another kind.
        ConnectionError: a process of the group is gone.
    """
    return _mean_over_examples(model, data, loss, batch_size, group, lambda slopes, m: slopes.abs() / max(m, 1))


def fisher(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The mean over the examples of ``(dC/dg) ** 2``, the squared slope of the loss along the filter's gate.

    Up to the factor 1/2 it is Fisher pruning (Theis, Korshunova, Tejani, Huszár, arXiv:1801.05787): a second-order
    guess of what closing the gate costs, with the Fisher information in place of the curvature.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss squared. It is that of the whole
        map, not per position as in :func:`taylor`.

    Raises:
        ValueError: as :func:`taylor`.
    """
    return _mean_over_examples(model, data, loss, batch_size, group, lambda slopes, m: slopes.square())


def _mean_over_examples(
    model: nn.Module,
    data: Data,
    loss: Loss,
    batch_size: int,
    group: ProcessGroup | None,
    of: Callable[[Tensor, int], Tensor],
) -> Scores:
    """Layer name -> float32 tensor (out_channels,): the mean over all examples of ``of(dC/dg, M)``."""
    batches = Batches.of(data, batch_size, model)
    network = gated_for(model, batches)
    sums = {name: torch.zeros(len(gate.values), dtype=torch.float64) for name, gate in network.gates.items()}
    n = 0
    for slopes in gate_gradients(network, batches, loss=loss):
        for name, slope in slopes.items():  # float64: 10,000s of small terms
            sums[name] += of(slope.cpu().double(), network.gates[name].positions).sum(0)
        n += len(slope)
    total = summed(torch.cat([*sums.values(), torch.tensor([n], dtype=torch.float64)]), group)
    return network.structure.by_layer((total[:-1] / total[-1]).float())


def activation_mean(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The mean of what the filter's readers read ("activation", arXiv:1611.06440, section 2.2).

    ``1/N * sum of z``, where z runs over the N numbers of the filter's feature map: all examples, all positions, and
    all places where the map is read. It looks at no target: ``loss`` is there so that all criteria are called alike.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the feature map; negative where the map is.

    Raises:
        ValueError: the network cannot be followed, or no filter can be removed.
    """
    seen, structure = _moments(model, data, batch_size, group)
    return structure.by_layer(seen.mean.float())


def activation_std(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The standard deviation of what the filter's readers read ("activation", arXiv:1611.06440, section 2.2).

    ``sqrt(1/N * sum of (z - mean) ** 2)``, with z, N and mean as in :func:`activation_mean`, also what it raises.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the feature map.
    """
    seen, structure = _moments(model, data, batch_size, group)
    return structure.by_layer(seen.variance.sqrt().float())


def apoz(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """1 - APoZ: the share of the numbers that the filter's readers read that is not zero.

    APoZ is the average percentage of zeros (Hu, Peng, Tai, Tang, arXiv:1607.03250; in arXiv:1611.06440, section 2.2).
    It is meant for ReLU; where an activation gives no exact zeros, every filter scores 1. It counts what
    :func:`activation_mean` averages, and raises what that raises.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, from 0 to 1.
    """
    seen, structure = _moments(model, data, batch_size, group, lambda maps: maps != 0)
    return structure.by_layer(seen.mean.float())


@torch.no_grad()
def _moments(
    model: nn.Module,
    data: Data,
    batch_size: int,
    group: ProcessGroup | None,
    of: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[_Moments, Structure]:
    """Mean and variance of ``of(x)`` per filter, over all numbers x that a layer reads, in one pass.

    What passes is folded in, and none of it is kept.
    """
    batches = Batches.of(data, batch_size, model)
    network = gated_for(model, batches)
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
        for batch in batches:
            with untouched(model), torch.no_grad():
                batch.through(network)
    finally:
        network.on_read = before
    parts = gathered(torch.stack([seen.count, seen.mean, seen.variance]), group)
    return _Moments.all_of(_Moments(*part) for part in parts), network.structure


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

    @classmethod
    def all_of(cls, parts: Iterable[_Moments]) -> _Moments:
        first, *others = parts
        for other in others:
            first = first.merged(other)
        return first

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
    model: nn.Module,
    data: Data | None = None,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The mean of the squared weights of each filter ("minimum weight", arXiv:1611.06440, section 2.2).

    Where the filters of several convolutions are removed together, the mean is over the weights of all of them. It
    looks at no example: the other arguments are there so that all criteria are called alike.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU.
    """
    network = model.network if isinstance(model, GatedNetwork) else model
    structure = structure_for(model, data, batch_size)
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
    data: Data | None = None,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
    seed: int = 0,
) -> Scores:
    """A score drawn at random for each filter, uniform in [0, 1): the control that every criterion has to beat.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU; the same seed gives the same scores.
    """
    structure, generator = structure_for(model, data, batch_size), torch.Generator().manual_seed(seed)
    return {name: torch.rand(layer.out_channels, generator=generator) for name, layer in structure.layers.items()}


def oracle(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """The truth that the others guess: close one gate at a time and measure ``|C(closed) - C(open)|``.

    ``C`` is the mean loss over the data ("oracle-abs", arXiv:1611.06440, section 2.1). It takes one pass over the data
    for each filter.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss.

    Raises:
        ValueError: as :func:`taylor`.
    """
    changes = loss_changes(model, data, loss=loss, batch_size=batch_size, group=group)
    return {name: change.abs().float() for name, change in changes.items()}


def oracle_loss(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """As :func:`oracle`, with the sign: ``C(closed) - C(open)`` ("oracle-loss", arXiv:1611.06440, section 2.1).

    Below 0, the loss falls when the filter is removed.

    Returns:
        Layer name -> float32 tensor (out_channels,) on the CPU, in units of the loss.

    Raises:
        ValueError: as :func:`taylor`.
    """
    changes = loss_changes(model, data, loss=loss, batch_size=batch_size, group=group)
    return {name: change.float() for name, change in changes.items()}


def loss_changes(
    model: nn.Module,
    data: Data,
    *,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    group: ProcessGroup | None = None,
) -> Scores:
    """``C(closed) - C(open)`` for each gate, with its sign: what the mean loss does when one filter is removed.

    Returns:
        Layer name -> float64 tensor (out_channels,) on the CPU, in units of the loss.
    """
    batches = Batches.of(data, batch_size, model)
    network = gated_for(model, batches)
    filters = [(name, k) for name, gate in network.gates.items() for k in range(len(gate.values))]
    sums = [_sum_of_losses(network, batches, loss)]
    for name, k in progress(filters, desc="closing gates"):
        with closed(network, [(name, k)]):
            sums.append(_sum_of_losses(network, batches, loss))
    totals = summed(torch.tensor(sums, dtype=torch.float64), group)  # (1 + filters, 2): losses and examples
    means = totals[:, 0] / totals[:, 1]
    return network.structure.by_layer(means[1:] - means[0])


@torch.no_grad()
def _sum_of_losses(network: GatedNetwork, batches: Batches, loss: Loss) -> tuple[float, int]:
    """The sum of the losses of all examples, and how many there are."""
    total, n = 0.0, 0
    for batch in batches:
        with untouched(network):
            losses = of_each(loss, batch.through(network), batch.targets, len(batch))
        total += float(losses.cpu().double().sum())
        n += len(batch)
    return total, n


def structure_for(model: nn.Module, data: Data | None, batch_size: int = 256) -> Structure:
    """Return the structure of ``model``, a network or a gated one, seen on the first examples where there are any."""
    if isinstance(model, GatedNetwork):
        return model.structure
    return analyse(model, None if data is None else Batches.of(data, batch_size, model).first.first(2).inputs)


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
