"""From scores to ranks, and from ranks to a plan: which filters leave."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor

Scores: TypeAlias = dict[str, Tensor]
"""Layer name -> scores of its filters, shape (out_channels,). The higher, the more worth keeping."""


@dataclass(frozen=True)
class Plan:
    """Which filters leave: layer name -> filter numbers, in the numbering of the network that was scored.

    Filters are sorted and counted once; a layer that loses none is left out, so two plans that remove the same filters
    are equal.

    Raises:
        TypeError: not a mapping from layer names to filter numbers, or a filter number is not an integer.
        ValueError: a filter number is negative.
    """

    remove: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not isinstance(self.remove, Mapping) or not all(isinstance(name, str) for name in self.remove):
            raise TypeError(
                f'a plan is made from layer names and filters, such as {{"conv": (0, 2)}}, not {self.remove!r}.'
            )
        clean = {name: _filter_numbers(name, filters) for name, filters in self.remove.items()}
        object.__setattr__(self, "remove", MappingProxyType({name: fs for name, fs in clean.items() if fs}))

    @property
    def n_filters(self) -> int:
        """How many filters leave, over all layers."""
        return sum(len(filters) for filters in self.remove.values())

    def to_json(self) -> str:
        """The plan as a line of JSON; :meth:`from_json` reads it back."""
        return json.dumps({"remove": dict(self.remove)})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not a plan.
        """
        try:
            remove = json.loads(text)["remove"]
            return cls({name: tuple(filters) for name, filters in remove.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'not a plan: {text[:80]!r}. A plan looks like {{"remove": {{"conv": [0, 2]}}}}.'
            ) from error

    def __hash__(self) -> int:
        return hash(frozenset(self.remove.items()))

    def __reduce__(self) -> tuple[Any, ...]:  # a MappingProxyType cannot be pickled or deep-copied by itself
        return Plan, (dict(self.remove),)

    def __repr__(self) -> str:
        return f"Plan({dict(self.remove)})"


def rank(
    scores: Mapping[str, Tensor],
    *,
    normalize: str | None = "l2",
    macs_penalty: float = 0.0,
    macs: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Order the filters of all layers by their scores.

    Scores of different layers are not on one scale, so each layer's are first divided by their Euclidean norm:
    ``score / sqrt(sum of score ** 2)`` (arXiv:1611.06440, section 2.2, "normalization"). A layer of zeros stays zero.

    A penalty then makes filters pay for what they cost: ``normalized - macs_penalty * macs[layer]``, the paper's
    ``Theta - lambda * Theta_flops`` (section 2.2, "FLOPs regularized pruning"). The cost is a share of the network's
    MACs here; the paper does not give the unit of its ``Theta_flops``, so its ``lambda = 1e-3`` is not comparable.

    Args:
        scores: layer name -> tensor (out_channels,), as a criterion returns them.
        normalize: ``"l2"``, or None to compare the raw scores.
        macs_penalty: lambda, at least 0; 0 looks at the scores alone.
        macs: layer name -> the share (0 to 1) of the network's MACs that leaves with one filter, as
            ``metrics.macs_per_filter`` returns it. Needed for a penalty, for every layer.

    Returns:
        One row per filter, in the order of the layers: ``layer``, ``filter``, ``score``, ``normalized`` (the penalty
        taken off), and ``rank``, where rank 0 leaves first. Equal scores are ranked in the order of the rows, on every
        machine.

    Raises:
        TypeError: ``macs_penalty`` is not a number.
        ValueError: no scores, a score that is not a finite number, an unknown ``normalize``, a penalty that is negative
            or not finite, or one without the share of every layer.
    """
    if normalize not in ("l2", None):
        raise ValueError(f"normalize={normalize!r} is unknown; it can be 'l2' or None.")
    if not scores:
        raise ValueError("no scores to rank: the network has no prunable layer. structure.skipped_layers says why.")
    penalties = _penalties(scores, macs_penalty, macs or {})
    rows = []
    for name, values in scores.items():
        values = values.detach().cpu().double()
        if values.ndim != 1 or not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"the scores of {name!r} are not one finite number per filter: {values.tolist()}. "
                "Is the model's loss on these images finite?"
            )
        norm = values.norm() if normalize == "l2" else torch.ones(())
        scaled = (values / norm if norm > 0 else torch.zeros_like(values)) - penalties[name]
        rows += [(name, k, float(s), float(t)) for k, (s, t) in enumerate(zip(values, scaled, strict=True))]
    ranks = pd.DataFrame(rows, columns=["layer", "filter", "score", "normalized"])
    return ranks.assign(rank=ranks["normalized"].rank(method="first").astype(int) - 1)


def _penalties(layers: Iterable[str], macs_penalty: float, macs: Mapping[str, float]) -> dict[str, float]:
    if isinstance(macs_penalty, bool) or not isinstance(macs_penalty, Real):
        raise TypeError(f"macs_penalty must be a number, not {macs_penalty!r}.")
    if not 0 <= macs_penalty < math.inf:
        raise ValueError(f"macs_penalty must be a finite number, at least 0, not {macs_penalty}.")
    if macs_penalty == 0:
        return dict.fromkeys(layers, 0.0)
    if without := [name for name in layers if not 0 <= macs.get(name, math.nan) <= 1]:
        raise ValueError(
            f"macs_penalty={macs_penalty} needs the share (0 to 1) of the network's MACs that leaves with one filter, "
            f"and macs gives none for {', '.join(without)}. Pass macs=metrics.macs_per_filter(model, images)."
        )
    return {name: macs_penalty * macs[name] for name in layers}


def lowest(ranks: pd.DataFrame, n_filters: int, *, keep_at_least: int = 1) -> Plan:
    """The plan that removes the ``n_filters`` filters of lowest rank, leaving ``keep_at_least`` in each layer.

    A filter that a floor protects stays, and the next one in rank leaves in its place.

    Raises:
        TypeError: a number of filters is not an integer.
        ValueError: ``n_filters`` is negative, ``keep_at_least`` is, or the floors leave fewer filters to remove.
    """
    n_filters, keep_at_least = _count("n_filters", n_filters), _count("keep_at_least", keep_at_least)
    free = {str(name): max(0, len(group) - keep_at_least) for name, group in ranks.groupby("layer", sort=False)}
    if n_filters > sum(free.values()):
        raise ValueError(
            f"cannot remove {n_filters} of {len(ranks)} filters: with keep_at_least={keep_at_least} in each of "
            f"{len(free)} layers, at most {sum(free.values())} can leave."
        )
    remove: dict[str, list[int]] = {name: [] for name in free}
    ordered = ranks.sort_values("rank")
    for name, k in zip(ordered["layer"], ordered["filter"], strict=True):
        if n_filters and len(remove[name]) < free[name]:
            remove[name].append(k)
            n_filters -= 1
    return _in_layer_order(ranks, remove)


def per_layer(ranks: pd.DataFrame, counts: Mapping[str, int]) -> Plan:
    """The plan that removes the ``counts[layer]`` filters of lowest rank from each layer named.

    Raises:
        TypeError: a count is not an integer.
        ValueError: an unknown layer, or a count that the layer does not have.
    """
    groups = {str(name): group for name, group in ranks.groupby("layer", sort=False)}
    remove: dict[str, list[int]] = {}
    for name, count in counts.items():
        if name not in groups:
            raise ValueError(f"no layer {name!r} in the ranks. There are: {', '.join(groups)}.")
        if _count(f"the count of {name!r}", count) > len(groups[name]):
            raise ValueError(f"cannot remove {count} filters of {name!r}: it has {len(groups[name])}.")
        remove[name] = groups[name].sort_values("rank")["filter"].head(count).tolist()
    return _in_layer_order(ranks, remove)


def _in_layer_order(ranks: pd.DataFrame, remove: Mapping[str, Sequence[int]]) -> Plan:
    return Plan({name: tuple(remove[name]) for name in ranks["layer"].unique() if name in remove})


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number of filters, not {value!r}.")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}.")
    return int(value)


def _filter_numbers(name: str, filters: Iterable[int]) -> tuple[int, ...]:
    if not isinstance(filters, Iterable):
        raise TypeError(f"filters of {name!r} must be a sequence such as (0, 2), not {filters!r}.")
    numbers = filters.tolist() if isinstance(filters, Tensor) else list(filters)
    for k in numbers:
        if isinstance(k, bool) or not hasattr(k, "__index__"):
            raise TypeError(f"filter numbers of {name!r} must be integers, not {k!r}.")
        if k < 0:
            raise ValueError(f"filter numbers of {name!r} start at 0; {k} was given.")
    return tuple(sorted({operator.index(k) for k in numbers}))
