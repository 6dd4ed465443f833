"""The data of a gate board: accuracy and loss of every sub-network, and the scores and costs of its filters.

A set of closed gates is one number here, the *closed* number: bit i is set where filter i is closed, the filters
counted through all layers in their order. 0 is the whole network.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import chain, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from ..batches import Split
from ..criteria import taylor
from ..exhaustive import all_subnetworks, best_of_each_size, plan_of
from ..files import fingerprint
from ..metrics import macs, parameters
from ..plan import Plan, rank
from ..structure import prunable_layers
from ..surgery import prune

FORMAT = 1
_SHIPPED = "baseline.json"
_STEPS = 2**16 - 1  # of the loss, each the same factor from the next: the lowest and the highest are exact
_FLOOR = 1e-12  # a loss can be 0, and a logarithm of it cannot
_AT_MOST = 2**16 - 1  # right answers that 16 bits can count


@dataclass(frozen=True, eq=False)
class Facts:
    """Measured facts of one network on one split, without any update after closing.

    Attributes:
        layers: layer name -> number of filters.
        n: how many images were measured.
        correct: right answers of each sub-network, uint16 (2 ** filters,), by its closed number.
        loss: mean cross entropy, float64 (2 ** filters,); from a file to about 3e-5, relative.
        scores: one row per filter, as :func:`cnnprune_utils.plan.rank` returns them for the Taylor criterion.
        costs: filters kept in each layer -> (parameters, MACs per image). No layer is empty in it.
        best: the closed number of the most accurate sub-network of each size, none with an empty layer.
        fingerprint: of the network and the images; see :func:`identity`.
        made: what was measured, how and with what: notes for people.
    """

    layers: dict[str, int]
    n: int
    correct: NDArray[np.uint16]
    loss: NDArray[np.float64]
    scores: pd.DataFrame
    costs: dict[tuple[int, ...], tuple[int, int]]
    best: list[int]
    fingerprint: str
    made: list[str] = field(default_factory=list)

    def number(self, plan: Plan) -> int:
        """Return the closed number of a plan.

        Raises:
            ValueError: the plan does not fit the layers.
        """
        closed = 0
        for name, filters in plan.remove.items():
            if name not in self.layers or filters[-1] >= self.layers[name]:
                layers = ", ".join(f"{name} ({n} filters)" for name, n in self.layers.items())
                raise ValueError(f"{plan} does not fit this board: its layers are {layers}.")
            closed += sum(1 << self._first(name) + k for k in filters)
        return closed

    def plan(self, closed: int) -> Plan:
        """Return the plan of a closed number."""
        filters = {name: [closed >> self._first(name) + k & 1 for k in range(n)] for name, n in self.layers.items()}
        return Plan({name: tuple(k for k, bit in enumerate(bits) if bit) for name, bits in filters.items()})

    def _first(self, layer: str) -> int:
        names = list(self.layers)
        return sum(self.layers[name] for name in names[: names.index(layer)])

    def to_json(self, **more: Any) -> str:
        """Return the facts as JSON, for the board in a browser and :meth:`from_json`; ``more`` adds entries."""
        loss = np.maximum(self.loss, _FLOOR)
        low, high = float(loss.min()), float(loss.max())
        steps = np.round(np.log(loss / low) / max(np.log(high / low), 1e-12) * _STEPS)
        scores = self.scores[["score", "normalized", "rank"]].to_dict("records")
        record = {
            "format": FORMAT,
            "made": self.made,
            "fingerprint": self.fingerprint,
            "layers": [{"name": name, "filters": n} for name, n in self.layers.items()],
            "n": self.n,
            "scores": [{key: float(f"{value:.6g}") for key, value in row.items()} for row in scores],
            "costs": {" ".join(map(str, kept)): cost for kept, cost in self.costs.items()},
            "best": self.best,
            "correct": packed(self.correct),
            "loss": {"low": low, "high": high, "steps": packed(steps.astype(np.uint16))},
        }
        return json.dumps(record | more)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Return the facts that :meth:`to_json` wrote.

        Raises:
            ValueError: the format is newer than :data:`FORMAT`.
        """
        record = json.loads(text)
        if record["format"] > FORMAT:
            raise ValueError(f"these facts have format {record['format']}, and this version reads up to {FORMAT}.")
        layers = {layer["name"]: int(layer["filters"]) for layer in record["layers"]}
        loss = record["loss"]
        scores = pd.DataFrame(record["scores"]).astype({"rank": int})
        scores.insert(0, "layer", [name for name, n in layers.items() for _ in range(n)])
        scores.insert(1, "filter", [k for n in layers.values() for k in range(n)])
        return cls(
            layers=layers,
            n=record["n"],
            correct=unpacked(record["correct"]),
            loss=loss["low"] * (loss["high"] / loss["low"]) ** (unpacked(loss["steps"]).astype(np.float64) / _STEPS),
            scores=scores,
            costs={tuple(map(int, kept.split())): (a, b) for kept, (a, b) in record["costs"].items()},
            best=record["best"],
            fingerprint=record["fingerprint"],
            made=record["made"],
        )


def measure(model: nn.Module, split: Split, *, at_most: int = 2**16) -> Facts:
    """Measure every sub-network of ``model`` on ``split``, with a progress bar. ``model`` is unchanged.

    Raises:
        ValueError: as :func:`cnnprune_utils.exhaustive.all_subnetworks`, or there are more than 65,535 images.
    """
    if len(split) > _AT_MOST:
        raise ValueError(f"a board counts up to {_AT_MOST:,} images, not {len(split):,}: pass split.subset(5000).")
    table = all_subnetworks(model, split, at_most=at_most)
    layers = {layer.name: layer.out_channels for layer in prunable_layers(model)}
    filters = [(name, k) for name, n in layers.items() for k in range(n)]
    bits = {filter_: 1 << i for i, filter_ in enumerate(filters)}
    numbers = sum(table[name].map(lambda gone, name=name: sum(bits[name, k] for k in gone)) for name in layers)
    ordered = table.set_index(numbers).sort_index()
    best = (plan_of(row) for _, row in best_of_each_size(table).iterrows())
    return Facts(
        layers=layers,
        n=len(split),
        correct=(ordered["accuracy"] * len(split)).round().to_numpy(np.uint16),
        loss=ordered["loss"].to_numpy(np.float64),
        scores=rank(taylor(model, split)),
        costs=_costs(model, split, layers),
        best=[sum(bits[name, k] for name, gone in plan.remove.items() for k in gone) for plan in best],
        fingerprint=identity(model, split),
    )


def _costs(model: nn.Module, split: Split, layers: Mapping[str, int]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Return filters kept in each layer -> (parameters, MACs), counted in pruned networks."""
    costs = {}
    for kept in product(*(range(1, n + 1) for n in layers.values())):
        plan = Plan({name: tuple(range(k, n)) for (name, n), k in zip(layers.items(), kept, strict=True)})
        small = prune(model, plan) if plan.remove else model
        costs[kept] = parameters(small), macs(small, split.inputs)
    return costs


def identity(model: nn.Module, split: Split) -> str:
    """Return the fingerprint of a network's layers and weights and of a split's images and labels."""
    return fingerprint([repr(model), *chain.from_iterable(model.state_dict().items()), split.inputs, split.targets])


def facts_of(model: nn.Module, split: Split) -> Facts:
    """Return the shipped facts if they are of this network and these images, else those of :func:`measure`."""
    known = shipped()
    return known if known.fingerprint == identity(model, split) else measure(model, split)


@cache
def shipped() -> Facts:
    """Return the facts of the book's baseline on its 5,000 validation images (from ``python -m benchmarks.board``)."""
    return Facts.from_json(shipped_json())


def shipped_json() -> str:
    """Return the content of the file of :func:`shipped`, which also holds the data of the web page."""
    return (files(__package__) / _SHIPPED).read_text(encoding="utf-8")


def packed(numbers: NDArray[Any]) -> str:
    """Return the numbers, little-endian, packed by zlib and base64: about a tenth of their size."""
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode("ascii")


def unpacked(text: str) -> NDArray[np.uint16]:
    """Return the 16-bit numbers that :func:`packed` packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2")
