"""What a criterion is worth without training and with it, when each image counts by its slopes, or each alike."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from benchmarks import deeper, recipe
from cnnprune_utils.batches import Data, Splits
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.criteria import CRITERIA, taylor
from cnnprune_utils.gates import gate_gradients
from cnnprune_utils.loop import Criterion
from cnnprune_utils.metrics import macs
from cnnprune_utils.plan import Scores
from cnnprune_utils.training import evaluate


def one_vote(model: nn.Module, data: Data, **how: Any) -> Scores:
    """The Taylor score with one vote for each image: its slopes count as shares of their sum, layer by layer."""
    votes: dict[str, torch.Tensor] = {}
    for batch in gate_gradients(model, data, **how):
        for name, slopes in batch.items():
            sizes = slopes.abs()
            share = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-30)  # where all slopes are zero, nobody gets it
            votes[name] = votes.get(name, 0) + share.sum(0).cpu()
    return votes


VOTERS: dict[str, Criterion] = {
    "taylor": taylor,
    "one vote": one_vote,
    "magnitude": CRITERIA["magnitude"],
    "random": CRITERIA["random"],
}


def votes(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
    """Return what is right without training and with it, for each criterion, with the same share of each layer removed.

    Columns: ``criterion``, ``budget``, and on the test images the accuracies ``cut``, ``statistics`` (measured again on
    10,000 training images) and ``epoch`` (after one of training).
    """
    rows = []
    for budget, widths in deeper.NARROWER.items():
        for name, criterion in tqdm(VOTERS.items(), desc=budget, leave=False):
            network = deeper.at_once(model, splits, macs(ResNet(widths)), seed, criterion, per_layer=True)
            measured = copy.deepcopy(network)
            update_bn(splits.train.subset(10_000).batches(500), measured)
            tuned = copy.deepcopy(network)
            recipe.fit_residual(tuned, splits, 1, seed)
            rows.append((name, budget, *(evaluate(n, splits.test).accuracy for n in (network, measured, tuned))))
    return pd.DataFrame(rows, columns=["criterion", "budget", "cut", "statistics", "epoch"])
