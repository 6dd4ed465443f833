"""Shared by all steps of a run: its folder, its networks and images, and the rule that a step is done once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torchinfo import summary

from ..batches import Splits
from ..book.cnn import CNN
from ..book.fashion_mnist import IMAGE_SIZE, load_fashion_mnist
from ..files import write
from ..metrics import macs, parameters
from ..plan import Plan
from ..saving import load_model
from ..training import best_device
from .figures import draw, table
from .folder import RunError, RunFolder
from .groups import Data
from .observer import Observer, Stage
from .parsing import SettingsError
from .settings import Settings

_MODELS = {"train": "baseline", "prune": "pruned", "finetune": "finetuned"}
_TABLES = {"score": ("ranks",), "prune": ("removed", "loop"), "compare": ("comparison",)}
HISTORIES: dict[str, Stage] = {"train": "original", "finetune": "pruned"}


@dataclass(frozen=True)
class Run:
    """A folder that :meth:`RunFolder.begin` prepared, with the settings, images and observer of every step."""

    folder: RunFolder
    settings: Settings
    splits: Splits
    observer: Observer

    def model(self, name: str) -> nn.Module:
        """Return the network ``baseline``, ``pruned`` or ``finetuned``, on the device of the images.

        Raises:
            ValueError: the file is damaged.
            RunError: it holds another network than the run's.
        """
        file = self.folder.file(f"{name}.safetensors")
        try:
            model = load_model(file)
        except ValueError as error:
            step = next(step for step, made in _MODELS.items() if made == name)
            raise ValueError(f"{error} Or `cnnprune {step} {self.folder.path} --redo` makes it again") from error
        gone = {} if name == "baseline" else self.plan().remove
        widths = [n - len(gone.get(layer, ())) for layer, n in self.settings.network.layers.items()]
        if not isinstance(model, CNN) or [*model.widths] != widths:
            raise RunError(
                f"{file} holds another network: {getattr(model, 'widths', type(model).__name__)}, and this run's has "
                f"{tuple(widths)} filters. Put the run's own file back, or delete it and repeat the command"
            )
        return model.to(self.splits.train.inputs.device)

    def plan(self) -> Plan:
        return Plan.from_json(self.folder.file("plan.json").read_text())

    def write_table(self, name: str, rows: pd.DataFrame) -> None:
        write(self.folder.file(f"{name}.csv"), rows.to_csv(index=False).encode())

    def write_summary(self, name: str, model: nn.Module) -> None:
        write(self.folder.file(f"{name}.txt"), f"{summary(model, verbose=0)}\n".encode())


def do(run: Run, step: str, work: Callable[[], None]) -> None:
    """Do ``work`` unless the step is done, and report its results to the observer."""
    done = run.folder.done(step)
    run.observer.step(step, done)
    if not done:
        work()
    run.folder.clear(step)
    draw(run.folder, step)
    if done and step in HISTORIES:
        for row in table(run.folder, step).to_dict("records"):
            run.observer.epoch(HISTORIES[step], {str(name): value for name, value in row.items()})
    for name in _TABLES.get(step, ()):
        if run.folder.file(f"{name}.csv").exists():
            run.observer.table(name, table(run.folder, name))
    if step in _MODELS:
        name = _MODELS[step]
        model, images = run.model(name).cpu(), run.splits.validation.inputs[:4].cpu()
        run.observer.model(name, run.folder.file(f"{name}.safetensors"), model, images)
    for file in run.folder.files(step):
        run.observer.file(file)


def load_data(settings: Data, seed: int) -> Splits:
    """Return Fashion-MNIST, split as in the settings, on the fastest device."""
    splits = load_fashion_mnist(settings.root, validation=settings.validation)
    if settings.train is not None:
        splits = Splits(splits.train.subset(settings.train, seed), splits.validation, splits.test)
    return splits.to(best_device())


def check(settings: Settings) -> None:
    """Check that the target can be reached, which only the network itself can tell.

    Raises:
        SettingsError: the network is larger, even with the fewest filters that may stay.
    """
    floors = [min(width, settings.pruning.keep_at_least) for width in settings.network.widths]
    smallest = sizes(CNN(floors))
    for name in ("parameters", "macs"):
        asked = getattr(settings.pruning, name)
        if asked is not None and asked < smallest[name]:
            raise SettingsError(
                f"pruning.{name}={asked} is out of reach: with pruning.keep_at_least={settings.pruning.keep_at_least} "
                f"in each layer, {smallest[name]} remain"
            )


def sizes(model: nn.Module) -> dict[str, int]:
    image = torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, device=next(model.parameters()).device)
    return {"parameters": parameters(model), "macs": macs(model, image)}
