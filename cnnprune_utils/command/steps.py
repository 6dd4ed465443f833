"""The steps of a run: train, score, prune, finetune, compare. Each reads the results of earlier ones from the folder.

A step that is done is not done again. One that was interrupted continues to the same result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import pandas as pd
from torch import nn

from ..batches import Split
from ..book.cnn import CNN
from ..criteria import CRITERIA, random
from ..files import write
from ..loop import Criterion, TargetMissed, compress
from ..loop_state import Target
from ..metrics import compare as compare_models
from ..metrics import macs_per_filter
from ..plan import Plan, lowest, per_layer, rank
from ..saving import save_model
from ..surgery import prune as prune_model
from ..training import SCHEDULES, fit, seed_everything
from .figures import table
from .groups import Finetuning, Training
from .settings import Settings
from .work import HISTORIES, Run, do, sizes


def train(run: Run) -> None:
    """Train the original network."""

    def work() -> None:
        seed_everything(run.settings.seed)
        model = CNN(run.settings.network.widths).to(run.splits.train.inputs.device)
        history = _fit(run, "train", model, run.settings.training)
        save_model(model, run.folder.file("baseline.safetensors"))
        run.write_table("train", history)
        run.write_summary("summary_before", model)

    do(run, "train", work)


def score(run: Run) -> None:
    """Score the filters of the original network, and rank them."""

    def work() -> None:
        settings, model = run.settings.scoring, run.model("baseline")
        split: Split = getattr(run.splits, settings.split)
        if settings.images is not None:
            split = split.subset(settings.images, run.settings.seed)
        scores = _criterion(run.settings)(model, split)
        shares = macs_per_filter(model, split.inputs) if settings.macs_penalty else None
        run.write_table("ranks", rank(scores, macs_penalty=settings.macs_penalty, macs=shares))

    do(run, "score", work)


def prune(run: Run) -> None:
    """Choose filters and remove them; in the loop, with updates in between."""

    def work() -> None:
        model = run.model("baseline")
        if run.settings.pruning.way == "loop":
            pruned, plan = _loop(run, model)
        else:
            plan = _one_shot(run.settings, model, table(run.folder, "ranks"), run.splits.train)
            pruned = prune_model(model, plan)
        write(run.folder.file("plan.json"), plan.to_json().encode())
        save_model(pruned, run.folder.file("pruned.safetensors"))
        run.write_table("removed", _removed(run.settings.network.layers, plan))
        run.write_summary("summary_after", pruned)

    do(run, "prune", work)


def finetune(run: Run) -> None:
    """Fine-tune the pruned network."""

    def work() -> None:
        seed_everything(run.settings.seed)
        model = run.model("pruned")
        history = _fit(run, "finetune", model, run.settings.finetuning)
        save_model(model, run.folder.file("finetuned.safetensors"))
        run.write_table("finetune", history)

    do(run, "finetune", work)


def compare(run: Run) -> None:
    """Compare sizes and test accuracy of the three networks; the only step that uses the test images."""

    def work() -> None:
        names = {"original": "baseline", "pruned": "pruned", "fine-tuned": "finetuned"}
        rows = compare_models({name: run.model(file) for name, file in names.items()}, run.splits.test)
        run.write_table("comparison", rows.reset_index())

    do(run, "compare", work)


STEP_FUNCTIONS: dict[str, Callable[[Run], None]] = {
    "train": train,
    "score": score,
    "prune": prune,
    "finetune": finetune,
    "compare": compare,
}


def _fit(run: Run, step: str, model: nn.Module, settings: Training | Finetuning) -> pd.DataFrame:
    return fit(
        model,
        run.splits,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=run.settings.seed,
        schedule=SCHEDULES[settings.schedule],
        on_epoch=partial(run.observer.epoch, HISTORIES[step]),
        state_file=run.folder.unfinished(step),
    )


def _criterion(settings: Settings) -> Criterion:
    chosen: Criterion = CRITERIA[settings.scoring.criterion]
    return partial(chosen, seed=settings.seed) if chosen is random else chosen


def _one_shot(settings: Settings, model: nn.Module, ranks: pd.DataFrame, split: Split) -> Plan:
    """Return a plan of the lowest ranks: the number in the settings, or the fewest that reach a size."""
    pruning = settings.pruning
    if isinstance(pruning.remove, dict):
        return per_layer(ranks, pruning.remove)
    if pruning.remove is not None:
        return lowest(ranks, pruning.remove, keep_at_least=pruning.keep_at_least)
    target = Target(parameters=pruning.parameters, macs=pruning.macs)
    at_most = sum(max(0, width - pruning.keep_at_least) for width in settings.network.widths)
    plans = [lowest(ranks, n, keep_at_least=pruning.keep_at_least) for n in range(at_most + 1)]
    return plans[bisect_left(plans, True, key=lambda plan: target.reached(sizes(prune_model(model, plan))))]


def _loop(run: Run, model: nn.Module) -> tuple[nn.Module, Plan]:
    pruning, loop = run.settings.pruning, run.settings.loop
    assert not isinstance(pruning.remove, dict)  # the settings check that
    target = Target(filters=pruning.remove, parameters=pruning.parameters, macs=pruning.macs, points=pruning.points)
    try:
        network, plan, history = compress(
            model,
            run.splits,
            target=target,
            criterion=_criterion(run.settings),
            step=loop.step,
            update=loop.updates,
            learning_rate=loop.learning_rate,
            batch_size=loop.batch_size,
            shortlist=loop.shortlist,
            n_images=loop.images,
            macs_penalty=run.settings.scoring.macs_penalty,
            keep_at_least=pruning.keep_at_least,
            patience=loop.patience,
            seed=run.settings.seed,
            folder=run.folder.unfinished("prune"),
        )
    except TargetMissed as error:
        raise ValueError(error.reason) from error
    run.write_table("loop", history)
    return network, plan


def _removed(layers: dict[str, int], plan: Plan) -> pd.DataFrame:
    """Return the filters removed from each layer: ``layer``, ``removed``, ``of``, ``percent``."""
    rows = [(name, n := len(plan.remove.get(name, ())), width, 100 * n / width) for name, width in layers.items()]
    return pd.DataFrame(rows, columns=["layer", "removed", "of", "percent"])
