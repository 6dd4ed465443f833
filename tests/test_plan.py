"""Ranks and plans: which filters leave, counted exactly."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_networks import PROPERTY

from cnnprune_utils.plan import Plan, lowest, per_layer, rank, turns

SCORES = {"b": torch.tensor([3.0, 4.0]), "a": torch.tensor([0.0, 1.0, 2.0, 2.0])}

layer_scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=5).map(torch.tensor)
scores_of_layers = st.dictionaries(st.sampled_from(["conv10", "conv2", "body.0"]), layer_scores, min_size=1)
plans = st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 99), max_size=5)).map(Plan)


# ranks


def test_rank_divides_by_the_norm_of_the_layer_and_puts_the_lowest_first() -> None:
    ranks = rank(SCORES)
    assert list(ranks.columns) == ["layer", "filter", "score", "normalized", "rank"]
    assert ranks["layer"].tolist() == ["b", "b", "a", "a", "a", "a"]
    assert ranks["filter"].tolist() == [0, 1, 0, 1, 2, 3]
    assert ranks["score"].tolist() == [3, 4, 0, 1, 2, 2]
    assert ranks["normalized"].tolist() == pytest.approx([0.6, 0.8, 0, 1 / 3, 2 / 3, 2 / 3])
    assert ranks["rank"].tolist() == [2, 5, 0, 1, 3, 4]


def test_without_normalization_the_raw_scores_are_compared() -> None:
    ranks = rank(SCORES, normalize=None)
    assert ranks["normalized"].tolist() == ranks["score"].tolist()
    assert ranks["rank"].tolist() == [4, 5, 0, 1, 2, 3]


@PROPERTY
@given(scores_of_layers)
def test_ranks_count_from_zero_without_gaps_in_the_order_of_the_scores(scores: dict[str, torch.Tensor]) -> None:
    """No NaN from a dead layer, and every filter has a rank of its own."""
    ranks = rank(scores)
    assert sorted(ranks["rank"]) == list(range(sum(len(s) for s in scores.values())))
    assert not ranks.isna().any(axis=None)
    assert ranks.sort_values("rank")["normalized"].is_monotonic_increasing


def test_the_norm_of_each_layer_is_one_or_the_layer_is_dead() -> None:
    """0 / 0 would be NaN."""
    ranks = rank({**SCORES, "dead": torch.zeros(3)})
    norms = (ranks["normalized"] ** 2).groupby(ranks["layer"]).sum()
    assert norms.to_dict() == pytest.approx({"a": 1, "b": 1, "dead": 0})


def test_scores_on_another_scale_rank_alike() -> None:
    assert rank({name: s * 1e-6 for name, s in SCORES.items()})["rank"].equals(rank(SCORES)["rank"])


def test_equal_scores_rank_in_the_order_of_layers_and_filters() -> None:
    ranks = rank({"z": torch.ones(20), "a": torch.ones(20)})
    assert ranks["rank"].tolist() == list(range(40))
    assert lowest(ranks, 22) == Plan({"z": range(19), "a": (0, 1, 2)})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_layer(bad: float) -> None:
    message = r"the scores of 'conv' are not one finite number per filter: \[1\.0, (nan|inf)\]\. Is the model's loss"
    with pytest.raises(ValueError, match=message):
        rank({"conv": torch.tensor([1.0, bad])})


def test_rank_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="normalize='l1' is unknown; it can be 'l2', 'mean' or None"):
        rank(SCORES, normalize="l1")
    with pytest.raises(ValueError, match=r"no scores to rank: .* structure\.skipped_layers says why"):
        rank({})
    with pytest.raises(ValueError, match="'conv' are not one finite number per filter"):
        rank({"conv": torch.ones(2, 2)})


def test_a_penalty_takes_the_share_of_the_macs_off_and_changes_the_order() -> None:
    """ "FLOPs regularized pruning": normalized - lambda * share, by hand."""
    ranks = rank(SCORES, macs_penalty=0.8, macs={"a": 0.1, "b": 0.5, "elsewhere": 0.9})
    assert ranks["score"].tolist() == [3, 4, 0, 1, 2, 2]
    by_hand = [0.6 - 0.4, 0.8 - 0.4, 0 - 0.08, 1 / 3 - 0.08, 2 / 3 - 0.08, 2 / 3 - 0.08]
    assert ranks["normalized"].tolist() == pytest.approx(by_hand)
    assert ranks["rank"].tolist() == [1, 3, 0, 2, 4, 5]
    assert rank(SCORES)["rank"].tolist() == [2, 5, 0, 1, 3, 4]


def test_without_normalization_the_penalty_is_taken_off_the_raw_scores() -> None:
    ranks = rank(SCORES, normalize=None, macs_penalty=10, macs={"a": 0.1, "b": 0.5})
    assert ranks["normalized"].tolist() == pytest.approx([-2, -1, -1, 0, 1, 1])


def test_a_dead_layer_pays_too() -> None:
    ranks = rank({**SCORES, "dead": torch.zeros(2)}, macs_penalty=1, macs={"a": 0.0, "b": 0.0, "dead": 0.25})
    assert ranks["normalized"].tolist()[-2:] == [-0.25, -0.25]


@pytest.mark.parametrize("normalize", ["l2", None])
@pytest.mark.parametrize("none", [0, 0.0, np.float32(0)])
def test_no_penalty_changes_no_bit_and_asks_for_no_macs(normalize: str | None, none: float) -> None:
    scores = {**SCORES, "minus": torch.tensor([-1.0, -0.0, 1e-30])}
    ranks = rank(scores, normalize=normalize)
    pd.testing.assert_frame_equal(rank(scores, normalize=normalize, macs_penalty=none), ranks, check_exact=True)
    with_macs = rank(scores, normalize=normalize, macs_penalty=none, macs={"a": 0.5})
    pd.testing.assert_frame_equal(with_macs, ranks, check_exact=True)


@pytest.mark.parametrize(("wrong", "error"), [(-0.1, ValueError), (torch.nan, ValueError), (torch.inf, ValueError),
                                              (True, TypeError), ("1e-3", TypeError), (None, TypeError)])  # fmt: skip
def test_a_penalty_is_a_finite_number_from_zero_up(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"macs_penalty must be a (finite )?number(, at least 0)?, not {wrong!r}"):
        rank(SCORES, macs_penalty=wrong, macs={"a": 0.1, "b": 0.5})


@pytest.mark.parametrize(
    ("macs", "without"),
    [
        (None, "b, a"),
        ({"a": 0.1}, "b"),
        ({"a": 0.1, "b": torch.nan}, "b"),
        ({"a": 14_112, "b": 0.1}, "a"),  # MACs themselves
        ({"a": -0.1, "b": 0.1}, "a"),
    ],
)
def test_a_penalty_without_the_share_of_every_layer_says_which_and_where_to_get_them(macs: Any, without: str) -> None:
    message = rf"macs gives none for {without}\. Pass macs=metrics\.macs_per_filter\(model, images\)\."
    with pytest.raises(ValueError, match=message):
        rank(SCORES, macs_penalty=0.1, macs=macs)


def test_ranking_changes_no_score() -> None:
    scores = copy.deepcopy(SCORES)
    rank(scores)
    assert all(torch.equal(scores[name], SCORES[name]) for name in SCORES)


# lowest


@PROPERTY
@given(scores_of_layers, st.integers(0, 15), st.integers(0, 3))
def test_lowest_removes_exactly_as_many_as_asked_or_says_how_many_it_can(
    scores: dict[str, torch.Tensor], n_filters: int, keep_at_least: int
) -> None:
    """Ties remove no more, floors hold, and what is asked for is what is achieved."""
    ranks = rank(scores)
    free = {name: max(0, len(s) - keep_at_least) for name, s in scores.items()}
    if n_filters > sum(free.values()):
        with pytest.raises(
            ValueError, match=f"cannot remove {n_filters} of .* at most {sum(free.values())} can be removed"
        ):
            lowest(ranks, n_filters, keep_at_least=keep_at_least)
        return
    plan = lowest(ranks, n_filters, keep_at_least=keep_at_least)
    assert plan.n_filters == n_filters
    assert lowest(ranks.sample(frac=1, random_state=0), n_filters, keep_at_least=keep_at_least) == plan
    removed = {(name, k) for name, filters in plan.remove.items() for k in filters}
    is_removed = pd.Series([row in removed for row in zip(ranks["layer"], ranks["filter"], strict=True)])
    for name, n_free in free.items():
        filters = plan.remove.get(name, ())
        assert len(filters) <= n_free
        in_layer = ranks["layer"] == name
        if len(filters) < n_free:  # the floor protects nothing here: all that stay rank above all that leave, anywhere
            stays = ranks["rank"][in_layer & ~is_removed]
            leaves = ranks["rank"][is_removed]
            assert leaves.empty or stays.min() > leaves.max()


def test_a_filter_that_the_floor_protects_stays_and_the_next_one_leaves() -> None:
    ranks = rank({"low": torch.tensor([1.0, 1.0]), "high": torch.tensor([5.0, 6.0, 7.0])}, normalize=None)
    assert lowest(ranks, 2) == Plan({"low": (0,), "high": (0,)})
    assert lowest(ranks, 2, keep_at_least=0) == Plan({"low": (0, 1)})
    assert lowest(ranks, 1, keep_at_least=2) == Plan({"high": (0,)})


def test_asking_for_all_filters_names_what_was_asked_and_what_is_possible() -> None:
    message = "cannot remove 6 of 6 filters: with keep_at_least=1 in each of 2 layers, at most 4 can be removed"
    with pytest.raises(ValueError, match=message):
        lowest(rank(SCORES), 6)
    assert lowest(rank(SCORES), 6, keep_at_least=0).n_filters == 6


def test_removing_none_is_a_plan_that_removes_none() -> None:
    assert lowest(rank(SCORES), 0) == Plan({})
    assert Plan({}).n_filters == 0


@pytest.mark.parametrize("n_filters", [0.5, 2.0, True, "2"])
def test_a_number_of_filters_is_whole(n_filters: Any) -> None:
    with pytest.raises(TypeError, match="n_filters must be a whole number of filters, not"):
        lowest(rank(SCORES), n_filters)
    with pytest.raises(TypeError, match="keep_at_least must be a whole number of filters, not"):
        lowest(rank(SCORES), 1, keep_at_least=n_filters)


def test_numbers_of_numpy_and_torch_are_whole_numbers_too() -> None:
    assert lowest(rank(SCORES), np.int64(2)) == lowest(rank(SCORES), torch.tensor(2)) == lowest(rank(SCORES), 2)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n_filters must be at least 0, not -1"):
        lowest(rank(SCORES), -1)
    with pytest.raises(ValueError, match="keep_at_least must be at least 0, not -1"):
        lowest(rank(SCORES), 1, keep_at_least=-1)


# lowest: multiples


def kept(ranks: pd.DataFrame, plan: Plan) -> dict[str, int]:
    """How many filters each layer keeps."""
    return {str(name): n - len(plan.remove.get(str(name), ())) for name, n in ranks["layer"].value_counts().items()}


wide_scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=12).map(torch.tensor)
scores_of_wide_layers = st.dictionaries(st.sampled_from(["a", "b", "c"]), wide_scores, min_size=1)


@PROPERTY
@given(scores_of_wide_layers, st.integers(0, 30), st.integers(0, 3), st.integers(1, 5))
def test_multiples_hold_or_nothing_leaves(
    scores: dict[str, torch.Tensor], n_filters: int, keep_at_least: int, multiple_of: int
) -> None:
    ranks = rank(scores)
    try:
        plan = lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=multiple_of)
    except ValueError:
        plan = Plan({})
    assert plan.n_filters <= n_filters
    for name, n in kept(ranks, plan).items():
        assert n == len(scores[name]) or (n % multiple_of == 0 and n >= keep_at_least)
        assert plan == per_layer(ranks, {layer: len(filters) for layer, filters in plan.remove.items()})


@PROPERTY
@given(scores_of_wide_layers, st.integers(0, 30), st.integers(0, 3), st.integers(1, 5))
def test_no_further_step_would_fit(
    scores: dict[str, torch.Tensor], n_filters: int, keep_at_least: int, multiple_of: int
) -> None:
    """Nothing that is asked for and possible stays; where it is impossible, the error says what is possible."""
    ranks = rank(scores)
    possible = {
        name: [n for n in range(max(1, len(s) - keep_at_least + 1)) if n == 0 or (len(s) - n) % multiple_of == 0]
        for name, s in scores.items()
    }
    at_most, least = sum(n[-1] for n in possible.values()), min((n[1] for n in possible.values() if n[1:]), default=0)
    if n_filters > at_most:
        with pytest.raises(ValueError, match=f"cannot remove {n_filters} of .* at most {at_most} can be removed"):
            lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=multiple_of)
    elif 0 < n_filters < least:
        with pytest.raises(ValueError, match=f"cannot remove {n_filters} of .* at least {least} go from a layer"):
            lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=multiple_of)
    else:
        plan = lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=multiple_of)
        removed = {name: len(plan.remove.get(name, ())) for name in scores}
        for name, numbers in possible.items():
            assert removed[name] in numbers
            assert not [n for n in numbers if 0 < n - removed[name] <= n_filters - plan.n_filters]


@PROPERTY
@given(scores_of_wide_layers, st.data(), st.integers(0, 3), st.integers(1, 5))
def test_multiples_remove_what_the_plain_plan_rounds_down_to(
    scores: dict[str, torch.Tensor], data: st.DataObject, keep_at_least: int, multiple_of: int
) -> None:
    ranks = rank(scores)
    n_filters = data.draw(st.integers(0, sum(max(0, len(s) - keep_at_least) for s in scores.values())))
    plain = lowest(ranks, n_filters, keep_at_least=keep_at_least)
    try:
        plan = lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=multiple_of)
    except ValueError:
        plan = Plan({})
    if not plan.n_filters:
        return
    for name, filters in plain.remove.items():
        fits = [n for n in range(1, len(filters) + 1) if (len(scores[name]) - n) % multiple_of == 0]
        assert len(plan.remove.get(name, ())) >= max(fits, default=0)


@PROPERTY
@given(scores_of_wide_layers, st.integers(0, 30), st.integers(0, 3))
def test_multiples_of_one_are_the_plain_plan(
    scores: dict[str, torch.Tensor], n_filters: int, keep_at_least: int
) -> None:
    """Against the plain rule written down once more: from the lowest rank up, where the floor allows it."""
    ranks = rank(scores)
    free = {name: max(0, len(s) - keep_at_least) for name, s in scores.items()}
    n_filters = min(n_filters, sum(free.values()))
    remove: dict[str, list[int]] = {name: [] for name in scores}
    for _, row in ranks.sort_values("rank").iterrows():
        if sum(map(len, remove.values())) < n_filters and len(remove[row["layer"]]) < free[row["layer"]]:
            remove[row["layer"]].append(row["filter"])
    assert lowest(ranks, n_filters, keep_at_least=keep_at_least, multiple_of=1) == Plan(
        {name: tuple(filters) for name, filters in remove.items()}
    )


def test_filters_leave_in_steps_of_a_multiple() -> None:
    scores = {"ten": torch.arange(10.0), "eight": torch.arange(8.0) + 4.5, "three": torch.zeros(3)}
    ranks = rank(scores, normalize=None)
    assert lowest(ranks, 2, multiple_of=4) == Plan({"ten": (0, 1)})  # 10 to 8; three stays whole
    assert lowest(ranks, 5, multiple_of=4) == Plan({"ten": (0, 1)})  # the next step has 4
    assert lowest(ranks, 6, multiple_of=4) == Plan({"ten": range(6)})
    assert lowest(ranks, 10, multiple_of=4) == Plan({"ten": range(6), "eight": range(4)})
    with pytest.raises(ValueError, match="with keep_at_least=1 and multiple_of=4, at least 2 go from a layer together"):
        lowest(ranks, 1, multiple_of=4)
    with pytest.raises(ValueError, match="multiple_of=4 in each of 3 layers, at most 10 can be removed"):
        lowest(ranks, 11, multiple_of=4)
    assert lowest(ranks, 10, multiple_of=4, keep_at_least=4) == lowest(ranks, 10, multiple_of=4)


def test_a_step_that_is_too_large_is_passed_over() -> None:
    ranks = rank({"low": torch.arange(8.0), "odd": torch.arange(9.0) + 10}, normalize=None)
    assert lowest(ranks, 3, multiple_of=4) == Plan({"odd": (0,)})
    assert lowest(ranks, 4, multiple_of=4) == Plan({"low": range(4)})


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-8, ValueError), (8.0, TypeError), (True, TypeError)])
def test_a_multiple_is_a_whole_number(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"multiple_of must be (at least 1|a whole number of filters), not"):
        lowest(rank(SCORES), 1, multiple_of=wrong)


# lowest: layers that are excluded


@PROPERTY
@given(scores_of_wide_layers, st.data(), st.integers(0, 3), st.integers(1, 3))
def test_excluded_layers_are_as_if_not_there(
    scores: dict[str, torch.Tensor], data: st.DataObject, keep_at_least: int, multiple_of: int
) -> None:
    ranks = rank(scores)
    exclude = data.draw(st.sets(st.sampled_from(sorted(scores)), max_size=len(scores) - 1))
    n_filters = data.draw(st.integers(0, 30))
    others = ranks[~ranks["layer"].isin(exclude)]
    outcomes = []
    for given_ranks, excluded in ((ranks, exclude), (ranks, exclude.__contains__), (others, ())):
        try:
            rules = {"keep_at_least": keep_at_least, "multiple_of": multiple_of}
            outcomes.append(str(lowest(given_ranks, n_filters, exclude=excluded, **rules)))
        except ValueError as error:
            outcomes.append(str(error).partition(": ")[2])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_names_to_exclude_are_checked() -> None:
    ranks = rank(SCORES)
    with pytest.raises(ValueError, match=r"cannot exclude c, d: there is no such layer\. There are: b, a\."):
        lowest(ranks, 1, exclude=["d", "a", "c"])
    assert lowest(ranks, 1, exclude="a") == lowest(ranks, 1, exclude=["a"]) == Plan({"b": (0,)})
    assert lowest(ranks, 2, exclude=lambda name: name == "b") == Plan({"a": (0, 1)})
    with pytest.raises(ValueError, match="in each of 1 layers, at most 1 can be removed"):
        lowest(ranks, 2, exclude={"a"})


# per_layer


def test_per_layer_removes_the_lowest_of_each_layer_named() -> None:
    ranks = rank(SCORES)
    assert per_layer(ranks, {"a": 2, "b": 1}) == Plan({"a": (0, 1), "b": (0,)})
    assert per_layer(ranks, {"a": 3}) == Plan({"a": (0, 1, 2)})
    assert per_layer(ranks, {"a": 0}) == per_layer(ranks, {}) == Plan({})
    assert per_layer(ranks, {"b": 2}).n_filters == 2  # a mask may empty a layer


def test_per_layer_says_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"no layer 'c' in the ranks\. There are: b, a\."):
        per_layer(rank(SCORES), {"c": 1})
    with pytest.raises(ValueError, match="cannot remove 3 filters of 'b': it has 2"):
        per_layer(rank(SCORES), {"b": 3})
    with pytest.raises(ValueError, match="the count of 'b' must be at least 0, not -1"):
        per_layer(rank(SCORES), {"b": -1})
    with pytest.raises(TypeError, match=r"the count of 'b' must be a whole number of filters, not 0\.5"):
        per_layer(rank(SCORES), {"b": 0.5})


def test_plans_name_the_layers_in_the_order_of_the_ranks() -> None:
    assert list(lowest(rank(SCORES), 4).remove) == ["b", "a"]
    assert list(per_layer(rank(SCORES), {"a": 1, "b": 1}).remove) == ["b", "a"]


def test_planning_changes_no_ranks() -> None:
    ranks = rank(SCORES)
    before = ranks.copy(deep=True)
    lowest(ranks, 3)
    per_layer(ranks, {"a": 1})
    pd.testing.assert_frame_equal(ranks, before)


# plans


@PROPERTY
@given(plans)
def test_a_plan_survives_json_pickle_and_copies(plan: Plan) -> None:
    copies = Plan.from_json(plan.to_json()), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), copy.copy(plan)
    for same in (*copies, eval(repr(plan))):
        assert same == plan
        assert hash(same) == hash(plan)
        assert list(same.remove) == list(plan.remove)
        assert same.n_filters == plan.n_filters == sum(map(len, plan.remove.values()))


def removed_from(rows: dict[str, list[int]], plan: Plan) -> dict[str, list[int]]:
    """What is left of numbered filters after a plan: the definition that ``then`` has to meet."""
    return {name: [x for k, x in enumerate(row) if k not in plan.remove.get(name, ())] for name, row in rows.items()}


few = st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(0, 9))).map(Plan)


@PROPERTY
@given(few, few, few)
def test_then_is_one_plan_after_the_other(first: Plan, second: Plan, third: Plan) -> None:
    rows = {name: list(range(40)) for name in "abc"}
    both = first.then(second)
    assert removed_from(rows, both) == removed_from(removed_from(rows, first), second)
    assert both.n_filters == first.n_filters + second.n_filters
    assert both.then(third) == first.then(second.then(third))
    assert first.then(Plan({})) == Plan({}).then(first) == first


def test_then_counts_in_the_first_networks_numbers() -> None:
    first, second = Plan({"a": (0, 2)}), Plan({"a": (0, 1), "b": (1,)})
    assert first.then(second) == Plan({"a": (0, 1, 2, 3), "b": (1,)})
    assert first.then(first) == Plan({"a": (0, 1, 2, 4)})
    assert (first, second) == (Plan({"a": (0, 2)}), Plan({"a": (0, 1), "b": (1,)}))
    with pytest.raises(TypeError, match=r"a plan is followed by another Plan, not by \{'a': \(0,\)\}"):
        first.then({"a": (0,)})


def test_plans_that_remove_the_same_filters_are_equal() -> None:
    plan = Plan({"a": (2, 0), "b": (1,)})
    same = Plan({"b": [1, 1], "c": (), "a": {0, 2}})
    assert plan == same
    assert hash(plan) == hash(same)
    assert len({plan, same}) == 1
    assert plan != Plan({"a": (0, 2)})
    assert plan != {"a": (0, 2), "b": (1,)}


@pytest.mark.parametrize(
    "filters",
    [[2, 0], range(0, 3, 2), {0, 2}, torch.tensor([0, 2]), np.array([2, 0]), (k for k in (0, 2)), map(int, "02")],
)
def test_filters_may_come_in_any_sequence_of_integers(filters: Any) -> None:
    plan = Plan({"a": filters})
    assert plan.remove["a"] == (0, 2)
    assert all(type(k) is int for k in plan.remove["a"])


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ((0.0,), "filter numbers of 'a' must be integers, not 0.0"),
        ((True, False), "filter numbers of 'a' must be integers, not True"),
        (torch.tensor([True, False]), "filter numbers of 'a' must be integers, not True"),
        (np.array([True, False]), "filter numbers of 'a' must be integers, not "),
        (torch.tensor([1.5]), "filter numbers of 'a' must be integers, not 1.5"),
        ("12", "filter numbers of 'a' must be integers, not '1'"),
        ((None,), "filter numbers of 'a' must be integers, not None"),
        (3, r"filters of 'a' must be a sequence such as \(0, 2\), not 3"),
    ],
)
def test_filters_that_are_no_integers_are_refused(filters: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Plan({"a": filters})


def test_negative_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="filter numbers of 'a' start at 0; -1 was given"):
        Plan({"a": (0, -1)})


@pytest.mark.parametrize("remove", [None, [("a", (0,))], {0: (1,)}, "a"])
def test_a_plan_is_made_from_layer_names_and_filters(remove: Any) -> None:
    with pytest.raises(TypeError, match="a plan is made from layer names and filters, such as"):
        Plan(remove)


def test_a_plan_cannot_be_changed() -> None:
    given = {"a": [0, 1]}
    plan = Plan(given)
    given["a"].append(2)
    given["b"] = [0]
    assert plan == Plan({"a": (0, 1)})
    with pytest.raises(FrozenInstanceError):
        plan.remove = {}
    with pytest.raises(TypeError, match="does not support item assignment"):
        plan.remove["a"] = ()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "{", '{"remove": 3}', '{"remove": {"a": 1}}', '{"remove": {"a": [0.5]}}',
             '{"remove": {"a": [-1]}}', '{"remove": {"a": "12"}}', '{"remove": {"a": [true]}}', '{"a": [1]}']
)  # fmt: skip
def test_text_that_is_no_plan_gets_an_error_that_shows_one(text: str) -> None:
    with pytest.raises(ValueError, match=r'^not a plan: .* A plan looks like \{"remove": \{"conv": \[0, 2\]\}\}\.'):
        Plan.from_json(text)


# Shares


def test_a_share_is_of_all_filters_rounded_down() -> None:
    ranks = rank(SCORES)
    assert [lowest(ranks, share=share).n_filters for share in (0, 0.3, 0.5, 0.67)] == [0, 1, 3, 4]
    hundred = rank({"a": torch.arange(1.0, 101)})
    assert lowest(hundred, share=0.29).n_filters == 29  # 0.29 * 100 is 28.999999999999996


def test_a_share_of_each_layer() -> None:
    ranks = rank({"a": torch.arange(1.0, 11), "b": torch.arange(4.0)})
    assert per_layer(ranks, 0.5) == per_layer(ranks, {"a": 5, "b": 2})
    assert per_layer(ranks, 0.0) == Plan({})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    for call in (lambda: lowest(rank(SCORES), share=share), lambda: per_layer(rank(SCORES), share)):
        with pytest.raises(ValueError, match="a share must lie between 0 and 1, not"):
            call()


def test_a_number_or_a_share_is_given() -> None:
    for both in ({}, {"n_filters": 1, "share": 0.1}):
        with pytest.raises(ValueError, match="give n_filters or share, one of them"):
            lowest(rank(SCORES), **both)


def test_the_mean_does_not_depend_on_width() -> None:
    """Two layers of alike filters: under l2 the wide one's score lower, under the mean they are equal."""
    scores = {"narrow": torch.ones(4), "wide": torch.ones(64)}
    l2, mean = (rank(scores, normalize=way).groupby("layer")["normalized"].first() for way in ("l2", "mean"))
    assert l2.to_dict() == pytest.approx({"narrow": 1 / 2, "wide": 1 / 8})
    assert mean.to_dict() == {"narrow": 1, "wide": 1}
    assert rank({"a": torch.zeros(3)}, normalize="mean")["normalized"].tolist() == [0, 0, 0]
    signed = rank({"a": torch.tensor([-1.0, 3.0])}, normalize="mean")["normalized"].tolist()
    assert signed == [-0.5, 1.5]


def test_turns_keep_shares_even() -> None:
    """The layer that keeps the largest share is next, whatever the ranks say."""
    ranks = rank({"a": torch.tensor([5.0, 6, 7, 8]), "b": torch.tensor([0.0, 1])}, normalize=None)
    order = [filters[0] for filters in turns(ranks, widths={"a": 4, "b": 2})]
    assert order == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    half_gone = rank({"a": torch.tensor([7.0, 8]), "b": torch.tensor([0.0, 1])}, normalize=None)
    assert [filters[0] for filters in turns(half_gone, widths={"a": 8, "b": 2})] == [("b", 0), ("a", 0)]
