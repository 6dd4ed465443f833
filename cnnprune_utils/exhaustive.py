"""Every sub-network of a small network, measured: the truth that any way of choosing filters can be held against.

Choosing the best filters outright takes 2^|W| evaluations, which is why arXiv:1611.06440 (section 2) goes greedy: its
VGG-16 has 4,224 filters. Fourteen filters have 16,384 subsets, and those can be measured. The layer in front of the
linear layer makes it cheap: each output is a bias and a sum of one contribution from each of its filters, so all of its
subsets are sums of the same few terms, and only the subsets of the *other* layers take a pass over the images each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .batches import Batch, Batches, Data
from .calls import layer_name
from .example import untouched
from .gates import GatedNetwork, gated
from .plan import Plan
from .progress import progress
from .structure import Layer

_NOT_LAYERS = ("removed", "loss", "accuracy", "emptied")
_AT_ONCE = 2**20  # logits that are held at once: 4 MB, so that they stay in the processor's cache


@torch.no_grad()
def all_subnetworks(model: nn.Module, data: Data, *, batch_size: int = 256, at_most: int = 2**16) -> pd.DataFrame:
    """Loss and accuracy of every sub-network of ``model``: every subset of filters removed, without any update after.

    They are what ``training.evaluate`` gives for ``gates.mask`` with each plan, to rounding; ``model`` is unchanged.

    Args:
        model: a network with a layer whose filters are read by one linear layer alone, which gives the output.
        data: the examples to measure on, whose targets are classes: int64, (n,).
        batch_size: how many examples of a split at once; the result does not depend on it.
        at_most: how many sub-networks to measure; more are refused. Each filter doubles them.

    Returns:
        One row per sub-network, 2 ** (number of filters) of them: ``removed``, how many filters are gone; for each
        layer a column of its name, with the tuple of its removed filters, such as (0, 3); ``loss``, the mean cross
        entropy; ``accuracy``, 0 to 1; ``emptied``, whether a layer has no filter left. In the order of ``removed``,
        then of the layers' columns: row 0 is the whole network.

    Raises:
        ValueError: the network cannot be followed, no filter can be removed, no layer feeds the output as described,
            or there are more than ``at_most`` sub-networks.
    """
    batches = Batches.of(data, batch_size, model)
    network = gated(model, batches.first.first(2).inputs)
    last, linear = end_of(network)
    layers = {layer.name: layer.out_channels for layer in network.structure.layers.values()}
    if 2 ** (n_filters := sum(layers.values())) > at_most:
        raise ValueError(
            f"{type(model).__name__} has 2**{n_filters} sub-networks, for the {n_filters} filters that can be removed, "
            f"and at_most={at_most}. Each filter doubles the time: raise at_most if you have it, else measure the "
            "plans that matter, by gates.mask and training.evaluate."
        )
    subsets = {name: _subsets(n) for name, n in layers.items()}
    ends = subsets.pop(last.name)
    kept = torch.tensor([[1.0, *_open(filters, last.out_channels)] for filters in ends]).to(linear.weight)
    rows: list[dict[str, Any]] = []
    with reading(network, linear) as read, untouched(model):
        for starts in progress(list(product(*subsets.values())), desc="sub-networks"):
            closed = dict(zip(subsets, starts, strict=True))
            for name, filters in closed.items():
                network.gates[name].values = torch.tensor(_open(filters, layers[name])).to(linear.weight)
            sums, n = torch.zeros(2, len(ends), dtype=torch.float64), 0
            for batch in batches:
                sums += _sums(terms(read(batch), linear, last.out_channels), kept, batch.targets)
                n += len(batch)
            for filters, loss, accuracy in zip(ends, *(sums / n).tolist(), strict=True):
                rows.append({**closed, last.name: filters, "loss": loss, "accuracy": accuracy})
    return _table(rows, layers)


def plan_of(row: pd.Series) -> Plan:
    """The plan of one row of the table, such as ``table.loc[3]`` or ``best_of_each_size(table).loc[3]``."""
    return Plan({name: row[name] for name in row.index if name not in _NOT_LAYERS})


def row_of(table: pd.DataFrame, plan: Plan) -> pd.Series:
    """The row of the sub-network that ``plan`` leaves.

    Raises:
        ValueError: it is not in the table.
    """
    layers = [name for name in table.columns if name not in _NOT_LAYERS]
    wanted = tuple(plan.remove.get(name, ()) for name in layers)
    same_size = table[table["removed"] == plan.n_filters]
    for index, *removed in same_size[layers].itertuples(name=None):
        if tuple(removed) == wanted:
            row: pd.Series = table.loc[index]
            return row
    raise ValueError(
        f"{plan} is not in this table of {len(table)} sub-networks; its layers are {', '.join(layers)}. Was the plan "
        "made for the model that was measured, and is the table whole?"
    )


def best_of_each_size(table: pd.DataFrame) -> pd.DataFrame:
    """The most accurate sub-network for each number of filters removed, among those with no emptied layer.

    Equal accuracies are decided by the lower loss, then by the order of the rows. Row k of the result has k filters
    removed, and is the true optimum on the images measured.
    """
    ordered = table[~table["emptied"]].sort_values(["removed", "accuracy", "loss"], ascending=[True, False, True])
    return ordered.drop_duplicates("removed", ignore_index=True)


def percentile(table: pd.DataFrame, plan: Plan) -> float:
    """How good a choice is: the share, in percent, of the sub-networks of its size that are no more accurate than it.

    Its size is the number of filters removed. Sub-networks with an emptied layer do not count; the plan's own does, so
    the best has 100.

    Raises:
        ValueError: the plan is not in the table, or it empties a layer.
    """
    row = row_of(table, plan)
    if row["emptied"]:
        raise ValueError(f"{plan} leaves a layer without filters; only sub-networks that compute something are ranked.")
    rivals = table[(table["removed"] == row["removed"]) & ~table["emptied"]]
    return 100 * float((rivals["accuracy"] <= row["accuracy"]).mean())


def end_of(network: GatedNetwork) -> tuple[Layer, nn.Linear]:
    """The layer that is read by one linear layer alone, the one that gives the network's output; and that one.

    Raises:
        ValueError: there is none.
    """
    structure = network.structure
    name = layer_name(structure.output)
    linear = network.network.get_submodule(name) if structure.output else None
    firsts = zip(structure.layers.values(), structure.by_layer(torch.arange(structure.n_filters)).values(), strict=True)
    read_by = {
        layer.name: [
            layer_name(w) for (w, _), read in structure.readers.items() if bool(torch.isin(read, filters).any())
        ]
        for layer, filters in firsts
    }
    for layer in structure.layers.values():
        if isinstance(linear, nn.Linear) and read_by[layer.name] == [name]:
            columns = structure.readers[structure.output, 1]
            if torch.equal(columns, columns.sort().values):  # else a filter's features lie apart
                return layer, linear
    readers = (f"{layer} by {' and '.join(found)}" for layer, found in read_by.items())
    raise ValueError(
        f"no layer of {type(network.network).__name__} is read by one nn.Linear alone whose output is the network's. "
        f"Its layers are read like this: {', '.join(readers)}; its output is that of {name or 'no single layer'}. "
        "Measure the plans that matter instead, by gates.mask and training.evaluate."
    )


@contextmanager
def reading(network: GatedNetwork, linear: nn.Linear) -> Iterator[Callable[[Batch], Tensor]]:
    """Inside, a function that runs the network on a batch and returns what ``linear`` reads, (n, features).

    The features of one filter lie side by side: :func:`terms` takes them so.
    """
    seen: list[Tensor] = []

    def note(reader: tuple[str, int], x: Tensor, dim: int) -> None:
        if reader == (network.structure.output, 1):
            seen.append(x)

    def read(batch: Batch) -> Tensor:
        batch.through(network)
        return seen.pop()

    before, network.on_read = network.on_read, note
    try:
        yield read
    finally:
        network.on_read = before


def _subsets(n: int) -> list[tuple[int, ...]]:
    return [subset for size in range(n + 1) for subset in combinations(range(n), size)]


def _open(closed: tuple[int, ...], n: int) -> list[float]:
    return [float(k not in closed) for k in range(n)]


def terms(features: Tensor, linear: nn.Linear, n_filters: int) -> Tensor:
    """What adds up to the logits, (1 + filters, classes, n): the bias, and the contribution of each filter."""
    blocks = [x.reshape(len(x), n_filters, -1) for x in (features, linear.weight)]
    contributions = torch.einsum("nkp,ckp->kcn", *blocks)
    bias = contributions.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return torch.cat([bias[None, :, None].expand(1, -1, len(features)), contributions])


def _sums(terms: Tensor, kept: Tensor, labels: Tensor) -> Tensor:
    """For each row of ``kept``, which is 0/1, (subsets, 1 + filters): the sum of the cross entropies over the examples,
    and the number of right answers; (2, subsets), float64, on the CPU.
    """
    sums = []
    for some in torch.split(kept, max(1, _AT_ONCE // terms[0].numel())):
        logits = (some @ terms.flatten(1)).view(len(some), *terms.shape[1:])  # (subsets, classes, n)
        losses = logits.logsumexp(1) - logits.gather(1, labels.expand(len(some), 1, -1)).squeeze(1)
        right = logits.max(1).indices == labels  # as argmax gives, five times as fast
        sums.append(torch.stack([x.cpu().double().sum(1) for x in (losses, right)]))
    return torch.cat(sums, 1)


def _table(rows: list[dict[str, Any]], layers: dict[str, int]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[*layers, "loss", "accuracy"])
    counts = table[list(layers)].map(len)
    table.insert(0, "removed", counts.sum(axis=1))
    table["emptied"] = (counts == pd.Series(layers)).any(axis=1)
    return table.sort_values(["removed", *layers], ignore_index=True)
