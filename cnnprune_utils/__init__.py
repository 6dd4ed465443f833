"""Prune the filters of a convolutional network with the Taylor criterion, one gate per filter.

The flow: data -> train -> gates -> scores -> ranks -> plan -> prune -> fine-tune -> compare. A module is imported, and
PyTorch with it, when one of its names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Split, Splits
    from .choice import choose
    from .criteria import (
        CRITERIA,
        activation_mean,
        activation_std,
        apoz,
        fisher,
        magnitude,
        oracle,
        oracle_loss,
        random,
        taylor,
    )
    from .gates import gated, mask
    from .loop import Target, compress
    from .plan import Plan, lowest, per_layer, rank
    from .saving import load_model, save_model
    from .structure import prunable_layers, skipped_layers
    from .surgery import prune, same_outputs
    from .training import evaluate, fit

    __version__: str

__all__ = [
    "CRITERIA",
    "Plan",
    "Split",
    "Splits",
    "Target",
    "__version__",
    "activation_mean",
    "activation_std",
    "apoz",
    "choose",
    "compress",
    "evaluate",
    "fisher",
    "fit",
    "gated",
    "load_model",
    "lowest",
    "magnitude",
    "mask",
    "oracle",
    "oracle_loss",
    "per_layer",
    "prunable_layers",
    "prune",
    "random",
    "rank",
    "same_outputs",
    "save_model",
    "skipped_layers",
    "taylor",
]

_NAMES = {
    "batches": "Split Splits",
    "choice": "choose",
    "criteria": "CRITERIA activation_mean activation_std apoz fisher magnitude oracle oracle_loss random taylor",
    "gates": "gated mask",
    "loop": "Target compress",
    "plan": "Plan lowest per_layer rank",
    "saving": "load_model save_model",
    "structure": "prunable_layers skipped_layers",
    "surgery": "prune same_outputs",
    "training": "evaluate fit",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cnnprune-utils")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
