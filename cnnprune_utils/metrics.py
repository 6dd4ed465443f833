"""What a network costs and what it gets right: parameters, MACs, file size, accuracy, latency."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from .batches import Batch, Batches, Data
from .calls import read_of, tensor_names
from .example import Example, untouched
from .losses import Loss
from .plan import Plan
from .saving import to_bytes
from .structure import analyse
from .training import evaluate, evaluating

# On import, torch.utils.benchmark loads PyTorch's compiler helper, which warns where a CUDA toolkit has no GPU.
# Nothing here compiles, and a reader would take the warning for a fault.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns, frozen ones too; a parameter that two layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def macs(model: nn.Module, example: Any = None) -> int:
    """Multiply-accumulates of one forward pass for one example, in convolutions and linear layers, without biases.

    Half of what PyTorch's ``FlopCounterMode`` counts. A convolution takes ``H W C_in K^2 C_out``; the appendix of
    arXiv:1611.06440 counts twice that, and the bias.

    Args:
        model: any network; unchanged.
        example: inputs that it takes, of which the first example is run: see :func:`.structure.prunable_layers`.
    """
    one = _first(1, model, example)
    with evaluating(model), FlopCounterMode(display=False) as counter:
        one.through(model)
    return int(counter.get_total_flops()) // 2


@torch.no_grad()
def macs_per_filter(model: nn.Module, example: Any = None) -> dict[str, float]:
    """The share of the network's MACs that goes with one filter, from one forward pass.

    It is what the filter takes to compute, what the depthwise convolutions behind it take for its channel, and what the
    layers that read it spend on that input: the drop of :func:`macs` when one filter is pruned, over :func:`macs`; the
    mean over the filters of a layer, which in nearly every network have the same share.

    Args:
        model, example: as for :func:`macs`.

    Returns:
        Layer name -> share, from 0 to 1, for each prunable layer: ``macs`` of :func:`cnnprune_utils.plan.rank`.

    Raises:
        ValueError: the network cannot be followed.
    """
    two, calls = _first(2, model, example), _Weights(model)
    structure = analyse(model, two.inputs)
    with untouched(model), evaluating(model), calls:
        two.first(1).through(model)
    gone = torch.zeros(structure.n_filters, dtype=torch.float64)
    for weight, passes in calls.passes.items():
        shape = model.get_parameter(weight).shape
        left = torch.ones(structure.n_filters, dtype=torch.float64)  # its numbers without each filter
        for dim, size in enumerate(shape):
            owners = structure.owners.get((weight, dim), torch.tensor([-1]))
            left *= size - torch.bincount(owners[owners >= 0], minlength=structure.n_filters)
        gone += passes * (shape.numel() - left)
    total = macs(model, two.inputs)
    return {name: float(each.mean()) / total for name, each in structure.by_layer(gone).items()}


def _first(n: int, model: nn.Module, example: Any) -> Batch:
    """The first ``n`` examples."""
    with untouched(model), evaluating(model):
        return Batch(Example.of(model, example), None).first(n)


class _Weights(TorchFunctionMode):
    """Counts how often each number of a weight is multiplied in a forward pass: once for each position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names, self.passes = tensor_names(model), Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = read_of(func, args, kwargs or {})
        if read is not None and id(read.weight) in self.names:
            positions, channels = (
                (read.input, read.in_channels) if read.transposed else (out, out.shape[read.channel_dim])
            )
            self.passes[self.names[id(read.weight)]] += positions.numel() // channels
        return out


def file_bytes(model: nn.Module) -> int:
    """The size of the file that ``save_model`` writes, in bytes; for a network other than a CNN, without its plan."""
    return len(to_bytes(model, plan=Plan({})))


def accuracy_interval(correct: int, n: int) -> tuple[float, float]:
    """(low, high): the 95 % Wilson interval of the accuracy, when ``correct`` of ``n`` images are right.

    It is about the draw of the ``n`` images: how far another test set would move the accuracy of this very model.

    Raises:
        ValueError: n is below 1, or correct is not between 0 and n.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} right of {n} is not possible: n must be at least 1, correct from 0 to n.")
    from scipy.stats import binomtest  # here: it takes some 50 MB, and few chapters need it

    low, high = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


def compare(models: Mapping[str, nn.Module], data: Data, *, loss: Loss = F.cross_entropy) -> pd.DataFrame:
    """One row per model, in the order given; the models are unchanged, and each may be on a device of its own.

    Returns:
        Indexed by ``model``: ``parameters``, ``macs`` (per example), ``file_kb`` (1,000 bytes), ``accuracy`` on
        ``data`` with its 95 % interval ``accuracy_low`` and ``accuracy_high``; these three are NaN where targets are
        not classes. No timing: the same on every run.

    Raises:
        ValueError: no model.
    """
    _check_some(models)
    rows = []
    for model in models.values():
        batches = Batches(data, 500, model)
        result = evaluate(model, batches, loss=loss)
        known = not math.isnan(result.accuracy)
        low, high = accuracy_interval(round(result.accuracy * result.n), result.n) if known else (math.nan, math.nan)
        costs = parameters(model), macs(model, batches.first.inputs), file_bytes(model) / 1000
        rows.append((*costs, result.accuracy, low, high))
    columns = ["parameters", "macs", "file_kb", "accuracy", "accuracy_low", "accuracy_high"]
    return pd.DataFrame(rows, columns=columns, index=pd.Index(models, name="model"))


def latency(
    models: Mapping[str, nn.Module], images: Tensor, *, batch_size: int, threads: int = 1, rounds: int = 21
) -> pd.DataFrame:
    """How long one forward pass of ``batch_size`` images takes, in eval mode and without gradients.

    Every round times each model in turn, for about 20 ms, so that whatever slows the machine down meets all of them.

    Args:
        models: by name, on the device of ``images``; unchanged.
        images: at least ``batch_size`` of them; the first ones are used.
        batch_size: images per pass.
        threads: how many CPU threads PyTorch may use meanwhile.
        rounds: how many times each model is timed.

    Returns:
        Indexed by ``model``: ``batch_size``, ``threads``, and over the rounds ``median_ms``, ``q1_ms``, ``q3_ms`` (the
        quartiles), milliseconds per batch.

    Raises:
        ValueError: no model, too few images, or a number below 1.
    """
    _check_some(models)
    for name, value in (("batch_size", batch_size), ("threads", threads), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if len(images) < batch_size:
        raise ValueError(f"batch_size={batch_size} needs as many images, and there are {len(images)}")
    batch = images[:batch_size]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode(), ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluating(model))
        timers = {name: _timer(model, batch, threads) for name, model in models.items()}
        passes = {name: math.ceil(0.02 / timer.timeit(3).median) for name, timer in timers.items()}  # warms up, too
        for _ in range(rounds):
            for name, timer in timers.items():
                seconds[name].append(timer.timeit(passes[name]).median)
    table = 1000 * pd.DataFrame(seconds).quantile([0.5, 0.25, 0.75]).T.set_axis(["median_ms", "q1_ms", "q3_ms"], axis=1)
    table.insert(0, "batch_size", batch_size)
    table.insert(1, "threads", threads)
    return table.rename_axis("model")


def _timer(model: nn.Module, batch: Tensor, threads: int) -> Timer:
    return Timer("model(batch)", globals={"model": model, "batch": batch}, num_threads=threads)


def _check_some(models: Mapping[str, nn.Module]) -> None:
    if not models:
        raise ValueError('there is no model to measure; pass them by name, as in {"baseline": model}')
