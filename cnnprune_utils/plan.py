"""From scores to ranks, and from ranks to a plan: which filters are removed."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor

Scores: TypeAlias = dict[str, Tensor]
"""Layer name -> scores of its filters, shape (out_channels,). The higher, the more worth keeping."""


@dataclass(frozen=True, init=False)
class Plan:
    """Which filters to remove: layer name -> filter numbers, in the numbering of the network that was scored.

    Filters are sorted and counted once; a layer that loses none is left out, so two plans that remove the same filters
    are equal.

    Raises:
        TypeError: not a mapping from layer names to filter numbers, or a filter number is not an integer.
        ValueError: a filter number is negative.
    """

    remove: Mapping[str, tuple[int, ...]]

    def __init__(self, remove: Mapping[str, Iterable[int]]) -> None:
        if not isinstance(remove, Mapping) or not all(isinstance(name, str) for name in remove):
            raise TypeError(f'a plan is made from layer names and filters, such as {{"conv": (0, 2)}}, not {remove!r}.')
        clean = {name: _filter_numbers(name, filters) for name, filters in remove.items()}
        object.__setattr__(self, "remove", MappingProxyType({name: fs for name, fs in clean.items() if fs}))

    @property
    def n_filters(self) -> int:
        """How many filters are removed, over all layers."""
        return sum(len(filters) for filters in self.remove.values())

    def then(self, other: Plan) -> Plan:
        """The plan that removes at once what this one and then ``other`` remove.

        ``other`` is in the numbering of the network that this plan leaves; the result is in that of the network that
        this plan was made for: ``prune(prune(model, a), b)`` is ``prune(model, a.then(b))``.

        Raises:
            TypeError: ``other`` is not a plan.
        """
        if not isinstance(other, Plan):
            raise TypeError(f"a plan is followed by another Plan, not by {other!r}.")
        both = {name: list(filters) for name, filters in self.remove.items()}
        for name, filters in other.remove.items():
            removed = self.remove.get(name, ())
            both.setdefault(name, []).extend(_number_before(k, removed) for k in filters)
        return Plan({name: tuple(filters) for name, filters in both.items()})

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


_NORMS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "l2": torch.Tensor.norm,
    "mean": lambda scores: scores.abs().mean(),
    None: lambda scores: torch.ones(()),
}


def rank(
    scores: Mapping[str, Tensor],
    *,
    normalize: str | None = "l2",
    macs_penalty: float = 0.0,
    macs: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Order the filters of all layers by their scores.

    Scores of different layers are not on one scale, so each layer's are first divided by their Euclidean norm:
    ``score / sqrt(sum of score ** 2)`` (arXiv:1611.06440, section 2.3). A layer of zeros stays zero.
    That norm grows with the number of filters, so the filters of wide layers get low scores, and are removed first; the
    mean of the sizes does not: ``score / mean of |score|``.

    A penalty then makes filters pay for what they cost: ``normalized - macs_penalty * macs[layer]``, the paper's
    ``Theta - lambda * Theta_flops`` (section 2.4). The cost is a share of the network's MACs here, with those that the
    next layers spend on the filter's map. The paper counts the FLOPs of the filter's own convolution, in millions, so
    its ``lambda = 1e-3`` is not comparable.

    Args:
        scores: layer name -> tensor (out_channels,), as a criterion returns them.
        normalize: ``"l2"``, ``"mean"``, or None to compare the raw scores.
        macs_penalty: lambda, at least 0; 0 looks at the scores alone.
        macs: layer name -> the share (0 to 1) of the network's MACs that goes with one filter, as
            ``metrics.macs_per_filter`` returns it. Needed for a penalty, for every layer.

    Returns:
        One row per filter, in the order of the layers: ``layer``, ``filter``, ``score``, ``normalized`` (the penalty
        taken off), and ``rank``, where rank 0 is removed first. Equal scores are ranked in the order of the rows, on
        every machine.

    Raises:
        TypeError: ``macs_penalty`` is not a number.
        ValueError: no scores, a score that is not a finite number, an unknown ``normalize``, a penalty that is negative
            or not finite, or one without the share of every layer.
    """
    if normalize not in _NORMS:
        raise ValueError(f"normalize={normalize!r} is unknown; it can be 'l2', 'mean' or None.")
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
        norm = _NORMS[normalize](values)
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
            f"macs_penalty={macs_penalty} needs the share (0 to 1) of the network's MACs that goes with one filter, "
            f"and macs gives none for {', '.join(without)}. Pass macs=metrics.macs_per_filter(model, images)."
        )
    return {name: macs_penalty * macs[name] for name in layers}


def lowest(
    ranks: pd.DataFrame,
    n_filters: int | None = None,
    *,
    share: float | None = None,
    keep_at_least: int = 1,
    multiple_of: int = 1,
    exclude: str | Iterable[str] | Callable[[str], bool] = (),
) -> Plan:
    """The plan that removes the ``n_filters`` filters of lowest rank, leaving ``keep_at_least`` in each layer.

    A filter that a floor protects stays, and the next one in rank is removed in its place.

    With ``multiple_of``, each layer that loses filters keeps a multiple of it, and filters go in whole steps: the
    lowest of a layer that bring it down to a multiple, then ``multiple_of`` at a time. A step's turn comes with its
    filter of highest rank; one that would exceed ``n_filters`` is passed over. So fewer than ``n_filters`` may be
    removed, never more: ``plan.n_filters`` says how many are.

    Args:
        ranks: as :func:`rank` returns them.
        n_filters: how many filters are removed.
        share: instead of ``n_filters``, how many of all filters, from 0 to 1; rounded down.
        keep_at_least: the floor of each layer.
        multiple_of: 8, for instance, where hardware computes 8 channels at a time. A layer of fewer filters stays
            whole.
        exclude: layers that lose no filter: names, or a function that is called with a name and says whether it is one.

    Raises:
        TypeError: a number of filters is not an integer.
        ValueError: neither ``n_filters`` nor ``share`` is given, or both; ``n_filters`` or ``keep_at_least`` is
            negative, ``multiple_of`` is less than 1, ``exclude`` names an unknown layer, fewer filters than
            ``n_filters`` can be removed, or ``n_filters`` is less than every step.
    """
    if (n_filters is None) == (share is None):
        raise ValueError(f"give n_filters or share, one of them: n_filters={n_filters}, share={share}.")
    n_filters = _count("n_filters", n_filters) if share is None else _share(share, len(ranks))
    keep_at_least = _count("keep_at_least", keep_at_least)
    multiple_of = _count("multiple_of", multiple_of, at_least=1)
    excluded = excluded_layers(ranks["layer"].unique(), exclude)
    steps = turns(ranks, keep_at_least, multiple_of, excluded)
    n_layers = ranks["layer"].nunique() - len(excluded)
    rules = f"keep_at_least={keep_at_least}" + (f" and multiple_of={multiple_of}" if multiple_of > 1 else "")
    if n_filters > (n_free := sum(map(len, steps))):
        raise ValueError(
            f"cannot remove {n_filters} of {len(ranks)} filters: with {rules} in each of {n_layers} layers, at most "
            f"{n_free} can be removed."
        )
    remove: dict[str, list[int]] = {}
    left = n_filters
    for step in steps:
        if len(step) <= left:
            for name, k in step:
                remove.setdefault(name, []).append(k)
            left -= len(step)
    if n_filters and not remove:
        raise ValueError(
            f"cannot remove {n_filters} of {len(ranks)} filters: with {rules}, at least "
            f"{min(map(len, steps))} go from a layer together. Ask for more, or for a smaller "
            "multiple_of."
        )
    return _in_layer_order(ranks, remove)


def turns(
    ranks: pd.DataFrame,
    keep_at_least: int = 1,
    multiple_of: int = 1,
    excluded: Collection[str] = (),
    widths: Mapping[str, int] | None = None,
) -> list[list[tuple[str, int]]]:
    """Return which filters are removed together, (layer, number) each, in the order in which their turn comes.

    The rules are those of :func:`lowest`; with ``multiple_of=1``, each filter has a turn of its own. With ``widths``,
    how many filters each layer had at first, it is the turn of the layer that keeps the largest share of them.
    """
    found: list[tuple[float, int, list[tuple[str, int]]]] = []  # with the share that is gone, the highest rank in it
    for name, group in ranks.sort_values("rank").groupby("layer", sort=False):
        if name not in excluded:
            filters, of_rank = group["filter"].tolist(), group["rank"].tolist()
            for begin, end in _steps(len(group), keep_at_least, multiple_of):
                gone = 1 - (len(group) - end) / widths[str(name)] if widths else 0.0
                found.append((gone, of_rank[end - 1], [(str(name), k) for k in filters[begin:end]]))
    return [filters for *_, filters in sorted(found)]


def removable(n: int, keep_at_least: int = 1, multiple_of: int = 1) -> int:
    """Return how many of a layer's ``n`` filters :func:`lowest` may remove."""
    return max((end for _, end in _steps(n, keep_at_least, multiple_of)), default=0)


def _steps(n: int, keep_at_least: int, multiple_of: int) -> list[tuple[int, int]]:
    """From where to where, in the order of a layer's ranks, each of the steps goes in which its ``n`` filters go."""
    ends = [end for end in range(1, n - keep_at_least + 1) if (n - end) % multiple_of == 0]
    return list(zip([0, *ends], ends, strict=False))


def excluded_layers(names: Iterable[str], exclude: str | Iterable[str] | Callable[[str], bool]) -> set[str]:
    """Return which of the layers ``exclude`` means: a name, names, or a function that says whether a name is meant.

    Raises:
        ValueError: a name is not among the layers.
    """
    names = list(names)
    if callable(exclude):
        return {name for name in names if exclude(name)}
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    if unknown := sorted(excluded - set(names)):
        raise ValueError(f"cannot exclude {', '.join(unknown)}: there is no such layer. There are: {', '.join(names)}.")
    return excluded


def per_layer(ranks: pd.DataFrame, counts: Mapping[str, int] | float) -> Plan:
    """The plan that removes the ``counts[layer]`` filters of lowest rank from each layer named.

    Args:
        ranks: as :func:`rank` returns them.
        counts: layer name -> how many filters are removed; or one share, from 0 to 1, of each layer, rounded down.

    Raises:
        TypeError: a count is not an integer.
        ValueError: an unknown layer, a count that the layer does not have, or a share that is out of range.
    """
    groups = {str(name): group for name, group in ranks.groupby("layer", sort=False)}
    if not isinstance(counts, Mapping):
        counts = {name: _share(counts, len(group)) for name, group in groups.items()}
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


def _count(name: str, value: Any, *, at_least: int = 0) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number of filters, not {value!r}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {value}.")
    return int(value)


def _share(share: float, n: int) -> int:
    """So many of ``n``."""
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"a share must be a number from 0 to 1, not {share!r}.")
    if not 0 <= share <= 1:
        raise ValueError(f"a share must lie between 0 and 1, not {share}; for a number of filters pass n_filters.")
    return int(share * n + 1e-9)  # 0.29 * 100 is 28.999...


def _number_before(k: int, removed: Iterable[int]) -> int:
    """The number that filter ``k`` had before the filters ``removed``, in ascending order, left its layer."""
    for gone in removed:
        k += gone <= k
    return k


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
