"""The state of a training, kept in a file: after a kill, the training goes on to the same result.

It holds everything that an epoch changes: parameters and buffers, the optimizer and its learning rates, the order of
the images, and what dropout draws next. The file is for the machine that wrote it; a finished model travels in
safetensors.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .files import changes, write


@dataclass
class TrainingState:
    """Everything that an epoch changes; ``rows`` has the measurements of each finished epoch."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    generator: torch.Generator
    rows: list[dict[str, float]] = field(default_factory=list)

    def keep(self, file: Path, call: dict[str, Any]) -> None:
        """Write the state to ``file`` atomically, with the call that it belongs to."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        order = self.generator.get_state()
        content = io.BytesIO()  # torch.save would answer a full disk with a RuntimeError
        torch.save({"call": call, "rows": self.rows, "order": order, "random": random_states(), **parts}, content)
        write(file, content.getvalue())

    def go_on_from(self, file: Path, call: dict[str, Any]) -> None:
        """Restore the state saved in ``file``, if it exists.

        Raises:
            ValueError: the file is damaged or something else, or it belongs to another call. Nothing has changed then.
        """
        if not file.exists():
            return
        again = f"Delete {file.name}, and the training begins again."
        content = file.read_bytes()
        try:
            state = torch.load(io.BytesIO(content), weights_only=True)  # which runs no code from the file
            before, rows = state["call"], state["rows"]
        except Exception as error:  # what a reader of pickles stumbles over can be anything
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{file} is damaged, or not the state of a training ({reason}). {again}") from error
        if changed := changes(before, call):
            raise ValueError(f"{file} holds another training: {changed}. Call it as before to go on. {again}")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.rows[:] = rows
        self.generator.set_state(state["order"].cpu())
        set_random_states(state["random"])


def random_states() -> dict[str, Any]:
    """Of PyTorch's global generators, which dropout draws from."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put PyTorch's global generators back where :func:`random_states` found them."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
