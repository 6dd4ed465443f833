"""`make studies`: what it measures for one network, and the files that it has made."""

from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch
from random_networks import assert_unchanged, one_thread, randomize, snapshot  # noqa: F401
from torch import nn

from benchmarks import choosing, deeper, recipe, retraining, studies, voting
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.shipped import STUDIES, study
from cnnprune_utils.criteria import CRITERIA, loss_changes, oracle
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, percentile, row_of
from cnnprune_utils.gates import mask
from cnnprune_utils.loop import Target, compress
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, one_cycle

CRITERIA_ALONE = [name for name in CRITERIA if name not in ("random", "oracle_loss")]
WAYS = [
    "random",
    *CRITERIA_ALONE,
    "taylor, no norm",
    "oracle, no norm",
    "taylor, scored again",
    "closed gates",
    "beam of 4",
    "choose",
    "all sub-networks",
]
JUDGED = ["taylor", "fisher", "activation_mean", "activation_std", "apoz", "magnitude"]


def cnn(seed: int = 0) -> CNN:
    return randomize(CNN((2, 3, 4), image_size=6, n_classes=3), seed)


def split(n: int = 60) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 1, 6, 6, generator=generator), torch.randint(3, (n,), generator=generator))


def test_correlations_are_with_the_oracle_as_it_is() -> None:
    """Over all filters, and in each layer; only the criterion is divided by a norm."""
    table = choosing.correlations(cnn(), split()).set_index(["criterion", "layer"])["spearman"]
    assert list(table.index.unique("criterion")) == JUDGED
    assert list(table.index.unique("layer")) == ["all", "all, no norm", "network.0", "network.2", "network.4"]
    scores, truth = CRITERIA["taylor"](cnn(), split()), oracle(cnn(), split())
    costs = pd.Series(torch.cat([*truth.values()]).tolist()).rank()
    raw, divided = torch.cat([*scores.values()]), torch.cat([s / s.norm() for s in scores.values()])
    for layer, values in {"all, no norm": raw, "all": divided}.items():
        assert table["taylor", layer] == pytest.approx(pd.Series(values.tolist()).rank().corr(costs))
    places = [pd.Series(values["network.4"].tolist()).rank() for values in (scores, truth)]
    assert table["taylor", "network.4"] == pytest.approx(places[0].corr(places[1]))


def test_signs_compare_the_slopes_with_the_change_of_the_loss() -> None:
    """The mean slope of the loss along a gate is that of a small step; its size forgets the sign."""
    model, images = cnn(), split()
    table = choosing.signs(model, {"a": images, "b": split(30)}).set_index(["images", "score"])["spearman"]
    assert list(table.index.unique("images")) == ["a", "b"]
    truth = pd.Series(torch.cat([*loss_changes(model, images).values()]).tolist())
    per_image = pd.Series(torch.cat([*CRITERIA["taylor"](model, images).values()]).tolist())
    widths = [36] * 9  # positions of a map: the score divides by them, all alike here
    assert table["a", "the mean size"] == pytest.approx((per_image * widths).corr(truth, method="spearman"))
    assert table["a", "minus the mean slope"] != table["a", "its size"]


def test_landings_are_among_all_plans_of_their_size() -> None:
    model = cnn()
    before = snapshot(model)
    judged = all_subnetworks(model, split())
    landed = choosing.landings(choosing.ways(model, split()), judged, range(1, 5))
    assert landed["way"].unique().tolist() == WAYS
    assert landed.groupby("way", sort=False)["removed"].apply(list).tolist() == [[1, 2, 3, 4]] * len(WAYS)
    third = landed[landed["removed"] == 3].set_index("way")
    plan = lowest(rank(CRITERIA["fisher"](model, split())), 3)
    assert third.loc["fisher", "accuracy"] == row_of(judged, plan)["accuracy"]
    assert third.loc["fisher", "percentile"] == percentile(judged, plan)
    assert (third["best"] == best_of_each_size(judged).loc[3, "accuracy"]).all()
    of_three = judged.loc[(judged["removed"] == 3) & ~judged["emptied"], "accuracy"]
    assert third.loc["random", "accuracy"] == pytest.approx(of_three.mean())
    not_better = [(of_three <= mine).mean() for mine in of_three]
    assert third.loc["random", "percentile"] == pytest.approx(100 * sum(not_better) / len(not_better))
    assert third.loc["all sub-networks", "percentile"] == 100  # decided and judged on the same images here
    assert (landed.groupby("way")["seconds"].diff().fillna(0) >= 0).all()  # the smaller plans' included
    assert_unchanged(model, before)


@pytest.mark.parametrize("seed", range(2))
def test_a_beam_of_one_is_the_greedy_oracle(seed: int) -> None:
    model, images = cnn(seed), split()
    greedy = compress(
        model, Splits(images, images, images), target=Target(filters=3), update=0, shortlist=None, n_images=60
    )
    assert next(islice(choosing.beam(model, images, 1), 3, None)) == greedy.plan


def test_a_wide_beam_finds_the_lowest_loss() -> None:
    """It ends where every layer has one filter left."""
    model, images = randomize(CNN((2, 2, 2), image_size=6, n_classes=3)), split()
    plans = list(choosing.beam(model, images, 100))
    assert [plan.n_filters for plan in plans] == list(range(4))
    table = all_subnetworks(model, images)
    lowest_loss = table[~table["emptied"]].groupby("removed")["loss"].min()
    for plan in plans:
        assert row_of(table, plan)["loss"] == pytest.approx(lowest_loss[plan.n_filters], rel=1e-5)
    assert plans[0] == Plan({})


def test_shortlists_compare_what_compress_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "SHORTLISTS", (1, None))
    monkeypatch.setattr(choosing, "UPDATES", (0, 2))
    model, splits = cnn(), Splits(split(), split(), split())
    table = choosing.shortlists(model, splits, 2)
    assert table.groupby(["updates", "shortlist"], sort=False)["removed"].apply(list).to_dict() == {
        (0, "1"): [1, 2],
        (0, "all"): [1, 2],
        (2, "1"): [1, 2],
        (2, "all"): [1, 2],
    }
    greedy = compress(model, splits, target=Target(filters=2), update=0, shortlist=None).history
    found = table[(table["updates"] == 0) & (table["shortlist"] == "all")]
    assert found["accuracy"].tolist() == greedy["accuracy_after"][1:].tolist()


SPLITS = Splits(split(600), split(60), split(60))


def test_equal_updates_differ_in_the_order_of_things_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "CONDITIONS", [(3, 6, "constant", 1e-3), (2, 2, "one_cycle", 1e-3)])
    seen: list[tuple[int, int]] = []
    update = retraining._update
    monkeypatch.setattr(
        retraining, "_update", lambda network, *rest: (seen.append((id(network), rest[1])), update(network, *rest))
    )
    model = cnn()
    before = snapshot(model)
    table = retraining.equal_updates(model, SPLITS, seed=0)
    assert table[["scored", "updates"]].value_counts().eq(2).all()
    assert len(table) == 8
    assert [updates for _, updates in seen] == [6, 2, 2, 2, 6, 2, 2, 2, 2, 1, 1, 2, 1, 1]
    assert_unchanged(model, before)


def test_a_list_removes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """One filter at a time, by the numbers that they have then: the network is the one that loses all at once."""
    model, scored = cnn(), split()
    network: nn.Module = model
    for removed in retraining._removals(model, scored, 4, again=False):
        network = prune(network, removed(network))
    at_once = prune(model, lowest(rank(CRITERIA["taylor"](model, scored)), 4))
    for one, other in zip(network.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("updates", "epochs"), [(1, 1), (2, 1), (5, 3)])
def test_updates_are_counted(monkeypatch: pytest.MonkeyPatch, updates: int, epochs: int) -> None:
    """Two batches are an epoch here; more updates are several passes."""
    calls = []
    monkeypatch.setattr(
        retraining, "fit", lambda network, splits, **how: calls.append((len(splits.train), how["epochs"]))
    )
    retraining._update(cnn(), SPLITS, updates, one_cycle, 1e-3, 0)
    assert calls == [(updates // epochs * 256, epochs)]


def test_one_epoch_trains_plans_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drawn once; the filters that it names are those that stay."""
    monkeypatch.setattr(retraining, "PLANS", 3)
    trained, fit = [], retraining.fit
    monkeypatch.setattr(retraining, "fit", lambda *given, **how: (trained.append(how), fit(*given, **how))[1])
    few = split(60)
    wide = Split(torch.randn(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)), few.targets)
    model, splits = randomize(CNN()), Splits(wide, wide, wide)
    table = retraining.one_epoch(model, splits, seed=0)
    assert table["plan"].nunique() == 3
    for row in table.to_dict("records"):
        stay: dict[str, list[int]] = {name: [] for name in retraining.LAYERS}
        for name, k in (text.split(".") for text in row["plan"].split()):
            stay[f"network.{name}"].append(int(k))
        assert {name: len(filters) for name, filters in stay.items()} == retraining.KEPT
        gone = {name: {*range(n)} - {*stay[name]} for name, n in retraining.LAYERS.items()}
        assert row["before"] == pytest.approx(evaluate(mask(model, Plan(gone)), wide).accuracy)
    assert trained == [{"epochs": 1, "learning_rate": 1e-2, "seed": 0}] * 3


def test_fine_tuning_has_its_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "LEARNS", -1.0)  # one epoch on these images teaches nothing
    few = split(60)
    wide = Split(torch.randn(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)), few.targets)
    table = retraining.fine_tuning(randomize(CNN()), Splits(wide, wide, wide), seed=0).set_index(["network", "epochs"])
    assert list(table.index) == [
        ("original", 0), ("original", 5), ("pruned", 0), ("pruned", 1), ("pruned", 5), ("pruned", 11),
        ("from scratch", 11), ("restarted", 1), ("restarted", 5), ("restarted", 11), ("wrong surgery", 0),
        ("wrong surgery", 5),
    ]  # fmt: skip
    assert table.loc[("pruned", 0), "test"] != table.loc[("wrong surgery", 0), "test"]


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    table = pd.DataFrame({"layer": ["all", "a, b"], "spearman": [0.5, -1.0]})
    made = studies.Study(lambda *_: table, "one\ntwo", trained_by="train_residual")
    studies.write(table, tmp_path / "new" / "table.csv", made, {5: "abc", 6: "def"})
    lines = (tmp_path / "new" / "table.csv").read_text().splitlines()
    assert lines[0] == "# python -m benchmarks.studies table"
    assert lines[2] == "# networks: benchmarks.recipe.train_residual, seed and fingerprint: 5 abc, 6 def"
    assert lines[3:5] == ["# one", "# two"]
    assert torch.__version__ in lines[1]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "table.csv", comment="#"), table)


def test_the_files_hold_every_network() -> None:
    """Each file has the seeds, the columns and the rows that its study gives."""
    rows = {
        "signs": 3 * 3,
        "correlations": 6 * 5,
        "choices": study("choices")["way"].nunique() * len(choosing.SIZES),
        "shortlists": len(choosing.SIZES) * len(choosing.SHORTLISTS) * len(choosing.UPDATES),
        "equal_updates": 4 * len(retraining.CONDITIONS),
        "one_epoch": retraining.PLANS,
        "fine_tuning": 12,
        "front": 2 + 4 * len(deeper.CUTS) + sum(map(len, deeper.TRAINED_LONG.values())) + 2 * 3,
        "votes": 2 * len(voting.VOTERS),
    }
    assert rows.keys() == studies.ALL.keys()
    for name, n in rows.items():
        counts = study(name).groupby("seed").size()
        assert counts.index.tolist() == list(studies.ALL[name].seeds)
        assert counts.eq(n).all(), name
    choices = study("choices")
    made = choices["way"].unique().tolist()
    assert made == [way for way in WAYS if way in made]  # a criterion that is newer than the file is not in it
    assert (choices["accuracy"] <= choices["best"]).all()
    assert choices["percentile"].between(0, 100).all()
    assert study("correlations")["spearman"].between(-1, 1).all()


def test_the_files_are_of_the_same_networks() -> None:
    """A seed gives another network on a processor that rounds otherwise: then all studies are made again."""
    marks: dict[tuple[str, str], set[str]] = {}
    for name, study_ in studies.ALL.items():
        head = next(line for line in (STUDIES / f"{name}.csv").read_text().splitlines() if "fingerprint: " in line)
        assert head.startswith(f"# networks: benchmarks.recipe.{study_.trained_by}, ")
        found = dict(pair.split() for pair in head.split("fingerprint: ")[1].split(", "))
        assert [int(seed) for seed in found] == list(study_.seeds)
        for seed, mark in found.items():
            marks.setdefault((study_.trained_by, seed), set()).add(mark)
    assert [seed for seed, of in marks.items() if len(of) > 1] == []


def test_what_was_kept_is_not_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Networks and tables: after a kill the same call goes on."""
    trained, measured = [], []
    monkeypatch.setattr(studies, "load_fashion_mnist", lambda: SPLITS)
    monkeypatch.setattr(recipe, "train", lambda splits, seed: (trained.append(seed), (cnn(seed), None))[1])

    def measure(model: nn.Module, splits: Splits, seed: int) -> pd.DataFrame:
        measured.append(seed)
        return pd.DataFrame({"x": [seed, 0.1], "text": ["a, b", "c"]})

    monkeypatch.setattr(studies, "ALL", {"one": studies.Study(measure, ""), "few": studies.Study(measure, "", [5])})
    first = studies.of_seed(6, ["one", "few"], tmp_path)
    assert list(first) == ["one"]
    again = studies.of_seed(6, ["one", "few"], tmp_path)
    assert (trained, measured) == ([6], [6])
    assert again["one"][0] == first["one"][0]
    pd.testing.assert_frame_equal(again["one"][1], first["one"][1])
    assert list(studies.of_seed(5, ["one", "few"])) == ["one", "few"]
    assert (trained, measured) == ([6, 5], [6, 5, 5])  # one network for both
