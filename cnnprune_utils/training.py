"""Train, evaluate, predict: plain loops over images in memory."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from .batches import Split, Splits
from .files import fingerprint
from .training_state import TrainingState, random_states, set_random_states

Schedule: TypeAlias = Callable[[Optimizer, int], LRScheduler]
"""Called with an optimizer, which has the highest learning rate, and the number of updates to come."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy per image, share of right answers (0 to 1), and how many images gave them."""

    loss: float
    accuracy: float
    n: int


def best_device() -> torch.device:
    """The fastest kind of device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (all devices): initial weights and dropout draw from them."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for code that draws from NumPy's global generator
    torch.manual_seed(seed)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards, also after an error, the model is as it was: train/eval flags, buffers, and what
    its own ``train`` and ``eval`` change, such as LoRA weights that they merge. So are all random states.
    """
    in_eval = not any(module.training for module in model.modules())
    before = _State(model, whole=not in_eval and any(map(_has_its_own_modes, model.modules())))
    drawn = random.getstate(), np.random.get_state(), random_states()  # noqa: NPY002
    try:
        if not in_eval:
            model.eval()
        yield
    finally:
        before.put_back()
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        set_random_states(drawn[2])


@torch.no_grad()
def predict(model: nn.Module, split: Split, *, batch_size: int = 500) -> Tensor:
    """The class with the highest output for each image, in eval mode: int64 (N,), on the CPU."""
    with evaluating(model):
        return torch.cat([model(images).argmax(1).cpu() for images, _ in split.batches(batch_size)])


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, *, batch_size: int = 500) -> Evaluation:
    """Loss and accuracy of ``model`` on ``split``, in eval mode; the model is unchanged.

    Both are sums over the images, divided by N: a short last batch weighs by its images.
    """
    loss, correct = 0.0, 0
    with evaluating(model):
        for images, labels in split.batches(batch_size):
            outputs = model(images)
            loss += F.cross_entropy(outputs, labels, reduction="sum").item()
            correct += int((outputs.argmax(1) == labels).sum())
    return Evaluation(loss / len(split), correct / len(split), len(split))


def one_cycle(optimizer: Optimizer, updates: int) -> LRScheduler:
    """The learning rate rises to its highest in the first third and falls to zero at the end."""
    return OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=updates)


def constant(optimizer: Optimizer, updates: int) -> LRScheduler:
    """The learning rate stays as it is."""
    return ConstantLR(optimizer, factor=1.0)


SCHEDULES: dict[str, Schedule] = {"one_cycle": one_cycle, "constant": constant}
"""Name -> schedule."""


def fit(
    model: nn.Module,
    splits: Splits,
    *,
    epochs: int,
    learning_rate: float = 1e-2,
    batch_size: int = 256,
    seed: int = 0,
    teacher: nn.Module | None = None,
    schedule: Schedule = one_cycle,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
    state_file: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Train ``model`` IN PLACE on ``splits.train``; ``splits.test`` is never read.

    Adam on the cross entropy: with the labels, or, with a teacher, half with the labels and half with the teacher's
    probabilities (Hinton, Vinyals, Dean, arXiv:1503.02531, without their temperature). The learning rate rises to
    ``learning_rate`` in the first third and falls to zero at the end (one cycle), so the last epoch is the one to use.
    Parameters with ``requires_grad=False`` stay as they are.

    A model in train mode trains with the flags that its modules have: a BatchNorm in eval mode keeps its statistics.
    One in eval mode is put into train mode as a whole.

    Args:
        model: on the device of the splits. Its train/eval flags are restored, its gradients are None afterwards.
        splits: ``train`` to fit on, ``validation`` to follow it.
        epochs: passes over the training images, at least 1.
        learning_rate: the highest of the cycle.
        batch_size: images per update; the last batch of an epoch may be shorter.
        seed: draws the order of the images. Dropout draws from PyTorch's global generator: see :func:`seed_everything`.
        teacher: a network with the same outputs, unchanged; for a pruned network, the one that it was cut from.
        schedule: what the learning rate does instead: one of :data:`SCHEDULES`.
        on_epoch: called with each row of the result as soon as it is known.
        state_file: keeps the state after each epoch; None for nowhere. After a kill, the same call goes on from the
            last whole epoch to the same result (bit for bit on one machine with as many threads); after the end, it
            returns at once. It calls ``on_epoch`` with the rows of before, too.

    Returns:
        One row per epoch, and before them row 0, the model as it came: ``epoch``, ``train_loss`` (mean over the images
        as each was met; NaN in row 0), ``validation_loss``, ``validation_accuracy``, ``seconds`` (wall clock, with the
        validation).

    Raises:
        ValueError: no trainable parameter, a number that is out of range, ``state_file`` is damaged or belongs to
            another call, or a batch of one image meets a BatchNorm that needs more.
        FloatingPointError: the loss is not finite any more.
        Exception: what the network raises. After each of these the model is as it came.
    """
    trainable = _trainable(model, epochs, batch_size, learning_rate)
    # Always a new optimizer: one from before pruning would hold, and update, the parameters of the old network.
    optimizer = torch.optim.Adam(trainable, lr=learning_rate)
    n_batches = math.ceil(len(splits.train) / batch_size)
    rates = schedule(optimizer, epochs * n_batches)
    so_far = TrainingState(model, optimizer, rates, torch.Generator().manual_seed(seed))
    as_it_came = _State(model, whole=True)
    if state_file is not None:
        numbers = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
        call = numbers | {"schedule": getattr(schedule, "__qualname__", repr(schedule))}
        call |= _fingerprints(model.state_dict(), splits)
        call["teacher"] = None if teacher is None else fingerprint(teacher.state_dict().values())
        so_far.go_on_from(Path(state_file), call)
    layout = fastest_layout(model, splits.train.images)
    if not so_far.rows:
        started = time.perf_counter()
        so_far.rows.append(_row(0, math.nan, evaluate(model, splits.validation), started))
    if on_epoch is not None:
        for row in so_far.rows:
            on_epoch(row)
    done = len(so_far.rows) - 1
    bar = tqdm(total=epochs * n_batches, initial=done * n_batches, desc="fit", unit="batch", leave=False)
    try:
        with bar, _flags_restored(model):
            if not model.training:
                model.train()
            for epoch in range(done + 1, epochs + 1):
                started = time.perf_counter()
                try:
                    train_loss = _epoch(so_far, splits.train, batch_size, layout, bar, teacher)
                    validation = evaluate(model, splits.validation)
                    if not math.isfinite(train_loss + validation.loss):
                        losses = f"train {train_loss}, validation {validation.loss}"
                        raise FloatingPointError(
                            f"the loss is not finite in epoch {epoch} ({losses}); the model is as it came. Lower the "
                            f"learning rate: it was {learning_rate}."
                        )
                except Exception:
                    as_it_came.put_back()
                    raise
                so_far.rows.append(_row(epoch, train_loss, validation, started))
                if state_file is not None:
                    so_far.keep(Path(state_file), call)
                if on_epoch is not None:
                    on_epoch(so_far.rows[-1])
    finally:
        model.zero_grad()
    return pd.DataFrame(so_far.rows)


def _trainable(model: nn.Module, epochs: int, batch_size: int, learning_rate: float) -> list[nn.Parameter]:
    """The parameters to train; raises as :func:`fit` does."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a positive number, not {learning_rate}; try 0.01")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            f"this {type(model).__name__} has no parameter to train: none has requires_grad=True. "
            "model.requires_grad_() makes all of them trainable."
        )
    return trainable


def _fingerprints(model_state: Mapping[str, Tensor], splits: Splits) -> dict[str, str]:
    both = (splits.train, splits.validation)
    images = [tensor for split in both for tensor in (split.images, split.labels)]
    return {"model": fingerprint(model_state.values()), "images": fingerprint(images)}


def _row(epoch: int, train_loss: float, validation: Evaluation, started: float) -> dict[str, float]:
    measured = {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
    return {"epoch": epoch, "train_loss": train_loss, **measured, "seconds": time.perf_counter() - started}


def _epoch(
    so_far: TrainingState,
    train: Split,
    batch_size: int,
    layout: torch.memory_format,
    bar: tqdm[Any],
    teacher: nn.Module | None,
) -> float:
    """One pass over ``train``, with an update a batch; the mean loss over the images, as each was met."""
    total = torch.zeros((), device=train.images.device)
    for images, labels in train.batches(batch_size, shuffle=True, generator=so_far.generator):
        so_far.optimizer.zero_grad()
        try:
            outputs = so_far.model(laid_out(images, layout))
        except ValueError as error:
            if len(images) > 1:
                raise
            raise ValueError(
                f"a batch of one image: {error}. The model is as it came. Choose a batch_size that leaves no single "
                f"one of the {len(train)} images over: it was {batch_size}."
            ) from error
        loss = _cost(outputs, images, labels, teacher)
        loss.backward()  # type: ignore[no-untyped-call]
        so_far.optimizer.step()
        so_far.schedule.step()
        total += loss.detach() * len(labels)
        bar.update()
    return total.item() / len(train)


def _cost(outputs: Tensor, images: Tensor, labels: Tensor, teacher: nn.Module | None) -> Tensor:
    cost = F.cross_entropy(outputs, labels)
    if teacher is None:
        return cost
    with evaluating(teacher), torch.no_grad():
        probabilities = teacher(images).softmax(1)
    return (cost + F.cross_entropy(outputs, probabilities)) / 2


@contextmanager
def _flags_restored(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]  # parents before their children
    try:
        yield
    finally:
        for module, training in flags:
            if module.training != training:
                module.train(training)  # in the module's own way, which may merge LoRA weights
        for module, training in flags:
            module.training = training


class _State:
    """A model as it is now: its flags and buffers; the whole of it also has its parameters and all attributes."""

    def __init__(self, model: nn.Module, *, whole: bool) -> None:
        self.flags = [(module, module.training) for module in model.modules()]
        parts = ("_buffers", "_parameters", "_modules") if whole else ("_buffers",)
        dicts = [vars(module)[part] for module in model.modules() for part in parts if part in vars(module)]
        dicts += [vars(module) for module in model.modules()] if whole else []
        self.dicts = [(entries, dict(entries)) for entries in dicts]
        tensors = chain(model.buffers(), model.parameters() if whole else ())
        self.tensors = [(t, t.requires_grad, t.detach().clone()) for t in tensors if not is_lazy(t)]

    def put_back(self) -> None:
        for entries, before in self.dicts:
            entries.clear()
            entries.update(before)
        for tensor, requires_grad, values in self.tensors:
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            # A write that changes nothing would make PyTorch refuse a backward pass through this tensor.
            if not same_numbers(tensor, values):
                with torch.no_grad():  # the data of a sparse tensor is another one
                    (tensor.data if tensor.layout is torch.strided else tensor).copy_(values)
        for module, training in self.flags:
            module.training = training


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape and layout hold the same numbers; PyTorch compares no sparse ones."""
    if one.layout is torch.strided:
        return torch.equal(one, other)
    return torch.equal(one.to_dense(), other.to_dense())


def _has_its_own_modes(module: nn.Module) -> bool:
    own = {"train", "eval"} & vars(module).keys()
    return bool(own) or type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval


def fastest_layout(model: nn.Module, images: Tensor) -> torch.memory_format:
    """The order of a batch in memory with which gradients come fastest: on a CPU, channels last if the model takes it.

    With few channels, the CPU's gradient kernels take up to twice as long in the usual order. The results are the same,
    up to rounding.
    """
    if images.device.type != "cpu":
        return torch.contiguous_format
    with evaluating(model), torch.no_grad():
        try:
            model(laid_out(images[:2], torch.channels_last))
        except RuntimeError:  # x.view(len(x), -1) in a forward needs the usual order
            return torch.contiguous_format
    return torch.channels_last


def laid_out(images: Tensor, layout: torch.memory_format) -> Tensor:
    """A copy of the images in this order of memory."""
    # Not images.to(memory_format=...): with one channel both orders look alike to it, and it would do nothing.
    return torch.empty_like(images, memory_format=layout).copy_(images)
