"""The state of the loop in :mod:`.loop` between two steps, also on disk; and the target that it stops at."""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from .batches import Splits, identity
from .cutting import without
from .example import Example
from .files import changes, fingerprint, write
from .metrics import macs, parameters
from .plan import Plan, excluded_layers, removable
from .saving import load_model, save_model, to_bytes
from .structure import Structure, analyse, known

Exclude: TypeAlias = str | Iterable[str] | Callable[[str], bool]
Filter: TypeAlias = tuple[str, int]
"""The name of its layer, and its number."""

_COLUMNS = {"filters": "removed", "parameters": "parameters", "macs": "macs"}  # of the history, by kind of size


@dataclass(frozen=True, repr=False)
class Target:
    """Where :func:`.loop.compress` stops: at a size, at a loss of accuracy, or at a size within a loss of accuracy.

    Args:
        filters: so many have left.
        parameters: at most so many remain.
        macs: at most so many remain, for one image, as :func:`cnnprune_utils.metrics.macs` counts them.
        points: at most so many percentage points of validation accuracy, or of what ``evaluate`` of
            :func:`.loop.compress` measures, are lost against the unpruned model. Alone, it asks for the smallest
            network that loses no more.
        multiple_of: each layer that loses filters keeps a multiple of it, as in :func:`.plan.lowest`.

    Raises:
        ValueError: neither a size nor points, two sizes, or a number that is out of range.
    """

    filters: int | None = None
    parameters: int | None = None
    macs: int | None = None
    points: float | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        sizes = [size for size in (self.filters, self.parameters, self.macs) if size is not None]
        if len(sizes) > 1 or (not sizes and self.points is None):
            raise ValueError(f"{self}: give one of filters, parameters and macs, or points, or one of them and points.")
        if any(size < 0 for size in sizes) or not 0 <= (self.points or 0) <= 100:
            raise ValueError(f"{self}: a size must be at least 0, and points must lie between 0 and 100.")
        if self.multiple_of < 1:
            raise ValueError(f"{self}: multiple_of must be at least 1.")

    def __repr__(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if self.multiple_of == 1:
            del given["multiple_of"]
        return f"Target({', '.join(f'{name}={value}' for name, value in given.items())})"

    @property
    def size(self) -> str | None:
        """The size that is asked for, ``"filters"``, ``"parameters"`` or ``"macs"``; None for points alone."""
        return next((name for name in _COLUMNS if getattr(self, name) is not None), None)

    def reached(self, row: Mapping[str, Any]) -> bool:
        """Whether the network of this row of the history is small enough; never, if no size is asked for."""
        if self.size is None:
            return False
        asked, has = getattr(self, self.size), row[_COLUMNS[self.size]]
        return bool(has >= asked if self.size == "filters" else has <= asked)

    def text(self, row: Mapping[str, Any]) -> str:
        """What this row of the history has instead, such as ``parameters=23617``."""
        return f"{self.size}={row[_COLUMNS[self.size or 'filters']]}"


class LoopState:
    """Where the loop stands between two steps, in memory and, with a folder, on disk."""

    def __init__(
        self, model: nn.Module, target: Target, keep_at_least: int, exclude: Exclude, example: Example
    ) -> None:
        self.model, self.target, self.keep_at_least, self.example = model, target, keep_at_least, example
        self.structure = analyse(model, example)
        self.layers = {name: layer.out_channels for name, layer in self.structure.layers.items()}
        self.rows: list[dict[str, Any]] = []
        self.order: list[Filter] = []  # who left, first to last, in the numbering of the unpruned model
        self.networks: dict[int, nn.Module] = {}  # by step: the last one, and the closest
        self.folder: Path | None = None
        self.excluded = excluded_layers(self.layers, exclude)
        floor = Plan({name: tuple(range(n - self.removable(name, n), n)) for name, n in self.layers.items()})
        smallest = self.sizes(without(model, self.structure.kept(floor)), floor.n_filters)
        if target.size and not target.reached(smallest):
            raise ValueError(
                f"{target} is out of reach: with keep_at_least={keep_at_least} in each of {len(self.layers)} prunable "
                f"layers, the closest is {target.text(smallest)}."
            )

    @property
    def network(self) -> nn.Module:
        return self.networks[len(self.rows) - 1]

    @property
    def structure_now(self) -> Structure:
        """The structure of :attr:`network`, which follows from the unpruned model's."""
        return self.structure.after(self.original(len(self.rows) - 1))

    @property
    def progress(self) -> str:
        """What the network of the last step has, in every unit, and what it has lost."""
        row = self.rows[-1]
        return f"{row['parameters']:,} parameters, {row['macs']:,} MACs, {self.points_lost(row):.2f} points lost"

    @property
    def free(self) -> int:
        """How many filters can still be removed."""
        return sum(self.removable(name, self.rows[-1][name]) for name in self.layers)

    def removable(self, name: str, n: int) -> int:
        """How many filters of this layer can be removed where it has ``n``."""
        return 0 if name in self.excluded else removable(n, self.keep_at_least, self.target.multiple_of)

    @property
    def closest(self) -> int:
        """The last step within the accuracy limit, hence the smallest network that is; step 0 always is."""
        if self.target.points is None:
            return len(self.rows) - 1
        limit = self.target.points + 1e-9  # a loss of exactly the limit is within it, in floats too
        return max(step for step, row in enumerate(self.rows) if self.points_lost(row) <= limit)

    @property
    def beyond(self) -> int:
        """How many steps in a row were beyond the accuracy limit."""
        return len(self.rows) - 1 - self.closest

    def points_lost(self, row: Mapping[str, Any]) -> float:
        return float(100 * (self.rows[0]["accuracy_after"] - row["accuracy_after"]))

    def sizes(self, network: nn.Module, removed: int) -> dict[str, int]:
        return {"removed": removed, "parameters": parameters(network), "macs": macs(network, self.example)}

    def needed(self, steps: list[list[Filter]]) -> list[Filter]:
        """The filters of as few steps as reach the target, from the first on; else of all."""

        structure = self.structure_now

        def will_do(n: int) -> bool:
            removed = list(chain.from_iterable(steps[:n]))
            smaller = without(self.network, structure.kept(self.plan(removed)))
            return self.target.reached(self.sizes(smaller, len(self.order) + len(removed)))

        return list(chain.from_iterable(steps[: 1 + bisect_left(range(1, len(steps)), True, key=will_do)]))

    def kept(self) -> dict[str, list[int]]:
        """The original numbers of the filters that each layer has left."""
        gone = set(self.order)
        return {name: [k for k in range(n) if (name, k) not in gone] for name, n in self.layers.items()}

    def plan(self, filters: Sequence[Filter]) -> Plan:
        return Plan({name: tuple(k for layer, k in filters if layer == name) for name in self.layers})

    def original(self, step: int) -> Plan:
        """Which filters had left after this step, in the numbering of the unpruned model."""
        return self.plan(self.order[: self.rows[step]["removed"]])

    def add(self, removed: Sequence[Filter], network: nn.Module, measured: Sequence[float], started: float) -> None:
        """One more step: these filters of the network before it left."""
        kept, step = self.kept(), len(self.rows)
        self.order += [(name, kept[name][k]) for name, k in removed]
        left = {name: len(filters) for name, filters in self.kept().items()}
        sizes = self.sizes(network, len(self.order))
        losses = zip(("loss_before", "accuracy_before", "loss_after", "accuracy_after"), measured, strict=True)
        row = {"step": step, "removed": sizes.pop("removed"), **left, **sizes, **dict(losses)}
        self.rows.append({**row, "seconds": time.perf_counter() - started})
        self.networks[step] = network
        self.networks = {i: self.networks[i] for i in sorted({self.closest, step})}
        if self.folder is not None:
            self.write(self.folder)

    def write(self, folder: Path) -> None:
        """First the network, then, in one move, the state that names it; what is not needed any more goes last."""
        folder.mkdir(parents=True, exist_ok=True)
        step = len(self.rows) - 1
        save_model(self.network, folder / f"step_{step}.safetensors", plan=self.original(step))
        state = {"settings": self.settings, "rows": self.rows, "order": self.order, "networks": list(self.networks)}
        write(folder / "compress.json", json.dumps(state).encode())
        needed = {f"step_{i}.safetensors" for i in self.networks}
        for file in chain(folder.glob("step_*.safetensors"), folder.glob(".*.part")):
            if file.name not in needed:
                file.unlink()

    def go_on_from(self, folder: Path, settings: dict[str, Any]) -> None:
        """Keep the state in ``folder`` from now on, and stand where the state there says, if there is one."""
        self.folder, self.settings = folder, settings
        if not (folder / "compress.json").exists():
            return
        state = json.loads((folder / "compress.json").read_text())
        if changed := changes(state["settings"], settings):
            raise ValueError(
                f"{folder} holds another run: {changed}. Call it as before to go on, or take another folder."
            )
        self.rows, self.order = state["rows"], [(name, k) for name, k in state["order"]]
        for step in state["networks"]:
            with known(self.model, self.structure):
                saved = load_model(folder / f"step_{step}.safetensors", base=self.model)
            kept = self.structure.kept(self.original(step))
            self.networks[step] = without(self.model, kept)  # which has the model's flags and its device
            self.networks[step].load_state_dict(saved.state_dict())


def fingerprints(model: nn.Module, splits: Splits, target: Target, criterion: Callable[..., Any]) -> dict[str, Any]:
    """Return what identifies the model, data, target and criterion in a run's settings; stable across processes."""
    flags = [parameter.requires_grad for parameter in model.parameters()]
    of_model = fingerprint([to_bytes(model, plan=Plan({})), f"{model} {flags}"])
    of_splits = fingerprint([identity(splits.train), identity(splits.validation)])
    name = re.sub(r" at 0x[0-9a-f]+", "", repr(criterion))
    return {"target": asdict(target), "criterion": name, "model": of_model, "splits": of_splits}
