"""What scoring costs: against a plain forward and backward pass, against images, against filters."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch.nn.functional as F
from scipy.stats import linregress
from torch import nn

from cnnprune_utils.criteria import taylor
from cnnprune_utils.data import Split
from cnnprune_utils.models import CNN
from cnnprune_utils.training import evaluating, seed_everything

from .timing import interleaved

BATCH_SIZE = 256


def forward_backward(model: nn.Module, split: Split) -> None:
    """Every image's loss and its gradient for all weights, summed over the batches; in eval mode, as scoring is."""
    with evaluating(model):
        for images, labels in split.batches(BATCH_SIZE):
            F.cross_entropy(model(images), labels, reduction="sum").backward()
    model.zero_grad()


def against_forward_backward(model: nn.Module, split: Split, *, rounds: int) -> pd.DataFrame:
    """Median and quartiles over the rounds of: seconds of both, and their ratio within a round."""
    seconds = interleaved(
        {
            "forward_backward_s": lambda: forward_backward(model, split),
            "taylor_s": lambda: taylor(model, split, batch_size=BATCH_SIZE),
        },
        rounds,
    )
    seconds["ratio"] = seconds["taylor_s"] / seconds["forward_backward_s"]
    return seconds.quantile([0.5, 0.25, 0.75]).set_axis(["median", "first quartile", "third quartile"])


def against_images(model: nn.Module, split: Split, *, sizes: list[int], rounds: int) -> pd.DataFrame:
    """Median seconds for each number of images."""
    subsets = {n: split.subset(n) for n in sizes}
    seconds = interleaved({str(n): lambda s=s: taylor(model, s) for n, s in subsets.items()}, rounds)
    return pd.DataFrame({"images": sizes, "taylor_s": seconds.median().to_numpy()})


def against_filters(split: Split, *, factors: list[int], rounds: int) -> pd.DataFrame:
    """Median seconds for networks whose last convolution is ``factor`` times as wide, and a plain pass beside them."""
    seed_everything(0)
    models: Mapping[int, CNN] = {8 * factor: CNN(widths=(2, 4, 8 * factor)) for factor in factors}
    calls = {f"taylor {n}": lambda m=model: taylor(m, split) for n, model in models.items()}
    calls |= {f"plain {n}": lambda m=model: forward_backward(m, split) for n, model in models.items()}
    median = interleaved(calls, rounds).median()
    return pd.DataFrame(
        {
            "filters": [6 + n for n in models],
            "taylor_s": [median[f"taylor {n}"] for n in models],
            "forward_backward_s": [median[f"plain {n}"] for n in models],
        }
    )


def slope(table: pd.DataFrame) -> tuple[float, float]:
    """(milliseconds for each unit of the first column, R squared) of the straight line through ``taylor_s``."""
    line = linregress(table.iloc[:, 0], 1000 * table["taylor_s"])
    return float(line.slope), float(line.rvalue**2)
