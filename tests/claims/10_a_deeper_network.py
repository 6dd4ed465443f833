"""What the text of chapter 10 claims."""

from inspect import signature

from torch import nn

from cnnprune_utils.plan import lowest

# the network
convolutions = [module for module in residual.modules() if isinstance(module, nn.Conv2d)]
assert len(convolutions) == 15 and len(layers) == 9
norms = [module for module in residual.modules() if isinstance(module, nn.BatchNorm2d)]
assert len(norms) == len(convolutions)
assert list(kinds.values()).count("stream") == 3 and (costs["convolutions"] == [3, 1, 1, 1, 3, 1, 1, 3, 1]).all()
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
last = [name for name in layers if name.startswith("stages.2")]
assert [left["norm"][name] for name in last] == [7, 6, 12] and left["norm"]["stem.0"] == 13
assert {left["mean"][name] for name in last} == {28, 29, 32}
for width in (16, 32, 64):  # a layer's mean score is about one over the root of its width, in units of the norm
    scores = taylor(residual, few.train)
    same = [values for values in scores.values() if len(values) == width]
    assert all(0.7 < float(values.mean() / values.norm()) * width**0.5 < 1 for values in same)

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
assert 0 < of_insides.min() and of_insides.max() < 4
assert by_stage["insides only"][1] > by_stage["each layer"][1] + 15
assert abs(by_stage["insides only"][2] - by_stage["each layer"][2]) < 1.2
assert abs(macs(insides) - macs(half)) < 0.005 * macs(residual)
error = (0.92 * 0.08 / len(splits.validation)) ** 0.5
assert 0.7 < 100 * 2 * error < 1 and len(splits.validation) == 5_000

# budgets
half_macs, half_parameters = by_budget.loc["half of the MACs"], by_budget.loc["half of the parameters"]
assert half_macs.loc["norm", "parameters left (%)"] < 26 and half_parameters.loc["norm", "MACs left (%)"] > 70
together = pd.concat([half_macs, half_parameters]).loc[["mean", "each layer"]]
assert 44 < together.min(axis=None) and together.max(axis=None) < 56
assert half_macs.loc["mean, MACs priced", "parameters left (%)"] > half_macs.loc["mean", "parameters left (%)"] + 4
