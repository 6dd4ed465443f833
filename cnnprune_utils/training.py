"""Train, evaluate, predict: plain loops over batches."""

from __future__ import annotations

import math
import os
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from .batches import Batch, Batches, Data, Split, Splits, checked, count, device_of, identity, no_batch
from .example import same_numbers
from .files import fingerprint
from .losses import Loss, logits, name_of, of_all, of_batch, right_answers
from .progress import progress
from .training_state import TrainingState, random_states, set_random_states

Schedule: TypeAlias = Callable[[Optimizer, int], LRScheduler]
"""Called with an optimizer, which has the highest learning rate, and the number of updates to come."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per example, share of right answers (0 to 1; NaN where targets are not classes), number of examples."""

    loss: float
    accuracy: float
    n: int


Evaluate: TypeAlias = Callable[[nn.Module, Data], Evaluation | float]
"""Called with a network and data; returns how good it is: a number, the higher the better, or an Evaluation."""


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
def predict(model: nn.Module, data: Data, *, batch_size: int = 500) -> Tensor:
    """Return the class with the highest output for each example, in eval mode: int64 (N, ...), on the CPU."""
    with evaluating(model):
        batches = Batches.of(data, batch_size, model)
        return torch.cat([logits(batch.through(model)).argmax(1).cpu() for batch in batches])


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, *, loss: Loss = F.cross_entropy, batch_size: int = 500) -> Evaluation:
    """Return loss and accuracy of ``model`` on ``data``, in eval mode; the model is unchanged.

    Both are means over all examples: a short last batch weighs by its examples.

    Args:
        model: any network.
        data: a split, or what yields batches (:data:`.batches.Data`).
        loss: one number, or several, for each example (:data:`.losses.Loss`); one that gives one number for a batch
            is taken as the mean over its examples.
        batch_size: how many examples of a split at once.

    Raises:
        ValueError: the loss does not take the outputs and targets.
        TypeError: data of another kind.
    """
    total, right, answers, n = 0.0, 0, 0, 0
    with evaluating(model):
        for batch in Batches.of(data, batch_size, model):
            outputs = batch.through(model)
            total += of_all(loss, outputs, batch.targets, len(batch))
            found = right_answers(outputs, batch.targets)
            right, answers, n = right + found[0], answers + found[1], n + len(batch)
    return Evaluation(total / n, right / answers if answers else math.nan, n)


def measured(evaluate_: Evaluate | None, model: nn.Module, data: Data, loss: Loss, batch_size: int = 500) -> Evaluation:
    """Return what a user's function says of ``model`` (as its accuracy), or, without one, :func:`evaluate`.

    Raises:
        TypeError: the function does not return a number.
    """
    if evaluate_ is None:
        return evaluate(model, data, loss=loss, batch_size=batch_size)
    with evaluating(model):
        result = evaluate_(model, data)
    if isinstance(result, Evaluation):
        return result
    try:
        return Evaluation(math.nan, float(result), 0)
    except (TypeError, ValueError) as error:
        raise TypeError(f"evaluate must return a number, the higher the better, not {result!r}.") from error


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
    learning_rate: float,
    loss: Loss = F.cross_entropy,
    batch_size: int = 256,
    seed: int = 0,
    teacher: nn.Module | None = None,
    schedule: Schedule = one_cycle,
    evaluate: Evaluate | None = None,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
    state_file: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Train ``model`` IN PLACE on ``splits.train``; ``splits.test`` is never read.

    Adam on the loss; with a teacher, half of it is the cross entropy with the teacher's probabilities (Hinton, Vinyals,
    Dean, arXiv:1503.02531, without their temperature). The learning rate rises to ``learning_rate`` in the first third
    and falls to zero at the end (one cycle), so the last epoch is the one to use. Parameters with
    ``requires_grad=False`` stay as they are.

    A model in train mode trains with the flags that its modules have: a BatchNorm in eval mode keeps its statistics.
    One in eval mode is put into train mode as a whole.

    Args:
        model: its train/eval flags are restored, its gradients are None afterwards.
        splits: ``train`` to fit on, ``validation`` to follow it: data of any kind.
        epochs: passes over the training data, at least 1.
        learning_rate: the highest of the cycle. For a network that is trained already, and pruned, 1e-3 is a start;
            from random weights the book uses 1e-2.
        loss: :data:`.losses.Loss`; a batch's is what it returns, or the mean of that.
        batch_size: examples of a split per update; the last batch of an epoch may be shorter. Other data come in
            batches, and in an order, of their own.
        seed: draws the order of a split's examples. Dropout draws from PyTorch's global generator: see
            :func:`seed_everything`.
        teacher: a network with the same outputs, unchanged; for a pruned network, the one that it was cut from.
        schedule: what the learning rate does instead: one of :data:`SCHEDULES`.
        evaluate: a function of yours, called with the model and ``splits.validation``: what it returns stands in the
            column ``validation_accuracy``.
        on_epoch: called with each row of the result as soon as it is known.
        state_file: keeps the state after each epoch; None for nowhere. After a kill, the same call goes on from the
            last whole epoch to the same result (for splits: bit for bit on one machine with as many threads); after the
            end, it returns at once. It calls ``on_epoch`` with the rows of before, too.

    Warns:
        UserWarning: running statistics of a BatchNorm, which eval mode uses, are still in part the numbers that they
            began with: there were too few batches.

    Returns:
        One row per epoch, and before them row 0, the model as it came: ``epoch``, ``train_loss`` (mean over the
        examples as each was met; NaN in row 0), ``validation_loss``, ``validation_accuracy``, ``seconds`` (wall clock,
        with the validation).

    Raises:
        ValueError: no trainable parameter, a number that is out of range, ``state_file`` is damaged or belongs to
            another call, or a batch of one example meets a BatchNorm that needs more.
        FloatingPointError: the loss is not finite any more.
        Exception: what the network raises. After each of these the model is as it came.
    """
    trainable = _trainable(model, epochs, batch_size, learning_rate)
    # Always a new optimizer: one from before pruning would hold, and update, the parameters of the old network.
    optimizer = torch.optim.Adam(trainable, lr=learning_rate)
    n_batches = count(checked(splits.train), batch_size)
    if not n_batches:
        raise no_batch(splits.train)
    rates = schedule(optimizer, epochs * n_batches)
    so_far = TrainingState(model, optimizer, rates, torch.Generator().manual_seed(seed))
    as_it_came = _State(model, whole=True)
    if state_file is not None:
        numbers = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
        call = numbers | {"schedule": getattr(schedule, "__qualname__", repr(schedule))}
        call |= {"model": fingerprint(model.state_dict().values())}
        call |= {"train": identity(splits.train), "validation": identity(splits.validation), "loss": name_of(loss)}
        call["teacher"] = None if teacher is None else fingerprint(teacher.state_dict().values())
        so_far.go_on_from(Path(state_file), call)
    passes = _Passes(model, splits.train, batch_size, so_far.generator)
    measure = partial(measured, evaluate, model, splits.validation, loss)
    if not so_far.rows:
        started = time.perf_counter()
        so_far.rows.append(_row(0, math.nan, measure(), started))
    if on_epoch is not None:
        for row in so_far.rows:
            on_epoch(row)
    done = len(so_far.rows) - 1
    bar = progress(total=epochs * n_batches, initial=done * n_batches, desc="fit", unit="batch")
    try:
        with bar, flags_restored(model):
            if not model.training:
                model.train()
            for epoch in range(done + 1, epochs + 1):
                started = time.perf_counter()
                try:
                    train_loss = _epoch(so_far, passes, loss, bar, teacher)
                    validation = measure()
                    if not math.isfinite(train_loss + (validation.loss if evaluate is None else 0.0)):
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
    _warn_of_young_statistics(model)
    return pd.DataFrame(so_far.rows)


def _warn_of_young_statistics(model: nn.Module) -> None:
    """Say so where a BatchNorm has seen some batches, and more than a hundredth of its statistics is older than they.

    Each batch keeps the share 1 - momentum of what was there; one that has seen no batch was not trained here.
    """
    seen, old = {}, {}
    for norm in model.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is not None and norm.num_batches_tracked is not None:
            seen[norm] = int(norm.num_batches_tracked)
            old[norm] = (1 - norm.momentum) ** seen[norm] if seen[norm] else 0.0
    if not old or max(old.values()) <= 0.01:
        return
    oldest = max(old, key=lambda norm: old[norm])
    n = seen[oldest]
    warnings.warn(
        f"after {n} batch{'es' * (n > 1)}, {old[oldest]:.0%} of a BatchNorm's running statistics are still the numbers "
        "that they began with. Eval mode uses them, so accuracies and scores are those of a network that nobody "
        "trained. Train on more batches: a smaller batch_size, or more epochs.",
        stacklevel=3,
    )


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


def _row(epoch: int, train_loss: float, validation: Evaluation, started: float) -> dict[str, float]:
    measured = {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
    return {"epoch": epoch, "train_loss": train_loss, **measured, "seconds": time.perf_counter() - started}


class _Passes:
    """Passes over the training data: of a split, in an order drawn for each; of other data, as they come."""

    def __init__(self, model: nn.Module, train: Data, batch_size: int, generator: torch.Generator) -> None:
        self.model, self.train, self.batch_size, self.generator = model, train, batch_size, generator
        if isinstance(train, Split):
            self.layout = fastest_layout(model, Batches(train, 2, model).first)

    def __iter__(self) -> Iterator[Batch]:
        if not isinstance(self.train, Split):
            yield from Batches(self.train, self.batch_size, self.model)
            return
        for given in self.train.batches(self.batch_size, shuffle=True, generator=self.generator):
            yield Batch.of(given, device_of(self.model)).laid_out(self.layout)


def _epoch(
    so_far: TrainingState, passes: Iterable[Batch], loss: Loss, bar: tqdm[Any], teacher: nn.Module | None
) -> float:
    """One pass, with an update a batch; the mean loss over the examples, as each was met."""
    total, n = torch.zeros((), device=device_of(so_far.model)), 0
    for batch in passes:
        so_far.optimizer.zero_grad()
        try:
            outputs = batch.through(so_far.model)
        except ValueError as error:
            if len(batch) > 1:
                raise
            raise ValueError(
                f"a batch of one example: {error}. The model is as it came. Choose a batch_size that leaves no single "
                "example over, or drop_last=True in a DataLoader."
            ) from error
        cost = _cost(outputs, batch, loss, teacher)
        cost.backward()
        so_far.optimizer.step()
        so_far.schedule.step()
        total += cost.detach() * len(batch)
        n += len(batch)
        bar.update()
    return total.item() / n


def _cost(outputs: Any, batch: Batch, loss: Loss, teacher: nn.Module | None) -> Tensor:
    cost = of_batch(loss, outputs, batch.targets)
    if teacher is None:
        return cost
    with evaluating(teacher), torch.no_grad():
        probabilities = logits(batch.through(teacher)).softmax(1)
    return (cost + F.cross_entropy(logits(outputs), probabilities)) / 2


@contextmanager
def flags_restored(model: nn.Module) -> Iterator[None]:
    """Afterwards, also after an error, the train/eval flags of ``model`` are what they were before."""
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


def _has_its_own_modes(module: nn.Module) -> bool:
    own = {"train", "eval"} & vars(module).keys()
    return bool(own) or type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval


def fastest_layout(model: nn.Module, batch: Batch) -> torch.memory_format:
    """The order of pictures in memory with which gradients come fastest: on a CPU, channels last if the model takes it.

    With few channels, the CPU's gradient kernels take up to twice as long in the usual order. The results are the same,
    up to rounding.
    """
    if (device_of(model) or torch.device("cpu")).type != "cpu":
        return torch.contiguous_format
    with evaluating(model), torch.no_grad():
        try:
            batch.first(2).laid_out(torch.channels_last).through(model)
        except RuntimeError:  # x.view(len(x), -1) in a forward needs the usual order
            return torch.contiguous_format
    return torch.channels_last
