"""What the text of chapter 8 claims."""

assert len(table) == 2**14 and len(whole) == 3 * 15 * 255 and table["emptied"].sum() == 2**14 - 11_475
assert (taylor.loc[:4] == best["accuracy"].loc[:4]).all()  # up to four, Taylor finds the best
assert best.loc[9, "accuracy"] > 0.8 and 0.58 < taylor[9] < 0.65 and rivals["accuracy"].median() < 0.15
assert landed.loc["taylor", 9] > 98 and 0.18 < best.loc[9, "accuracy"] - taylor[9] < 0.19
assert landed.drop(["magnitude", "random"]).min(axis=None) > 90 and landed.loc["magnitude"].min() > 80
slopes, others = ["taylor", "fisher"], ["activation_mean", "activation_std", "apoz", "magnitude", "random"]
assert (whole["removed"] == 5).sum() == 1772
assert percentiles.loc["taylor", :4].min() > 99 and 0.3 < lost.loc["taylor", 9] < 0.35
at_nine = studies[studies["removed"] == 9].pivot_table(index="seed", columns="way", values=["accuracy", "percentile"])
assert (at_nine["percentile"]["taylor"] < 2).sum() == 1
assert (at_nine["accuracy"]["taylor, scored again"] > at_nine["accuracy"]["taylor"]).sum() == 3
same = studies[studies["way"].isin(["oracle", "oracle_loss"])].pivot_table(index=["seed", "removed"], columns="way")
assert (same["accuracy"]["oracle"] == same["accuracy"]["oracle_loss"]).all()
assert lost.loc["taylor, scored again", 6] > lost.loc["taylor", 6]
assert 0.03 < lost.loc["taylor", 9] - lost.loc["taylor, scored again", 9] < 0.1
assert lost.loc[slopes, 5].max() < lost.loc[others, 5].min()
assert lost.loc[["activation_mean", "activation_std"], 9].max() < lost.loc["taylor", 9]
assert abs(lost.loc["oracle", 9] - lost.loc["taylor", 9]) < 0.02
assert 0.2 < lost.loc["oracle, no norm", 9] < 0.22
assert lost.loc["oracle, no norm", 9] < lost.loc["oracle", 9]
assert lost.loc["closed gates"].max() < 0.06 and lost.loc["choose"].max() < 0.03
worst = studies.groupby("way")["lost"].max()
assert 0.14 < worst["closed gates"] < 0.16 and 0.07 < worst["choose"] < 0.09
assert percentiles.loc["choose"].min() > 99 and percentiles.loc["all sub-networks"].min() < 99
eight = one_shot["taylor"][7]
in_chapter_4 = eights["chapter 4's plan"]
assert eight.remove == {"network.2": (2, 3), "network.4": (0, 1, 2, 4, 5, 7)}
assert abs(row_of(table, in_chapter_4)["accuracy"] - 0.762) < 0.005
assert row_of(table, in_chapter_4)["accuracy"] - row_of(table, eight)["accuracy"] > 0.1
assert pairs["surprise"].idxmax() == "0 and 7" and pairs["both"]["0 and 7"] > 3 * pairs["sum"]["0 and 7"]
assert pairs["surprise"].idxmin() == "3 and 7" and abs(pairs["both"]["3 and 7"] - alone[3]) < 0.002
assert row_of(table, greedy[8])["accuracy"] == best.loc[9, "accuracy"]
assert len(set(on_ours[5])) == 1 and on_ours.loc["choose", 5] < 100 * best.loc[5, "accuracy"] - 0.3
assert 0.035 < best.loc[8, "accuracy"] - row_of(table, greedy[7])["accuracy"] < 0.04
points = price["points lost"]
assert 6 < points["taylor"] / points["closed gates"] < 9 and 1.7 < points["closed gates"] / points["choose"] < 2.3
assert price["x Taylor"]["closed gates"] < price["x Taylor"]["choose"] > price["x Taylor"]["all sub-networks"]
assert points.idxmin() == "all sub-networks"
assert 4.5 < gained["8"].mean() < 5 and (gained["8"] == gained["all"]).all() and gained["4"].min() < -6
assert gained["8"].between(6, 10).sum() == 3 and gained["8"].between(-0.5, 0).sum() == 2
assert (interval["low"] < 0).all() and (interval["high"] > 0).all()  # five networks cannot tell
assert (after.min(axis=1) > nine_gone.loc[0].max(axis=1)).all()  # fifty updates, against any list without them
assert (believed["on the 100 (%)"] > believed["on all 5,000 (%)"] + 3).all()
promised, kept_of_it = (believed[column][0] - believed[column][5] for column in believed.columns[:2])
assert abs(promised - 1) < 0.1 and kept_of_it > 4 and abs(believed.loc[0, "on the 100 (%)"] - 94) < 0.1
assert (believed["on all 5,000 (%)"].loc[[5, 6]] < 100 * taylor.loc[[5, 6]]).all()

assert round(median.loc["taylor", "all"], 2) == 0.96 and round(median.loc["fisher", "all"], 2) == 0.95
by_layer = {
    layer: rows.pivot_table(index="seed", columns="criterion", values="spearman")
    for layer, rows in correlations.groupby("layer")
}
assert by_layer["network.4"][["taylor", "fisher"]].min(axis=None) > 0.925
ahead = {
    layer: by_layer[layer].drop(columns=["taylor", "fisher"]).rsub(by_layer[layer]["taylor"], axis=0)
    for layer in by_layer
}
assert (ahead["all"] > 1e-6).all(axis=None)
assert (ahead["all, no norm"] > -1e-6).all(axis=None) and (ahead["all, no norm"] < 1e-6).sum(axis=None) == 1  # a tie
assert (by_layer["all, no norm"]["taylor"] - by_layer["all"]["taylor"]).median() < 0.02
assert round(by_layer["all"]["taylor"].min(), 2) == 0.62
