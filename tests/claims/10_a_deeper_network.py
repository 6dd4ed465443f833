"""What the text of chapter 10 claims."""

from inspect import signature

from torch import nn
from torchvision.models.vgg import cfgs

from benchmarks.voting import one_vote as voted_in_the_study

voted_by = voted_in_the_study(residual, few.train)

# the network
convolutions = [module for module in residual.modules() if isinstance(module, nn.Conv2d)]
assert len(convolutions) == 15 and len(layers) == 9
norms = [module for module in residual.modules() if isinstance(module, nn.BatchNorm2d)]
assert len(norms) == len(convolutions)
assert list(kinds.values()).count("stream") == 3 and (costs["convolutions"] == [3, 1, 1, 1, 3, 1, 1, 3, 1]).all()
streams = [name for name, kind in kinds.items() if kind == "stream"]
for stage in range(3):  # in each stage a filter of its stream costs most, in both
    of_stage = costs[[name.startswith(f"stages.{stage}") or (stage == 0 and name == "stem.0") for name in costs.index]]
    assert (of_stage.drop(columns=["filters", "convolutions"]).idxmax() == streams[stage]).all()
assert costs["% of the MACs"].idxmax() == streams[0] and costs["% of the parameters"].idxmax() == streams[2]
even = {share: ResNet([round(share * width) for width in (16, 32, 64)]) for share in (0.5, 0.70710678)}
assert all(abs(macs(network) / macs(residual) - share**2) < 0.015 for share, network in even.items())

# the norm
ordinary, best = 1 / B.norm(), 1 / A.norm()
assert ordinary < best and (B == 1).sum() == 12
assert all(abs(macs(network) / macs(residual) - 0.25) < 0.005 for network in quarters.values())
late = [name for name in layers if name.startswith("stages.2")]
assert [left["norm"][name] for name in late] == [7, 6, 12] and left["norm"]["stem.0"] == 13
assert {left["mean"][name] for name in late} == {28, 29, 32}
for width in (16, 32, 64):  # a layer's mean score is about one over the root of its width, in units of the norm
    scores = taylor(residual, few.train)
    same = [values for values in scores.values() if len(values) == width]
    assert all(0.7 < float(values.mean() / values.norm()) * width**0.5 < 1 for values in same)

widths_of_vgg16 = [width for width in cfgs["D"] if width != "M"]
assert (min(widths_of_vgg16), max(widths_of_vgg16)) == (64, 512)

# statistics
assert abs(statistics.loc[1, "all of it"] - statistics.loc[0, "all of it"]) < 0.5
won = statistics.loc[1] - statistics.loc[0]
missing = statistics.loc[0, "all of it"] - statistics.loc[0]
assert (won[["half", "a quarter"]] < 0.5 * missing[["half", "a quarter"]]).all()
assert (round(won["half"]), round(missing["half"])) == (26, 61)
assert (round(won["a quarter"]), round(missing["a quarter"])) == (15, 80)
assert accuracy(residual) - accuracy(tuned) < 1.2

# layer by layer
drop = accuracy(residual) - sensitivity
of_streams, of_insides = drop[streams], drop.drop(streams)
assert (round(of_streams.min()), round(of_streams.max())) == (35, 56)
assert of_insides.min() > 0 and of_insides.max() < 4
assert sensitivity[streams].round().tolist() == [37, 58, 47]
assert (sensitivity.drop(streams).round().min(), sensitivity.drop(streams).round().max()) == (89, 92)

# chance, and classes
assert last == streams[-1] and layers[last].out_channels == 64 and len(lowest_half) == 32
assert min(by_chance) > accuracy(with_closed(lowest_half)) + 7 and len(by_chance) == 8
dear = accuracy(residual) - pd.Series(by_chance)
assert (round(dear.min()), round(dear.max())) == (7, 37)
assert sum(min(by_class(with_closed(draw))) < 5 for draw in draws) == 1
size = classes["size of a slope (x 1000)"].sort_values()
smallest = set(size.index[:5])
assert smallest == {"Bag", "Sandal", "Trouser", "Sneaker", "Ankle boot"} and size.iloc[5] > 2 * size.iloc[4]
assert size.idxmax() == "Shirt"
gone = classes["lowest closed (%)"]
assert set(gone.index[gone < 1]) == {"Sandal", "Trouser", "Sneaker", "Ankle boot"} and 45 < gone["Bag"] < 55
sure = classes["all open (%)"]
assert set(sure.index[sure > 96]) == smallest
assert gone.drop(list(smallest)).min() > 65 and classes["at random (%)"].min() > 20
hand = torch.tensor([[0.001, 0.0], [-0.002, 0.03]]).abs()
assert torch.allclose(hand.mean(0), torch.tensor([0.0015, 0.015])) and round(0.015 / 0.0015) == 10
shares_of_votes = hand / hand.sum(1, keepdim=True)
assert torch.allclose(shares_of_votes, torch.tensor([[1.0, 0.0], [0.0625, 0.9375]]))
assert torch.allclose(shares_of_votes.mean(0), torch.tensor([0.53125, 0.46875]))

# one vote
stream, whole = one_each.values()
assert [round(share) for share in (*stream, *whole)] == [47, 81, 58, 86]
assert all(torch.allclose(a, b) for a, b in zip(by_votes(residual, few.train).values(), voted_by.values(), strict=True))
gain = intervals(by_network.loc["one vote"] - by_network.loc["taylor"])
assert gain.loc[[("half", "statistics"), ("quarter", "statistics")], "mean"].round().tolist() == [30, 21]
assert (gain.loc[[("half", "statistics"), ("quarter", "statistics")], "95 % from"] > 0).all()
ahead_of_chance = intervals(by_network.loc["one vote"] - by_network.loc["random"])
ahead_of_chance = ahead_of_chance.loc[[("half", "statistics"), ("quarter", "statistics")]]
assert ahead_of_chance["mean"].round().tolist() == [16, 14] and (ahead_of_chance["95 % from"] > 0).all()
assert min(by_chance) < stream[1] < max(by_chance)
assert round(original.mean() - mean.loc[("half", "one vote"), "statistics"]) == 12
behind = intervals(by_network.loc["taylor"] - by_network.loc["random"])
assert (behind.loc[[("half", "statistics"), ("quarter", "statistics")], "to"] < 0).all()
assert (mean["cut"] < 30).all()
trained_too = gain.loc[[("half", "epoch"), ("quarter", "epoch")]]
assert (trained_too["mean"].between(-0.3, 0)).all() and (trained_too["to"] > 0).all()
assert ballots["seed"].nunique() == runs["seed"].nunique() == 5
short = by_stage["original (%)"] - by_stage["after an epoch (%)"]
lost_without = by_stage["original (%)"] - by_stage["new statistics (%)"]
assert lost_without[list(smallest)].min() > 40 and short[list(smallest)].max() < 4
assert lost_without.drop(list(smallest)).max() < 10

# budgets
half_macs, half_parameters = by_budget.loc["half of the MACs"], by_budget.loc["half of the parameters"]
assert half_macs.loc["norm", "parameters left (%)"] < 26 and half_parameters.loc["norm", "MACs left (%)"] > 70
together = pd.concat([half_macs, half_parameters]).loc[["mean", "each layer"]]
assert together.min(axis=None) > 44 and together.max(axis=None) < 56
assert half_macs.loc["mean, MACs priced", "parameters left (%)"] > half_macs.loc["mean", "parameters left (%)"] + 4

# one epoch
gain = intervals(ahead)
ways_of_choosing = gain.drop("from scratch", level="way")
assert ways_of_choosing.loc["half", "mean"].abs().max() < 0.5
clear = gain[gain["95 % from"] > 0]
assert clear.loc["half"].index.tolist() == ["taylor, mean", "magnitude, each layer"]
assert clear.loc["quarter"].index.tolist() == ["taylor, each layer", "taylor, mean", "magnitude, each layer"]
assert clear.loc["quarter", "mean"].round(2).agg(["min", "max"]).tolist() == [0.69, 0.85]
assert (
    round(100 * worst["test"].loc["taylor, l2", 7]) == 73 and round(100 * worst["test"].loc["torch-pruning", 6]) == 84
)
share = [worst["parameters"].iloc[i] / worst["parameters"].iloc[i + 2] for i in (0, 1)]
assert 0.2 < share[0] < 0.3 < share[1] < 0.5
assert all(abs(cost / macs(ResNet((8, 16, 32))) - 1) < 0.06 for cost in worst["macs"])
fresh = epoch.xs("taylor, each layer", level="way") - epoch.xs("from scratch", level="way")
assert (fresh.mean(axis=1) > 3).all()
random_behind = epoch.drop("all", errors="ignore").groupby("budget").apply(lambda of: of.mean(axis=1).max())
assert (random_behind - pd.Series({k: of.mean() for k, of in chance.items()}) < 1).all()  # less than a point behind

# four epochs
cost = intervals(lost)
assert round(cost.loc[("half", "taylor, each layer"), "mean"], 2) == 0.24
assert cost.loc[("half", "taylor, each layer"), "95 % from"] < 0
quarter = cost.loc[("quarter", "taylor, each layer")]
assert quarter.round(1).tolist() == [0.8, 0.5, 1.1]
assert abs(cost.loc[("all", "original"), "mean"]) < 0.02
gain = intervals(gains)
for budget, by in {"half": 0.7, "quarter": 1.2}.items():
    assert round(gain.loc[f"from scratch, {budget}", "mean"], 1) == by
    assert gain.loc[f"from scratch, {budget}", "95 % from"] > 0
    equal = gain.loc[f"from scratch, 12 epochs, {budget}"]
    assert abs(equal["mean"]) < 0.15 and equal["95 % from"] < 0 < equal["to"]
by_luck = gain.loc["random, each layer, quarter"]
assert round(by_luck["mean"], 2) == 0.25 and 0 < by_luck["95 % from"] < 0.1
looped, rival = gain.loc["loop, quarter"], gain.loc["torch-pruning, quarter"]
assert looped["95 % from"] < 0 < looped["to"] and abs(looped["mean"]) < 0.1
assert round(rival["mean"], 1) == 0.9 and rival["95 % from"] < 0 < rival["to"]
accuracies = long.mean(axis=1)
assert round(100 * shape["accuracy"].iloc[0], 1) == 92.6
assert round(accuracies["quarter", "taylor, each layer"], 1) == 91.8
assert round(accuracies["quarter", "from scratch, 12 epochs"], 1) == 91.7

# time
took = shape["ms"].groupby(level=["way", "budget"]).first()
ours_took = took["taylor, each layer"] / took["original", "all"]
assert ours_took["quarter"] < ours_took["half"] < 1
assert signature(latency).parameters["threads"].default == 1
