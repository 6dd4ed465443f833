"""The time of scoring: against a plain forward and backward pass, against images, against filters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch.nn.functional as F
from scipy.stats import linregress
from torch import nn

from cnnprune_utils.batches import Split
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.criteria import taylor
from cnnprune_utils.gates import gated
from cnnprune_utils.training import evaluating, seed_everything

from .timing import interleaved

BATCH_SIZE = 256


def forward_backward(model: nn.Module, split: Split, batch_size: int = BATCH_SIZE) -> None:
    """Compute the loss and its gradient for all weights, summed over the batches, in eval mode as scoring does."""
    with evaluating(model):
        for images, labels in split.batches(batch_size):
            F.cross_entropy(model(images), labels, reduction="sum").backward()
    model.zero_grad()


def against_forward_backward(model: nn.Module, split: Split, *, rounds: int) -> pd.DataFrame:
    """Return the median and quartiles over the rounds: seconds of both, and their ratio within a round.

    The network has gates already, so its analysis, which is made once, is not counted.
    """
    network = gated(model, split.inputs[:2])
    seconds = interleaved(
        {
            "forward_backward_s": lambda: forward_backward(model, split),
            "taylor_s": lambda: taylor(network, split, batch_size=BATCH_SIZE),
        },
        rounds,
    )
    seconds["ratio"] = seconds["taylor_s"] / seconds["forward_backward_s"]
    return seconds.quantile([0.5, 0.25, 0.75]).set_axis(["median", "first quartile", "third quartile"])


def against_images(model: nn.Module, split: Split, *, sizes: list[int], rounds: int) -> pd.DataFrame:
    """Return the median seconds for each number of images."""
    subsets = {n: split.subset(n) for n in sizes}
    seconds = interleaved({str(n): partial(taylor, model, s) for n, s in subsets.items()}, rounds)
    return pd.DataFrame({"images": sizes, "taylor_s": seconds.median().to_numpy()})


def against_filters(split: Split, *, networks: list[tuple[int, ...]], rounds: int) -> pd.DataFrame:
    """Return the median seconds for networks of these widths, beside those of a plain pass."""
    seed_everything(0)
    models = [CNN(widths=widths) for widths in networks]
    calls: dict[str, Callable[[], object]] = {
        f"taylor {i}": partial(taylor, model, split) for i, model in enumerate(models)
    }
    calls |= {f"plain {i}": partial(forward_backward, model, split) for i, model in enumerate(models)}
    median = interleaved(calls, rounds).median().to_numpy()
    seconds = {"taylor_s": median[: len(models)], "forward_backward_s": median[len(models) :]}
    table = pd.DataFrame({"filters": [sum(widths) for widths in networks], **seconds})
    return table.assign(ratio=table["taylor_s"] / table["forward_backward_s"])


def slope(table: pd.DataFrame) -> tuple[float, float]:
    """Return (milliseconds per unit of the first column, R squared) of the straight line through ``taylor_s``."""
    line = linregress(table.iloc[:, 0], 1000 * table["taylor_s"])
    return float(line.slope), float(line.rvalue**2)
