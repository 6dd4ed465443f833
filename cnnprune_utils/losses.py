"""What a loss says of each example, and what is right: for PyTorch's losses, and for functions of your own.

PyTorch's own losses get the network's logits: the outputs, or ``logits`` or ``out`` in them. A function of your own
gets what the network returns.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Loss: TypeAlias = Callable[..., Tensor]
"""``loss(outputs, targets)`` -> (n,), or (n, ...), which is averaged over the rest.

It is one of PyTorch's, as a function or as a module (their ``reduction`` is set to "none" where each example counts),
or a function of yours; one that takes ``reduction`` is called with ``reduction="none"``.
"""


def logits(outputs: Any) -> Tensor:
    """Return the tensor in a network's outputs that holds a score for each class.

    A tensor itself; ``logits`` or ``out`` of a dict, a dataclass or another object; the first of a tuple or list.

    Raises:
        TypeError: there is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    for name in ("logits", "out"):
        value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
        return outputs[0]
    has = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise TypeError(
        f"the network returns a {type(outputs).__name__}{has}, and which of it are the logits is not known. Pass "
        "loss=, a function of (outputs, targets) that gets it whole."
    )


def of_each(loss: Loss, outputs: Any, targets: Any, n: int) -> Tensor:
    """Return the loss of each of ``n`` examples, shape (n,).

    Raises:
        ValueError: the loss does not take these outputs and targets, or does not return one number, or several, for
            each example.
    """
    losses = _called(_unreduced(loss), outputs, targets)
    if not isinstance(losses, Tensor) or losses.ndim == 0 or len(losses) != n:
        given = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else repr(losses)
        raise ValueError(
            f"the loss must return one number for each example, shape ({n},), or several, ({n}, ...); it returned "
            f'{given}. PyTorch\'s losses do with reduction="none".'
        )
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def of_all(loss: Loss, outputs: Any, targets: Any, n: int) -> float:
    """Return the sum of the losses of ``n`` examples; one number for all of them is taken as their mean.

    Raises:
        ValueError: as :func:`of_each`.
    """
    value = _called(_unreduced(loss), outputs, targets)
    if isinstance(value, Tensor) and value.ndim == 0:
        return n * float(value)
    return float(of_each(lambda *_: value, outputs, targets, n).cpu().double().sum())


def of_batch(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """Return the loss of a batch, one number: what the loss returns, or the mean of it.

    Raises:
        ValueError: the loss does not take these outputs and targets, or does not return a tensor.
    """
    value = _called(loss, outputs, targets)
    if not isinstance(value, Tensor):
        raise ValueError(f"the loss must return a tensor, not {value!r}.")
    return value if value.ndim == 0 else value.mean()


def right_answers(outputs: Any, targets: Any) -> tuple[int, int]:
    """Return how many answers are right, and how many there are: where targets are classes, one for each place.

    (0, 0) where they are not: where targets are no whole numbers, or not of the shape of the logits without classes.
    Targets that are not among the classes, such as -100 for a pixel that does not count, do not count.
    """
    try:
        scores = logits(outputs)
    except TypeError:
        return 0, 0
    if not isinstance(targets, Tensor) or targets.is_floating_point() or scores.ndim < 2:
        return 0, 0
    if targets.shape != (len(scores), *scores.shape[2:]) or targets.dtype == torch.bool:
        return 0, 0
    counts = (targets >= 0) & (targets < scores.shape[1])
    return int(((scores.argmax(1) == targets) & counts).sum()), int(counts.sum())


def _unreduced(loss: Loss) -> Loss:
    """The loss, asked for a number for each example."""
    if isinstance(loss, nn.Module):
        each = copy.copy(loss)
        if isinstance(getattr(loss, "reduction", None), str):
            vars(each)["reduction"] = "none"
        return each
    try:
        takes_reduction = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # a builtin
        takes_reduction = False
    return partial(loss, reduction="none") if takes_reduction else loss


def _called(loss: Loss, outputs: Any, targets: Any) -> Any:
    if not _is_of_torch(loss):
        return loss(outputs, targets)
    scores = logits(outputs)
    try:
        if isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape != scores.shape:
            raise ValueError("the shapes differ")  # some of PyTorch's losses would compare each with each other
        return loss(scores, targets)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"{name_of(loss)} does not take {_shapes(scores, targets)}: {why}. {_ADVICE}") from error


_ADVICE = (
    "Classes are int64, (n,) or (n, ...) for outputs (n, classes, ...); pass loss=torch.nn.functional.mse_loss for "
    "numbers, and loss=torch.nn.functional.binary_cross_entropy_with_logits for several labels at once, both with "
    "floating point targets in the shape of the outputs."
)


def _shapes(scores: Tensor, targets: Any) -> str:
    of = f"{targets.dtype}, shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
    return f"outputs of shape {tuple(scores.shape)} and targets ({of})"


def _is_of_torch(loss: Loss) -> bool:
    if isinstance(loss, partial):
        return _is_of_torch(loss.func)
    return str(getattr(type(loss) if isinstance(loss, nn.Module) else loss, "__module__", "")).startswith("torch.")


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a loss, or of another function, for messages and settings."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)
