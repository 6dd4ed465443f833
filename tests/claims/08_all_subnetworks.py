"""What the text of chapter 8 claims."""

from inspect import signature

from cnnprune_utils import compress

assert (
    2 ** (2 + 4) == 64
    and len(table) == 2**14
    and len(whole) == 3 * 15 * 255
    and table["emptied"].sum() == 2**14 - 11_475
)
assert by_taylor.loc[:4].equals(best.loc[1:4, "accuracy"].rename(None).rename_axis(None))  # Taylor finds the best
assert round(100 * by_taylor[9], 2) == 61.72 and round(100 * best.loc[9, "accuracy"], 2) == 80.56
assert percentile(table, one_shot[-1]) > 98 and 0.18 < best.loc[9, "accuracy"] - by_taylor[9] < 0.19
assert of_eight.median() < 1 / 5
assert [round(100 * row_of(table, plan)["accuracy"], 2) for plan in eights.values()] == [76.22, 65.36, 80.38, 84.06]
assert eights["chapter 4's list"] == lowest(rank(taylor(baseline, validation)), 8)
assert (
    eights["the same, scored on training images"] == one_shot[7] and round(percentile(table, one_shot[7]), 2) == 95.83
)
better = [(of_eight > row_of(table, plan)["accuracy"]).sum() for plan in eights.values()]
assert better == [10, 79, 6, 0] and len(of_eight) == 1896
assert (whole["removed"] == 5).sum() == 1772

# the order
assert round(median.loc["taylor", "all"], 2) == 0.96 and round(median.loc["fisher", "all"], 2) == 0.95
by_layer = {
    layer: rows.pivot_table(index="seed", columns="criterion", values="spearman")
    for layer, rows in correlations.groupby("layer")
}
assert by_layer["network.4"][["taylor", "fisher"]].min(axis=None) > 0.92
ahead_of = {
    layer: by_layer[layer].drop(columns=["taylor", "fisher"]).rsub(by_layer[layer]["taylor"], axis=0)
    for layer in by_layer
}
assert (ahead_of["all"] > 1e-6).all(axis=None)
assert (ahead_of["all, no norm"] > -1e-6).all(axis=None)
assert (ahead_of["all, no norm"] < 1e-6).sum(axis=None) == 1  # a tie
assert round(by_layer["all"]["taylor"].min(), 2) == 0.62

# the landings
interval = pd.DataFrame(ttest_1samp(differences, 0).confidence_interval(), index=["low", "high"], columns=[*pairs])
apart = [name for name in pairs if interval.loc["low", name] > 0 or interval.loc["high", name] < 0]
assert apart == ["taylor - random", "taylor - closed gates", "taylor, scored again - closed gates"]
assert len(pairs) == 11 and round(differences["taylor, scored again - closed gates"].mean()) == 27
assert round(-differences["taylor - random"].mean()) == 25 and round(differences["taylor - closed gates"].mean()) == 18
off = nine[["oracle", "oracle, no norm"]].agg(["min", "max"]).round()
assert off["oracle"].tolist() == [1, 26] and off["oracle, no norm"].tolist() == [3, 33]
assert round(lost.loc["oracle", 9]) == 10
few = choices_made[choices_made["removed"] <= 5].pivot_table(index="seed", columns="way", values="lost", aggfunc="max")
assert few["oracle, no norm"].max() < 0.005 and round(100 * few["oracle"].max()) == 12
assert (few["taylor"] < 0.005).sum() == 4 and round(100 * few["taylor"][6]) == 31
by_size = choices_made[choices_made["way"] == "taylor"].pivot_table(index="seed", columns="removed", values="lost")
assert by_size[1][6] == 0 and by_size[2][6] > 0.2  # the first wrong choice of network 6
assert 1 not in greedy(6).remove["network.4"] and 1 in greedy(7).remove["network.4"]
assert 1 not in best.loc[8, "network.4"]
assert row_of(table, greedy(7))["accuracy"] == best.loc[7, "accuracy"]
assert 0.035 < best.loc[8, "accuracy"] - row_of(table, greedy(8))["accuracy"] < 0.04
assert row_of(table, greedy(9))["accuracy"] == best.loc[9, "accuracy"]
assert price["x Taylor"]["all sub-networks"] < price["x Taylor"]["choose"]

# after an epoch
assert (plans.groupby("seed").size() == 200).all() and signature(compress).parameters["n_images"].default == 2000
never = plans[plans["after"] < 0.2]
assert never["before"].round(4).eq(0.1).all()
at_ten = plans[plans["before"].round(3) == 0.1].groupby("seed")["after"].agg(lambda after: (after < 0.2).mean())
assert 0 < at_ten[5] < 0.5 and at_ten[7] == 1
assert (len(never), len(plans), never["seed"].nunique(), plans["seed"].nunique()) == (42, 600, 2, 3)
begun = plans[plans["before"] > 0.12].groupby("seed")["after"].agg(["min", "max"])
apart = (100 * (begun["max"] - begun["min"])).round()
assert (apart.min(), apart.max()) == (6, 9)
not_at_ten = plans[plans["before"].round(4) != 0.1].groupby("seed")["after"].agg(["min", "max"])
assert (100 * (not_at_ten["max"] - not_at_ten["min"])).round().agg(["min", "max"]).tolist() == [6, 10]
learned = plans[plans["after"] > 0.2].groupby("seed")["after"].agg(["min", "max"])
spread = (100 * (learned["max"] - learned["min"])).round()
assert (spread.min(), spread.max()) == (6, 15)
assert (plans["after"].between(0.2, 0.77)).sum() == 3 and plans["after"].max() < 0.89  # the picture's description
assert (plans.groupby("seed")["before"].max() - plans.groupby("seed")["before"].min() > 0.6).all()
better_after = by_network["better after than the best before"]
assert (better_after[["network 5", "network 7"]] <= 6).all() and 80 < better_after["network 6"] < 120
assert (by_network["rank correlation"] > 0.3).all()
gains = pd.DataFrame({"low": low, "high": high}, index=gained.columns)
without, with_updates, updates_alone = gains.iloc[:3], gains.iloc[3:6], gains.iloc[6]
assert (without["low"] > 0).all() and (gained.iloc[:, :3].mean() > 25).all()
assert (with_updates["low"] < 0).all() and (with_updates["high"] > 0).all()
assert updates_alone["low"] > 8

# 100 images
assert (believed["on the 100 (%)"] > believed["on all 5,000 (%)"] + 3).all()
whole, few = (of[of["removed"] == 8].set_index(["network.0", "network.2", "network.4"]) for of in (table, hundred))
surplus = 100 * (few["accuracy"] - whole["accuracy"])
surplus = surplus[[len(a) < 2 and len(b) < 4 and len(c) < 8 for a, b, c in surplus.index]]  # no layer is empty
assert len(surplus) == 1896 and round(surplus.mean(), 1) == 0.3
assert round(believed.loc[8, "on the 100 (%)"] - believed.loc[8, "on all 5,000 (%)"], 1) == 6.6
assert abs(believed.loc[0, "on the 100 (%)"] - 94) < 0.1
assert (believed["on all 5,000 (%)"] == believed["the best (%)"])[[6, 7]].all()
assert believed["on all 5,000 (%)"][8] < believed["the best (%)"][8] - 2
