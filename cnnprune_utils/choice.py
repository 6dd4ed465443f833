"""Which filters to remove together: a criterion proposes, closed gates decide, and decisions can be taken back.

A criterion scores each filter as if it left alone, and greedy removal never regrets. Both are cheap, and both lose
track after a few filters: two filters that stand in for each other are each worth little, until the first one is gone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from .batches import Batches, Data
from .criteria import taylor
from .cutting import without
from .example import Example
from .gates import closed, gated
from .losses import Loss
from .plan import Plan, Scores, lowest, rank
from .structure import known, prunable_layers
from .training import Evaluation, evaluate

_Filters: TypeAlias = frozenset[tuple[str, int]]  # (layer, number) of each


def choose(
    model: nn.Module,
    data: Data,
    n_filters: int,
    *,
    criterion: Callable[..., Scores] = taylor,
    loss: Loss = F.cross_entropy,
    shortlist: int = 4,
    keep_at_least: int = 1,
    batch_size: int = 256,
) -> Plan:
    """A plan that removes ``n_filters`` filters, found by closing gates; nothing is trained.

    Filter by filter: ``criterion`` scores the network that is left and proposes the ``shortlist`` filters of lowest
    rank; their gates are closed in turn, and the one without which the most images stay right is removed. Then a filter
    that has left may come back, in exchange for one of the shortlist: as long as that makes more images right, and
    after that as long as it lowers the loss. The loss alone gets stuck where no single exchange lowers it; the share of
    right answers alone is decided by chance where filters cost little.

    Args:
        model: a trained network; unchanged.
        data: the examples that score and decide. Decide on validation or training examples, never on test examples.
        n_filters: how many filters are removed.
        criterion: proposes; one of :data:`cnnprune_utils.criteria.CRITERIA`.
        loss: of each example (:data:`.losses.Loss`). Where targets are not classes, it decides alone.
        shortlist: how many filters it proposes each time. 1 leaves the choice to the criterion alone, filter by filter.
        keep_at_least: so many filters stay in each layer.
        batch_size: examples of a split at once.

    Raises:
        ValueError: the floors leave fewer filters to remove, or a number is out of range.
    """
    widths = {layer.name: layer.out_channels for layer in prunable_layers(model, _example(model, data))}
    equal = rank({name: torch.ones(n) for name, n in widths.items()})
    lowest(equal, n_filters, keep_at_least=keep_at_least)  # raises where the floors leave fewer
    rules: dict[str, Any] = {"shortlist": shortlist, "keep_at_least": keep_at_least, "batch_size": batch_size}
    plans = choices(model, data, criterion=criterion, loss=loss, **rules)
    return next(islice(plans, n_filters, None))


def choices(
    model: nn.Module,
    data: Data,
    *,
    criterion: Callable[..., Scores] = taylor,
    loss: Loss = F.cross_entropy,
    shortlist: int = 4,
    keep_at_least: int = 1,
    batch_size: int = 256,
) -> Iterator[Plan]:
    """The plans of :func:`choose` for 0, 1, 2, ... filters, each found from the one before, as far as the floors allow.

    Raises:
        ValueError: a number is out of range.
    """
    if min(shortlist, keep_at_least) < 1:
        raise ValueError(f"shortlist={shortlist} and keep_at_least={keep_at_least} must be at least 1.")
    search = _Search(model, data, criterion, loss, shortlist, keep_at_least, batch_size)
    gone: _Filters = frozenset()
    yield search.plan(gone)
    while proposed := search.proposed(gone):
        gone = min((gone | {filter_} for filter_ in proposed), key=search.errors)
        if shortlist > 1:
            for cost in (search.errors, search.loss):
                gone = search.improve(gone, cost)
        yield search.plan(gone)


def _example(model: nn.Module, data: Data) -> Example:
    return Batches.of(data, 2, model).first.first(2).inputs


class _Search:
    """What the criterion says of a network without some filters, and how well it does: each asked once."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        criterion: Callable[..., Scores],
        loss: Loss,
        shortlist: int,
        keep_at_least: int,
        batch_size: int,
    ) -> None:
        self.model, self.data, self.criterion = model, data, criterion
        self.measured: dict[str, Any] = {"loss": loss, "batch_size": batch_size}
        self.shortlist, self.keep_at_least = shortlist, keep_at_least
        self.network = gated(model, _example(model, data))
        self.widths = {name: len(gate.values) for name, gate in self.network.gates.items()}
        self.orders: dict[_Filters, list[tuple[str, int]]] = {}
        self.results: dict[_Filters, Evaluation] = {}

    def plan(self, gone: _Filters) -> Plan:
        return Plan({name: tuple(k for layer, k in gone if layer == name) for name in self.widths})

    def order(self, gone: _Filters) -> list[tuple[str, int]]:
        """The filters that are left without ``gone``, the lowest rank first, in the model's numbering."""
        if gone not in self.orders:
            left = {name: [k for k in range(n) if (name, k) not in gone] for name, n in self.widths.items()}
            plan = self.plan(gone)
            left_over = without(self.model, self.network.structure.kept(plan))
            with known(left_over, self.network.structure.after(plan)):
                scores = self.criterion(left_over, self.data, **self.measured)
            ranks = rank(scores).sort_values("rank")
            pairs = zip(ranks["layer"], ranks["filter"], strict=True)
            self.orders[gone] = [(name, left[name][k]) for name, k in pairs]
        return self.orders[gone]

    def proposed(self, gone: _Filters, back: tuple[str, int] | None = None) -> list[tuple[str, int]]:
        """The shortlist of filters that may be removed as well, or in exchange for the one that comes ``back``."""
        left = Counter(name for name, _ in self.order(gone))
        if back is not None:
            left[back[0]] += 1
        return [(name, k) for name, k in self.order(gone) if left[name] > self.keep_at_least][: self.shortlist]

    def exchanges(self, gone: _Filters) -> Iterator[_Filters]:
        for back in sorted(gone):  # a set has another order in each process
            for filter_ in self.proposed(gone, back):
                yield (gone - {back}) | {filter_}

    def improve(self, gone: _Filters, cost: Callable[[_Filters], float]) -> _Filters:
        """Make the best exchange, again and again, as long as it lowers the cost."""
        better = min(self.exchanges(gone), key=cost, default=gone)
        return gone if cost(better) >= cost(gone) else self.improve(better, cost)

    def errors(self, gone: _Filters) -> float:
        accuracy = self.result(gone).accuracy
        return self.loss(gone) if math.isnan(accuracy) else 1 - accuracy

    def loss(self, gone: _Filters) -> float:
        return self.result(gone).loss

    def result(self, gone: _Filters) -> Evaluation:
        """Of the network with these gates closed."""
        if gone not in self.results:
            with closed(self.network, gone):
                self.results[gone] = evaluate(self.network, self.data, **self.measured)
        return self.results[gone]
