"""`make studies`: what it measures for one network, and the files that it has made."""

from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch
from random_networks import assert_unchanged, one_thread, randomize, snapshot  # noqa: F401

from benchmarks import studies
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.shipped import study
from cnnprune_utils.criteria import CRITERIA, oracle
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, percentile, row_of
from cnnprune_utils.loop import Target, compress
from cnnprune_utils.plan import Plan, lowest, rank

WAYS = [*CRITERIA, "oracle, no norm", "taylor, scored again", "closed gates", "beam of 4", "choose", "all sub-networks"]


def cnn(seed: int = 0) -> CNN:
    return randomize(CNN((2, 3, 4), image_size=6, n_classes=3), seed)


def split(n: int = 60) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 1, 6, 6, generator=generator), torch.randint(3, (n,), generator=generator))


def test_correlations_are_with_the_oracle() -> None:
    """Over all filters, and in each layer."""
    table = studies.correlations(cnn(), split(), seed=0).set_index(["criterion", "layer"])["spearman"]
    assert list(table.index.unique("criterion")) == [name for name in CRITERIA if not name.startswith("oracle")]
    assert list(table.index.unique("layer")) == ["all", "network.0", "network.2", "network.4"]
    taylor, truth = (rank(criterion(cnn(), split())) for criterion in (CRITERIA["taylor"], oracle))
    last = taylor["layer"] == "network.4"
    places = [ranks.loc[last, "normalized"].rank() for ranks in (taylor, truth)]
    assert table["taylor", "network.4"] == pytest.approx(places[0].corr(places[1]))


def test_landings_are_among_all_plans_of_their_size() -> None:
    model = cnn()
    before = snapshot(model)
    judged = all_subnetworks(model, split())
    landed = studies.landings(studies.ways(model, split(), 0), judged, range(1, 5))
    assert landed["way"].unique().tolist() == WAYS
    assert landed.groupby("way", sort=False)["removed"].apply(list).tolist() == [[1, 2, 3, 4]] * len(WAYS)
    third = landed[landed["removed"] == 3].set_index("way")
    plan = lowest(rank(CRITERIA["fisher"](model, split())), 3)
    assert third.loc["fisher", "accuracy"] == row_of(judged, plan)["accuracy"]
    assert third.loc["fisher", "percentile"] == percentile(judged, plan)
    assert (third["best"] == best_of_each_size(judged).loc[3, "accuracy"]).all()
    assert third.loc["all sub-networks", "percentile"] == 100  # decided and judged on the same images here
    assert (landed.groupby("way")["seconds"].diff().fillna(0) >= 0).all()  # the smaller plans' included
    assert_unchanged(model, before)


@pytest.mark.parametrize("seed", range(2))
def test_a_beam_of_one_is_the_greedy_oracle(seed: int) -> None:
    model, images = cnn(seed), split()
    greedy = compress(
        model, Splits(images, images, images), target=Target(filters=3), update=0, shortlist=None, n_images=60
    )
    assert next(islice(studies.beam(model, images, 1), 3, None)) == greedy.plan


def test_a_wide_beam_finds_the_lowest_loss() -> None:
    """It ends where every layer has one filter left."""
    model, images = randomize(CNN((2, 2, 2), image_size=6, n_classes=3)), split()
    plans = list(studies.beam(model, images, 100))
    assert [plan.n_filters for plan in plans] == list(range(4))
    table = all_subnetworks(model, images)
    lowest_loss = table[~table["emptied"]].groupby("removed")["loss"].min()
    for plan in plans:
        assert row_of(table, plan)["loss"] == pytest.approx(lowest_loss[plan.n_filters], rel=1e-5)
    assert plans[0] == Plan({})


def test_shortlists_compare_what_compress_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "SHORTLISTS", (1, None))
    monkeypatch.setattr(studies, "UPDATES", (0, 2))
    model, splits = cnn(), Splits(split(), split(), split())
    table = studies.shortlists(model, splits, 2)
    assert table.groupby(["updates", "shortlist"], sort=False)["removed"].apply(list).to_dict() == {
        (0, "1"): [1, 2],
        (0, "all"): [1, 2],
        (2, "1"): [1, 2],
        (2, "all"): [1, 2],
    }
    greedy = compress(model, splits, target=Target(filters=2), update=0, shortlist=None).history
    found = table[(table["updates"] == 0) & (table["shortlist"] == "all")]
    assert found["accuracy"].tolist() == greedy["accuracy_after"][1:].tolist()


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    table = pd.DataFrame({"layer": ["all", "a, b"], "spearman": [0.5, -1.0]})
    studies.write(table, tmp_path / "new" / "table.csv", "one\ntwo")
    lines = (tmp_path / "new" / "table.csv").read_text().splitlines()
    assert lines[0] == "# python -m benchmarks.studies"
    assert lines[2:4] == ["# one", "# two"]
    assert torch.__version__ in lines[1]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "table.csv", comment="#"), table)


def test_the_files_hold_five_networks_and_every_way() -> None:
    correlations, choices, shortlists = (study(name) for name in studies.SETTINGS)
    assert correlations["seed"].unique().tolist() == choices["seed"].unique().tolist() == list(studies.SEEDS)
    assert correlations.groupby("criterion").size().eq(5 * 4).all()
    assert correlations["spearman"].between(-1, 1).all()
    made = choices["way"].unique().tolist()
    assert made == [way for way in WAYS if way in made]  # a criterion that is newer than the file is not in it
    assert {"taylor", "oracle", *WAYS[len(CRITERIA) :]} <= set(made)
    assert choices.groupby("way").size().eq(5 * len(studies.SIZES)).all()
    assert shortlists.groupby(["updates", "shortlist"]).size().eq(5 * len(studies.SIZES)).all()
    assert len(shortlists) == 5 * len(studies.SIZES) * len(studies.SHORTLISTS) * len(studies.UPDATES)
    assert (choices["accuracy"] <= choices["best"]).all()
    assert choices["percentile"].between(0, 100).all()
