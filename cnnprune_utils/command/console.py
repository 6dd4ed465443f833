"""The output of a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from .observer import Observer, Stage, Status
from .settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_SAYS = {
    "train": "Train the original network",
    "score": "Score its filters",
    "prune": "Prune",
    "finetune": "Fine-tune the pruned network",
    "compare": "Compare on the test images",
}
_TITLES = {
    "ranks": "Ranks (rank 0 leaves first):",
    "removed": "Filters removed:",
    "loop": "Step by step:",
    "comparison": "Comparison:",
}
_NOTES = {
    "ranks": "normalized: the score, divided by the norm of the layer's scores",
    "comparison": "accuracy: share of right answers, low and high its 95 % interval; file_kb: thousand bytes;\n"
    "macs: multiply-accumulates for one image",
}


def say(text: str = "", file: TextIO | None = None) -> None:
    tqdm.write(text, file)  # which keeps a progress bar intact


class Console(Observer):
    """Prints epochs, tables and summaries as they come; for a step that was done before, no epochs."""

    def __init__(self) -> None:
        self.epochs: dict[Stage, int] = {}
        self.done = False

    def start(self, folder: Path, settings: Settings, versions: Mapping[str, Any]) -> None:
        self.folder = folder
        self.epochs = {"original": settings.training.epochs, "pruned": settings.finetuning.epochs}
        say(f"Run {folder}, seed {settings.seed}")

    def step(self, name: str, done: bool) -> None:
        self.done = done
        say(f"\n== {_SAYS[name]}{' (done before)' if done else ''}")

    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        if self.done:
            return
        accuracy = f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.4f}"
        if row["epoch"] == 0:
            say(f"before: {accuracy}")
        else:
            epoch = f"epoch {int(row['epoch'])}/{self.epochs[stage]}"
            say(f"{epoch}: train loss {row['train_loss']:.4f}, {accuracy}  ({row['seconds']:.1f} s)")

    def table(self, name: str, table: pd.DataFrame) -> None:
        say(f"\n{_TITLES[name]}")
        if name == "removed":
            for layer, n, of, percent in table.itertuples(index=False):
                say(f"  {layer}: {percent:.1f} %  ({n} out of {of})")
        else:
            say(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
        if name in _NOTES:
            say(_NOTES[name])

    def file(self, path: Path) -> None:
        if path.name.startswith("summary_"):
            when = path.stem.removeprefix("summary_").capitalize()
            say(f"\n{when} pruning:\n{path.read_text(encoding='utf-8').rstrip()}")

    def end(self, status: Status, error: str = "") -> None:
        if status == "finished":
            say(f"\nEverything is in {self.folder}")
