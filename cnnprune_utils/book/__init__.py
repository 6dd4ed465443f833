"""Fashion-MNIST, the book's networks, their stored results, figures and checks: only the chapters need them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import checks, diagrams, plots
    from .cnn import CNN
    from .fashion_mnist import CLASS_NAMES, load_fashion_mnist
    from .resnet import ResNet
    from .shipped import checkpoint, study, training_history

__all__ = [
    "CLASS_NAMES",
    "CNN",
    "ResNet",
    "checkpoint",
    "checks",
    "diagrams",
    "load_fashion_mnist",
    "plots",
    "study",
    "training_history",
]

# Where each name is defined: modules are imported when a name is first used.
_HOMES = {
    "CLASS_NAMES": "fashion_mnist",
    "CNN": "cnn",
    "ResNet": "resnet",
    "checkpoint": "shipped",
    "load_fashion_mnist": "fashion_mnist",
    "study": "shipped",
    "training_history": "shipped",
}


def __getattr__(name: str) -> Any:
    if name in ("checks", "diagrams", "plots"):
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
