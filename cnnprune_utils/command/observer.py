"""The interface of a run's observers, such as the console and the tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

Stage = Literal["original", "pruned"]
Status = Literal["finished", "failed", "interrupted"]


class Observer:
    """Is told the events of a run, in this order; each method does nothing until it is overridden.

    ``start``, then for each step ``step``, ``epoch``, ``table``, ``model``, ``file`` as often as needed, then ``end``.
    A step that was done before, by this process or another one, is reported again in full, with the same numbers, so an
    observer that joins late, or was killed, misses nothing. An observer must not raise: that would end the run.
    """

    def start(self, folder: Path, settings: Settings, versions: Mapping[str, Any]) -> None:
        """A run begins or continues. Everything is also kept in its ``folder``."""

    def step(self, name: str, done: bool) -> None:
        """One of train, score, prune, finetune, compare begins; ``done``: it was done before."""

    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        """A row of :func:`cnnprune_utils.training.fit`: row 0 is the untrained model. Rows may be reported again."""

    def table(self, name: str, table: pd.DataFrame) -> None:
        """``ranks``, ``removed`` (filters per layer), ``loop`` (its history) or ``comparison``."""

    def model(self, name: str, file: Path, model: nn.Module, images: Tensor) -> None:
        """``baseline``, ``pruned`` or ``finetuned``, on the CPU, as ``file`` holds it; images as an example."""

    def file(self, path: Path) -> None:
        """A file is complete: settings, versions, a table, the plan, a summary, a figure; also those of the models."""

    def end(self, status: Status, error: str = "") -> None:
        """The run ends, or stops in this process."""


class Observers(Observer):
    """Several observers as one, called in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def start(self, folder: Path, settings: Settings, versions: Mapping[str, Any]) -> None:
        for observer in self.observers:
            observer.start(folder, settings, versions)

    def step(self, name: str, done: bool) -> None:
        for observer in self.observers:
            observer.step(name, done)

    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        for observer in self.observers:
            observer.epoch(stage, row)

    def table(self, name: str, table: pd.DataFrame) -> None:
        for observer in self.observers:
            observer.table(name, table)

    def model(self, name: str, file: Path, model: nn.Module, images: Tensor) -> None:
        for observer in self.observers:
            observer.model(name, file, model, images)

    def file(self, path: Path) -> None:
        for observer in self.observers:
            observer.file(path)

    def end(self, status: Status, error: str = "") -> None:
        for observer in self.observers:
            observer.end(status, error)
