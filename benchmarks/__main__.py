"""``python -m benchmarks``: measure what the book claims of its speed, its memory and its accuracy.

Every ratio is between two things measured in this one run. All of it runs on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.chapters import chapters_in
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.book.fetch import fetch
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.exhaustive import all_subnetworks

from . import choosing, end_to_end, jobs, large, memory, reach, recipe, recovery, rival, scoring, sources, usual_recipe
from .sizes import smaller

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

# What each table is measured on; "quick" shows that everything runs, and its numbers mean little.
NORMAL: dict[str, dict[str, Any]] = {
    "speed": {"usual_epochs": 1},
    "scoring": {"n_images": 5000, "rounds": 15},
    "accuracy": {"seeds": range(5)},
    "scaling": {"sizes": [1000, 2000, 4000, 8000], "factors": [1, 2, 3, 4], "n_images": 2000, "rounds": 7},
    "memory": {"chapters": "*"},
    "rival": {"seeds": range(5)},
    "choices": {"seeds": range(5)},
    "large": {"n_images": 256, "rounds": 5},
    "reach": {"networks": tuple(reach.NETWORKS)},
    "sources": {"n_images": 5000, "rounds": 9},
}
FULL = NORMAL | {"speed": {"usual_epochs": usual_recipe.EPOCHS}}
QUICK: dict[str, dict[str, Any]] = {
    "speed": {"usual_epochs": 1, "at_most": 6000},
    "scoring": {"n_images": 2000, "rounds": 5},
    "accuracy": {"seeds": range(2), "at_most": 3000},
    "scaling": {"sizes": [500, 1000, 2000], "factors": [1, 2, 4], "n_images": 500, "rounds": 3},
    "memory": {"chapters": "02*"},
    "rival": {"seeds": range(2), "at_most": 3000},
    "choices": {"seeds": range(2), "at_most": 500},
    "large": {"n_images": 32, "rounds": 1},
    "reach": {"networks": ("alexnet", "resnet18", "squeezenet1_1", "mobilenet_v3_small")},
    "sources": {"n_images": 1000, "rounds": 3},
}


def speed(*, usual_epochs: int, at_most: int | None = None) -> None:
    print("1. The usual recipe against the book's: train, score, prune to at most 23,800 parameters, fine-tune, test\n")
    root = fetch().folder.parents[1]
    outcome, steps = end_to_end.tables(root, usual_epochs=usual_epochs, at_most=at_most)
    show(outcome, seconds=1, parameters=0, test_accuracy=4, times_less=1)
    print()
    show(steps, usual_s=2, ours_s=2, times_less=1)
    print(
        f"\nAn epoch of the usual recipe ends with all test images, one of ours with the validation images. "
        f"Epochs: {usual_recipe.EPOCHS} + {usual_recipe.EPOCHS} and {recipe.TRAIN_EPOCHS} + {recipe.TUNE_EPOCHS}."
    )
    if usual_epochs < usual_recipe.EPOCHS:
        print(
            f"SAMPLED: {usual_epochs} of each {usual_recipe.EPOCHS} epochs of the usual recipe ran, its time scaled to "
            "all; all of ours ran.\nIts accuracy needs all epochs: python -m benchmarks speed --full"
        )


def scoring_cost(*, n_images: int, rounds: int) -> None:
    print(f"2. taylor over {n_images:,} images against forward + backward over the same\n")
    model = checkpoint("baseline")
    split = load_fashion_mnist().train.subset(n_images)
    table = scoring.against_forward_backward(model, split, rounds=rounds)
    show(table, forward_backward_s=3, taylor_s=3, ratio=2)
    print(
        f"\nOver {rounds} rounds, both in each; batches of {scoring.BATCH_SIZE}, eval mode. Forward + backward has the "
        "gradients of all weights, summed over\nthe batches. The network was analysed before, once. Target: "
        "a ratio of at most 0.85."
    )


def accuracy(*, seeds: Sequence[int], at_most: int | None = None, backend: str = "loky") -> None:
    print(f"3. Test accuracy lost at no more than 23,800 parameters, in points, over {len(seeds)} seeds\n")
    rows = recovery.points_lost(smaller(load_fashion_mnist(), at_most), seeds, backend)
    print_recovery(rows)
    print(
        "\nlow and high: the 95 % t interval of the mean. "
        f"The baselines reach {rows['baseline'].mean():.2f} % in the mean. Each way has {recipe.TUNE_EPOCHS} epochs\n"
        f"to recover; from scratch, {recipe.TRAIN_EPOCHS + recipe.TUNE_EPOCHS} in all. Target: at most 0.40 for the "
        "better of the first two.\n\n"
        "The same beside the control: points behind the original with as many epochs more, seed by seed\n"
    )
    print_recovery(recovery.behind_the_control(rows))


def print_recovery(rows: pd.DataFrame) -> None:
    by_seed = rows.pivot_table("lost", index="way", columns="seed").add_prefix("seed ")
    table = recovery.summary(rows).join(by_seed)
    show(table, **{"parameters": 0} | {str(name): 2 for name in table.columns[1:]})


def scaling(*, sizes: list[int], factors: list[int], n_images: int, rounds: int) -> None:
    print("4. Scoring time against the number of images, and against the number of filters\n")
    model = checkpoint("baseline")
    train = load_fashion_mnist().train
    images = scoring.against_images(model, train, sizes=sizes, rounds=rounds)
    show(images, False, images=0, taylor_s=3)
    per_image, fit = scoring.slope(images)
    print(f"{1000 * per_image:.0f} ms more per 1,000 images; R squared of the straight line {fit:.4f}\n")
    few = train.subset(n_images)
    series: dict[str, list[tuple[int, ...]]] = {
        "more layers of 4 filters": [(4,) * 2 * factor for factor in factors],
        "a wider last convolution": [(2, 4, 8 * factor) for factor in factors],
    }
    for change, networks in series.items():
        print(f"More filters by {change}:\n")
        filters = scoring.against_filters(few, networks=networks, rounds=rounds)
        show(filters, False, filters=0, taylor_s=3, forward_backward_s=3, ratio=2)
        per_filter, fit = scoring.slope(filters)
        print(f"{per_filter:.1f} ms more per filter, on {n_images:,} images; R squared {fit:.4f}\n")
    print(
        f"Medians of {rounds} rounds, all sizes in each. The ratio is to plain forward + backward of the same network."
    )


def memory_use(*, chapters: str) -> None:
    print("5. Wall time and peak memory of each chapter's kernel\n")
    show(memory.table(path for path in chapters_in(NOTEBOOKS) if path.match(chapters)), seconds=0, peak_mb=0)
    print(
        "\nTarget: below 1,500 MB; Binder gives 2 GB. A PyTorch with CUDA takes some hundred MB more than one without."
    )


def against_torch_pruning(*, seeds: Sequence[int], at_most: int | None = None, backend: str = "loky") -> None:
    print(f"6. Test accuracy lost, in points, against torch-pruning's Taylor importance, over {len(seeds)} seeds\n")
    rows = rival.points_lost(smaller(load_fashion_mnist(), at_most), seeds, backend)
    by_seed = rows.pivot_table("lost", index=["budget", "way"], columns="seed", sort=False).add_prefix("seed ")
    table = rival.against_ours(rows).join(by_seed)
    widths = rows.groupby(["budget", "way"], sort=False)["widths"].agg(
        lambda group: " ".join(sorted({*map(str, group)}))
    )
    for budget in rival.BUDGETS:
        print(f"At most {budget:,} parameters:\n")
        show(table.loc[[budget]].droplevel("budget"), **{str(name): 2 for name in table.columns})
        print("\n" + "\n".join(f"{way}: widths {found}" for way, found in widths.xs(budget).items()) + "\n")
    print(
        f"low and high: the 95 % t interval of more_than_ours. Each is scored on the same {rival.N_SCORED:,} training "
        f"images, and recovers with\nbenchmarks.recipe.recover: {recipe.TUNE_EPOCHS} epochs. Target: nobody loses "
        f"less than ours, and ours at most 0.30 at {rival.BUDGETS[0]:,}.\nHow many filters of each layer ours removes "
        "was given by hand for each budget (benchmarks.rival.REMOVED); torch-pruning chose that itself, by either rule."
    )


def percentiles(*, seeds: Sequence[int], at_most: int | None = None, backend: str = "loky") -> None:
    print(f"7. Percentile among all sub-networks of the size, before any update, mean of {len(seeds)} seeds\n")
    splits = smaller(load_fashion_mnist(), at_most)
    decide = splits.train.subset(min(choosing.N_IMAGES, len(splits.train)))
    rows = pd.concat(jobs.for_each(partial(_landings, splits, decide), seeds, backend))
    table = rows.pivot_table("percentile", index="way", columns="removed", sort=False).rename(columns=str)
    seconds = rows[rows["removed"] == max(choosing.SIZES)].pivot_table("seconds", index="way", columns="seed")
    table["times_taylor"] = (seconds / seconds.loc["taylor"]).median(axis=1)
    show(table, **{str(name): 1 for name in table.columns})
    print(
        f"\nColumns: filters removed. Decided on {len(decide):,} training images, judged on {len(splits.validation):,} "
        f"validation images. times_taylor: the\nseconds for all sizes, median over the seeds. "
        "Target: choose, the default, at 99 or above at every size."
    )


def _landings(splits: Splits, decide: Split, seed: int) -> pd.DataFrame:
    model, _ = recipe.train(splits, seed)
    ways = choosing.ways(model, decide)
    shown = {name: ways[name] for name in ("taylor", "oracle", "choose")}
    return choosing.landings(shown, all_subnetworks(model, splits.validation)).assign(seed=seed)


def large_networks(*, n_images: int, rounds: int) -> None:
    print(f"8. taylor on larger networks against forward + backward (time) and training (memory), {n_images} images\n")
    table = large.table(n_images=n_images, rounds=rounds)
    decimals = {"time_ratio": 2, "gates_ratio": 2, "train_mb": 0, "score_mb": 0, "memory_ratio": 2}
    show(table, forward_backward_s=2, taylor_s=2, analysis_s=2, **decimals)
    print(
        f"\nRandom weights; batches of {large.BATCH_SIZE}; medians of {rounds} rounds. Memory: the most beyond the "
        "model and the images, each in a process of\nits own. The analysis, made once for a network, is no part of "
        "taylor_s. gates_ratio: a forward pass with open gates whose slopes\nare asked for, over a plain one. Targets: "
        "a time ratio of at most 1.0, a "
        "gates ratio of at most 1.1, a memory ratio of at most 1.2."
    )


def networks_of_others(*, networks: Sequence[str]) -> None:
    print(f"9. {len(networks)} networks of torchvision and timm, ours beside torch-pruning (tp)\n")
    rows, failed = reach.table(networks)
    table = reach.flat(rows).rename(columns=str)
    places = {column: {"share": 2, "seconds": 1}.get(column.removeprefix("tp_")) for column in map(str, table)}
    for column in places:
        if column.endswith("difference"):
            table[column] = table[column].map(lambda value: "-" if pd.isna(value) else f"{value:.0e}")
    show(table, **{column: n for column, n in places.items() if n is not None})
    print("\n" + "\n".join(f"{where}: {why}" for where, why in failed.items()) + "\n" * bool(failed))
    total = reach.summary(rows)
    total["largest_difference"] = total["largest_difference"].map("{:.0e}".format)
    show(total, mean_share=2, seconds=0)
    print(
        f"\nshare: of the output channels of convolutions, depthwise ones not counted, those that can be removed. "
        f"difference: {reach.SHARE:.0%} of each layer's\nfilters removed, against the whole network with the same "
        "filters closed where layers read them, in float64, as a share of the largest output.\n"
        f"wrong: above {reach.WRONG:.0e}, and above ten times what one rounding of the input changes. "
        "A network that a way does not\nprune rightly counts with a mean_share of 0. One thread, random weights.\n"
        "Target: no wrong network of ours, and no smaller mean_share than torch-pruning's."
    )


def other_sources(*, n_images: int, rounds: int) -> None:
    print(f"10. taylor over {n_images:,} images from a DataLoader, and in two processes with half of them each\n")
    split = load_fashion_mnist().train.subset(n_images)
    loader = sources.through_a_loader(checkpoint("baseline"), split, rounds=rounds)
    show(loader.to_frame().T, False, loader_s=3, tensors_s=3, through_loader_s=3, ratio=3)
    print()
    show(sources.in_parts(n_images, rounds=rounds).to_frame().T, False, one_s=3, parts_s=3, message_ms=1)
    print(
        f"\nMedians of {rounds} rounds. ratio: through the loader, over the loader alone plus tensors in memory; its "
        "target: at most 1.05.\none_s and parts_s: one process with all images, and two, on one thread each. "
        "message_ms: what the two take beyond the scores\nof their own parts, mostly waiting for each other."
    )


TABLES: dict[str, Callable[..., None]] = {
    "speed": speed,
    "scoring": scoring_cost,
    "accuracy": accuracy,
    "scaling": scaling,
    "memory": memory_use,
}
TABLES |= {"rival": against_torch_pruning, "choices": percentiles, "large": large_networks}
TABLES |= {"reach": networks_of_others, "sources": other_sources}


def show(table: pd.DataFrame, index: bool = True, /, **decimals: int) -> None:
    """Print the table, each column with so many decimals; what was not measured is a dash."""

    def formatter(places: int) -> Callable[[float], str]:
        return lambda value: f"{value:,.{places}f}"

    table = table.rename_axis(None).rename_axis(None, axis=1)
    formatters = {name: formatter(places) for name, places in decimals.items()}
    print(table.to_string(index=index, formatters=formatters, na_rep="-"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all of them by default")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="small sizes: shows that all of it runs, no more")
    length.add_argument(
        "--full", action="store_true", help="every epoch of the usual recipe, so that it has an accuracy"
    )
    jobs.add_backend(parser)
    options = parser.parse_args(arguments)
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    settings = QUICK if options.quick else FULL if options.full else NORMAL
    if options.quick:
        print("QUICK: small sizes. The numbers show that all of it runs, and mean little.\n")
    for name in options.tables or TABLES:
        where = {"backend": options.backend} if "seeds" in settings[name] else {}
        TABLES[name](**settings[name], **where)
        print(flush=True)


if __name__ == "__main__":
    main()
