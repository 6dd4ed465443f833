"""What the text of chapter 7 claims."""

from inspect import signature

from cnnprune_utils import fit
from cnnprune_utils.loop import TargetMissed

by_validation = rank(taylor(baseline, splits.validation))["rank"]  # the list of chapter 3
assert ranks.index[ranks["rank"] != by_validation].tolist() == [0, 13]  # 0.0 and 4.7 have changed places
assert (promised["measured together"] - promised["sum, each measured alone"])[:5].abs().max() < 0.005  # one line
assert (promised["measured together"] > promised["sum, each measured alone"])[5:].all()  # from the sixth on
assert 2.9 < promised.loc[8, "measured together"] / promised.loc[8, "sum, each measured alone"] < 3.1
assert 0.2 < promised.loc[8, "sum, each measured alone"] < 0.3
assert promised["sum of the slopes"].max() < 0.05 and promised["measured together"].diff()[8] > 0.4
assert abs(hand_slopes[1, 1]) > 50 * abs(hand_slopes[0, 1])
assert pairs["difference"].idxmax() == "0 and 7" and pairs["difference"].idxmin() == "3 and 7"
assert 2.5 < pairs.loc["0 and 7", "together"] / pairs.loc["0 and 7", "sum"] < 3
assert pairs.loc["3 and 7", "together"] < pairs.loc["3 and 7", "sum"]
with torch.no_grad():  # on many images filters 3 and 7 pull opposite ways
    targets = scored.subset(500).targets
    before, *closed = (
        torch.nn.functional.cross_entropy(outputs("network.4", *gone), targets, reduction="none")
        for gone in ((), (3,), (7,))
    )
    assert ((closed[0] - before) * (closed[1] - before) < 0).double().mean() > 0.4
bend = 16 * float(torch.sigmoid(torch.tensor(8.0)) * torch.sigmoid(torch.tensor(-8.0)))  # of each pair of gates
assert abs(bend - 0.0054) < 5e-5 and abs(2 * 0.00134 + 0.5 * 4 * bend - 0.0134) < 1e-4
assert once[:6] == gone[:6] and once[6:] != gone[6:]
assert plans[10].n_filters == len(gone) == 10
won = history["accuracy_after"] - history["accuracy_before"]
lost = history["accuracy_after"].shift() - history["accuracy_before"]
assert won[5:].sum() > 0.5 * lost[5:].sum()  # where cuts hurt, updates win much of it back
assert lost.idxmax() >= 7 and won[lost.idxmax()] > 0.5 * lost.max()  # the deepest cut comes late
assert lost[1:4].max() < 0.005  # dead filters
assert (
    0.002 < history["accuracy_after"][0] - history["accuracy_after"][3] < 0.01
)  # nothing to win yet, half a point lost
assert shares["network.2"] > 1.9 * max(shares["network.0"], shares["network.4"])
assert rank(scores, macs_penalty=1e-3, macs=shares)["rank"].equals(ranks["rank"])
assert abs(priced.set_index(["layer", "filter"])["normalized"]["network.4", 7] - 0.094) < 0.002
assert by_price.loc[6, 0].equals(by_price.loc[6, 3])
seven, eight = by_price.loc[7], by_price.loc[8]
assert seven.loc[3, "MACs"] < 0.82 * seven.loc[0, "MACs"]
assert abs(seven.loc[3, "accuracy (%)"] - seven.loc[0, "accuracy (%)"]) < 0.2
assert eight.loc[3, "accuracy (%)"] > eight.loc[0, "accuracy (%)"] + 5 and eight.loc[3, "MACs"] < eight.loc[0, "MACs"]
assert eight.loc[3, "parameters"] > eight.loc[0, "parameters"] and 7 not in lowest(priced, 8).remove["network.4"]
assert budgets["parameters"].iloc[0] <= 23_800 and budgets["MACs"].iloc[1] <= 150_000
assert accuracy(baseline) - budgets["accuracy (%)"].iloc[2] <= 1 and budgets["filters removed"].iloc[2] == 4
assert "7880" in str(refusals[0]) and isinstance(refusals[1], TargetMissed)
assert parameters(refusals[1].closest.network) == 47_222
tuned = checkpoint("tuned").to(device)
assert parameters(tuned) == 23_617 and accuracy(baseline) - accuracy(tuned) < 1
assert (-path["parameters"].diff()).dropna().tolist() == [28, 37, 7850]
assert 17 < 100 * (path["accuracy_after"][7] - path["accuracy_after"][9]) < 19
assert 17 < accuracy(quarter[2].network) - accuracy(quarter[1].network) < 19.5
assert max(parameters(found.network) for found in (*quarter.values(), by_gates)) <= 15_800
assert path["accuracy_after"][8] - accuracy(by_gates.network) / 100 < 0.005  # the ninth, 4.3, goes for nothing
assert by_gates.plan.n_filters == 9 and 3 in by_gates.plan.remove["network.4"]
eight = {name: set(filters) for name, filters in eight_gone.plan.remove.items()}
assert eight["network.4"] ^ {*by_gates.plan.remove["network.4"]} == {3}
assert drowned.loc[drowned["layer"] == "network.2", "rank"].max() == 3  # all of it before the dead filter of network.4
four_free, four_drowned = (accuracy(baseline) - accuracy(mask(baseline, lowest(r, 4))) for r in (ranks, drowned))
assert four_free < 0.1 and 8.5 < four_drowned < 9.5

assert not_added["network.4"] < 1e-4 and not_added["network.2"] > 0.2  # sums behind network.4, and only there

assert (low < 0).all() and (high > 0).all()  # in every condition the interval contains zero
width = pd.Series(high - low, index=difference.columns)
low, high = pd.Series(low, index=width.index), pd.Series(high, index=width.index)
surest = width[width.index.str.startswith("10")].idxmin()
assert "2,000 updates, one cycle, rate 0.01" in surest and max(abs(low[surest]), high[surest]) < 1.5
again_between = as_above.loc[("again", "between")]
assert (again_between > as_above.loc[("once", "after")]).sum() == 3 and round(again_between[9], 1) == 38.2
ten = mean.loc[10]
assert (ten[("once", "between")] == ten.min(axis=1)).all()  # one old list with updates in between
lifted = (ten.loc[(2000, "one_cycle", 0.01)] - ten.loc[(300, "one_cycle", 0.002)]).round()
assert (lifted.min(), lifted.max()) == (6, 17)
one_list = (by_way.loc[(10, 2000, "one_cycle", 0.01)] - by_way.loc[(10, 300, "one_cycle", 0.002)]).loc["once"]
assert (ttest_1samp(one_list, 0, axis=1).confidence_interval().low > 0).all()
old_list = by_way.xs(("once", "between"), level=four).loc[10]
behind = [
    (ttest_1samp(by_way.xs(way, level=four).loc[10] - old_list, 0, axis=1).confidence_interval().low > 0).sum()
    for way in (("once", "after"), ("again", "between"))
]
assert behind == [4, 0] and len(old_list) == 5


assert signature(fit).parameters["batch_size"].default == 256 and 30 * 256 * 7 < len(splits.train) < 30 * 256 * 7.3
by_chapter_4 = lowest(rank(taylor(baseline, splits.validation)), 8)
assert round(accuracy(mask(baseline, by_chapter_4)), 2) == 76.22 and round(accuracy(eight_gone.network), 2) == 80.38
assert 2 ** len(ranks) == 16_384 and len(ranks) == 14
