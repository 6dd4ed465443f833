"""The chapters' own calls in one place: ``python -m benchmarks.recipe`` makes the checkpoints the book starts from.

All but the deeper network is a cell of a chapter; ``tests/test_checkpoints.py`` holds the two together.
"""

from __future__ import annotations

from itertools import count

import pandas as pd
from torch import nn

from cnnprune_utils.batches import Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.book.resnet import ResNet
from cnnprune_utils.book.shipped import CHECKPOINTS, checkpoint
from cnnprune_utils.criteria import taylor
from cnnprune_utils.files import write
from cnnprune_utils.metrics import parameters
from cnnprune_utils.plan import Plan, lowest, per_layer, rank
from cnnprune_utils.saving import save_model
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import best_device, evaluate, fit, seed_everything

TRAIN_EPOCHS = 6
TUNE_EPOCHS = 5
LEARNS = 0.2  # accuracy after an epoch: a dead network has 0.1
RESIDUAL_EPOCHS, RESIDUAL_BATCH = 8, 128


def train(splits: Splits, seed: int = 0) -> tuple[nn.Module, pd.DataFrame]:
    """Chapter 1: the baseline."""
    seed_everything(seed)
    baseline = CNN().to(splits.train.inputs.device)
    return baseline, fit(baseline, splits, epochs=TRAIN_EPOCHS, learning_rate=1e-2, seed=seed)


def train_residual(
    splits: Splits, seed: int = 0, widths: tuple[int, ...] = (16, 32, 64), epochs: int = RESIDUAL_EPOCHS
) -> tuple[nn.Module, pd.DataFrame]:
    """The deeper network, and narrower ones of its family."""
    seed_everything(seed)
    network = ResNet(widths).to(splits.train.inputs.device)
    return network, fit_residual(network, splits, epochs, seed)


def fit_residual(network: nn.Module, splits: Splits, epochs: int, seed: int) -> pd.DataFrame:
    """Train the deeper network in place, whole or pruned."""
    return fit(network, splits, epochs=epochs, learning_rate=1e-2, batch_size=RESIDUAL_BATCH, seed=seed)


def make_plan(baseline: nn.Module, splits: Splits) -> Plan:
    """Chapters 2 to 4: the eight filters that matter least."""
    return lowest(rank(taylor(baseline, splits.validation)), 8)


def fine_tune(pruned: nn.Module, splits: Splits, seed: int = 0) -> pd.DataFrame:
    """Chapter 5: recovery. Trains ``pruned`` in place."""
    return fit(pruned, splits, epochs=TUNE_EPOCHS, learning_rate=1e-2, seed=seed)


def recover(pruned: nn.Module, baseline: nn.Module, splits: Splits, seed: int = 0) -> pd.DataFrame:
    """:func:`fine_tune` with the network that it was cut from as teacher. Trains ``pruned`` in place."""
    return fit(pruned, splits, epochs=TUNE_EPOCHS, learning_rate=1e-2, seed=seed, teacher=baseline)


def make_small_plan(baseline: nn.Module, splits: Splits) -> Plan:
    """Chapter 5, exercise 2: five filters of the last convolution, where the parameters are: 63,122 become 23,737."""
    return per_layer(rank(taylor(baseline, splits.validation)), {"network.4": 5})


def one_at_a_time(baseline: nn.Module, splits: Splits, seed: int = 0) -> nn.Module:
    """Chapter 5's one at a time, for as many filters of the last convolution as :func:`make_small_plan` removes.

    Scores again before each removal, with a few updates between.

    The updates between come to one epoch in all; the rest of :func:`fine_tune`'s epochs follow.
    """
    pruned = baseline
    for removed in range(5):
        pruned = prune(pruned, per_layer(rank(taylor(pruned, splits.validation)), {"network.4": 1}))
        if removed < 4:
            few = splits.train.subset(len(splits.train) // 4, seed=removed)
            fit(pruned, Splits(few, splits.validation, splits.test), epochs=1, learning_rate=2e-3, seed=seed)
    fit(pruned, splits, epochs=TUNE_EPOCHS - 1, learning_rate=1e-2, seed=seed)
    return pruned


def from_scratch(widths: tuple[int, ...], splits: Splits, seed: int = 0) -> tuple[nn.Module, pd.DataFrame]:
    """Chapter 5: the control, with as many epochs as training and fine-tuning had together."""
    seed_everything(seed)
    scratch = CNN(widths=widths).to(splits.train.inputs.device)
    return scratch, fit(scratch, splits, epochs=TRAIN_EPOCHS + TUNE_EPOCHS, learning_rate=1e-2, seed=seed)


def drawn_again(widths: tuple[int, ...], splits: Splits, epochs: int, seed: int = 0) -> nn.Module:
    """Chapter 5's control for narrow networks, which may be dead when they are drawn: one that learns.

    Seeds 100 apart are tried, until more than 20 % of the validation images are right after one epoch.
    """
    for drawn in count(seed, 100):
        for n in (1, epochs):
            seed_everything(drawn)
            network = CNN(widths=widths).to(splits.train.inputs.device)
            fit(network, splits, epochs=n, learning_rate=1e-2, seed=seed)
            if evaluate(network, splits.validation).accuracy <= LEARNS:
                break
        else:
            return network
    raise AssertionError("count does not end")


def main() -> None:
    splits = load_fashion_mnist().to(best_device())
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    models: dict[str, nn.Module] = {}
    models["baseline"], baseline_history = train(splits)
    plan = make_plan(models["baseline"], splits)
    models["tuned"] = tuned = prune(models["baseline"], plan)
    fine_tune(tuned, splits)
    assert isinstance(tuned, CNN)
    models["scratch"], scratch_history = from_scratch(tuned.widths, splits)
    models["residual"], residual_history = train_residual(splits)
    histories = {"baseline": baseline_history, "scratch": scratch_history, "residual": residual_history}
    for name, history in histories.items():
        write(CHECKPOINTS / f"{name}_history.csv", history.drop(columns="seconds").to_csv(index=False))
    for name, model in models.items():
        save_model(model, CHECKPOINTS / f"{name}.safetensors", plan=Plan({}))
        on_validation = evaluate(model, splits.validation)
        assert evaluate(checkpoint(name), splits.validation.to("cpu")) == on_validation
        print(f"{name}: {parameters(model):,} parameters, validation {on_validation}")
    print(f"plan: {plan}")


if __name__ == "__main__":
    main()
