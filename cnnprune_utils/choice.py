"""Which filters to remove together: a criterion proposes, closed gates decide, and decisions can be taken back.

A criterion scores each filter as if it left alone, and greedy removal never regrets. Both are cheap, and both lose
track after a few filters: two filters that stand in for each other are each worth little, until the first one is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import torch
from torch import nn

from .batches import Split
from .criteria import taylor
from .cutting import without
from .gates import closed, gated
from .plan import Plan, Scores, lowest, rank
from .structure import known, prunable_layers
from .training import Evaluation, evaluate

_Filters: TypeAlias = frozenset[tuple[str, int]]  # (layer, number) of each


def choose(
    model: nn.Module,
    split: Split,
    n_filters: int,
    *,
    criterion: Callable[..., Scores] = taylor,
    shortlist: int = 4,
    keep_at_least: int = 1,
    batch_size: int = 256,
) -> Plan:
    """A plan that removes ``n_filters`` filters, found by closing gates; nothing is trained.

    Filter by filter: ``criterion`` scores the network that is left and proposes the ``shortlist`` filters of lowest
    rank; their gates are closed in turn, and the filter leaves without which the most images stay right. Then a filter
    that has left may come back, in exchange for one of the shortlist: as long as that makes more images right, and
    after that as long as it lowers the loss. The loss alone gets stuck where no single exchange lowers it; the share of
    right answers alone is decided by chance where filters cost little.

    Args:
        model: a trained network, on the device of ``split``; unchanged.
        split: the images that score and decide. Decide on validation or training images, never on test images.
        n_filters: how many filters leave.
        criterion: proposes; one of :data:`cnnprune_utils.criteria.CRITERIA`.
        shortlist: how many filters it proposes each time. 1 leaves the choice to the criterion alone, filter by filter.
        keep_at_least: so many filters stay in each layer.
        batch_size: images at once.

    Raises:
        ValueError: the floors leave fewer filters to remove, or a number is out of range.
    """
    widths = {layer.name: layer.out_channels for layer in prunable_layers(model, split.images[:2])}
    equal = rank({name: torch.ones(n) for name, n in widths.items()})
    lowest(equal, n_filters, keep_at_least=keep_at_least)  # raises where the floors leave fewer
    plans = choices(
        model, split, criterion=criterion, shortlist=shortlist, keep_at_least=keep_at_least, batch_size=batch_size
    )
    return next(islice(plans, n_filters, None))


def choices(
    model: nn.Module,
    split: Split,
    *,
    criterion: Callable[..., Scores] = taylor,
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
    search = _Search(model, split, criterion, shortlist, keep_at_least, batch_size)
    gone: _Filters = frozenset()
    yield search.plan(gone)
    while proposed := search.proposed(gone):
        gone = min((gone | {filter_} for filter_ in proposed), key=search.errors)
        if shortlist > 1:
            for cost in (search.errors, search.loss):
                gone = search.improve(gone, cost)
        yield search.plan(gone)


class _Search:
    """What the criterion says of a network without some filters, and how well it does: each asked once."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        criterion: Callable[..., Scores],
        shortlist: int,
        keep_at_least: int,
        batch_size: int,
    ) -> None:
        self.model, self.split, self.criterion, self.batch_size = model, split, criterion, batch_size
        self.shortlist, self.keep_at_least = shortlist, keep_at_least
        self.network = gated(model, split.images[:2])
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
                scores = self.criterion(left_over, self.split, batch_size=self.batch_size)
            ranks = rank(scores).sort_values("rank")
            pairs = zip(ranks["layer"], ranks["filter"], strict=True)
            self.orders[gone] = [(name, left[name][k]) for name, k in pairs]
        return self.orders[gone]

    def proposed(self, gone: _Filters, back: tuple[str, int] | None = None) -> list[tuple[str, int]]:
        """The shortlist of filters that may leave as well, or in exchange for the one that comes ``back``."""
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
        return 1 - self.result(gone).accuracy

    def loss(self, gone: _Filters) -> float:
        return self.result(gone).loss

    def result(self, gone: _Filters) -> Evaluation:
        """Of the network with these gates closed."""
        if gone not in self.results:
            with closed(self.network, gone):
                self.results[gone] = evaluate(self.network, self.split, batch_size=self.batch_size)
        return self.results[gone]
