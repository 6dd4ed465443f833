"""From the files to the accuracy of the pruned and fine-tuned network: the usual recipe against the book's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import nn

from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.metrics import parameters
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, seed_everything

from . import recipe, usual_recipe
from .sizes import smaller
from .timing import timed

STEPS = ["read the files", "train, an epoch", "score and prune", "fine-tune, an epoch", "test once"]


def run_usual(root: Path, epochs: int, at_most: int | None) -> tuple[pd.Series, pd.Series]:
    """Return the seconds of each step, and the outcome; of each ten epochs, ``epochs`` run, scaled to ten."""
    seed_everything(0)
    (train, test), read = timed(lambda: usual_recipe.loaders(root, at_most))
    baseline = CNN()
    first = _epochs(baseline, train, test, epochs)
    pruned, score = timed(lambda: prune(baseline, usual_recipe.make_plan(baseline, train)))
    second = _epochs(pruned, train, test, epochs)
    accuracy, once = timed(lambda: usual_recipe.accuracy(pruned, test))
    steps = pd.Series([read, first / epochs, score, second / epochs, once], STEPS)
    total = read + score + usual_recipe.EPOCHS * (first + second) / epochs
    whole = epochs == usual_recipe.EPOCHS
    outcome = [total, parameters(pruned), accuracy if whole else float("nan")]
    return steps, pd.Series(outcome, ["seconds", "parameters", "test_accuracy"])


def _epochs(model: nn.Module, train: usual_recipe.Loader, test: usual_recipe.Loader, epochs: int) -> float:
    optimizer = usual_recipe.new_optimizer(model)

    def one_after_another() -> None:
        for _ in range(epochs):
            usual_recipe.train_epoch(model, train, optimizer)
            usual_recipe.accuracy(model, test)

    return timed(one_after_another)[1]


def run_ours(root: Path, at_most: int | None) -> tuple[pd.Series, pd.Series]:
    """Return the same for the chapters' recipe, all of whose epochs run."""
    splits, read = timed(lambda: load_fashion_mnist(root))
    splits = smaller(splits, at_most)
    (baseline, history), first = timed(lambda: recipe.train(splits))
    pruned, score = timed(lambda: prune(baseline, recipe.make_small_plan(baseline, splits)))
    tuning, second = timed(lambda: recipe.fine_tune(pruned, splits))
    result, once = timed(lambda: evaluate(pruned, splits.test))
    steps = [read, first / (len(history) - 1), score, second / (len(tuning) - 1), once]
    outcome = [read + first + score + second + once, parameters(pruned), result.accuracy]
    return pd.Series(steps, STEPS), pd.Series(outcome, ["seconds", "parameters", "test_accuracy"])


def tables(root: Path, *, usual_epochs: int, at_most: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (outcome, steps): a column per recipe, and the ratio of the two.

    Args:
        root: where ``FashionMNIST/raw`` is.
        usual_epochs: how many of each ten epochs of the usual recipe are really run.
        at_most: so many images of each split; None: all.
    """
    usual_steps, usual_outcome = run_usual(root, usual_epochs, at_most)
    our_steps, our_outcome = run_ours(root, at_most)
    steps = pd.DataFrame({"usual_s": usual_steps, "ours_s": our_steps})
    steps["times_less"] = steps["usual_s"] / steps["ours_s"]
    outcome = pd.DataFrame({"usual": usual_outcome, "ours": our_outcome}).T.astype({"parameters": int})
    outcome["times_less"] = usual_outcome["seconds"] / outcome["seconds"]
    return outcome, steps
