"""What the text of chapter 6 claims."""

from scipy.stats import binom

from cnnprune_utils import evaluate

assert table["parameters"].tolist() == [63_122, 23_617, 23_617, 23_617]
assert work.sum()["original"] == table["macs"]["original"] and work.sum()["pruned"] == table["macs"]["pruned"]
assert table["accuracy"]["pruned"] < table["accuracy_low"]["fine-tuned"]
three = table.loc[["original", "fine-tuned", "from scratch"]]
assert three["accuracy_low"].max() < three["accuracy_high"].min()  # the intervals overlap
assert 0 < table["accuracy"]["original"] - table["accuracy"]["fine-tuned"] < 0.01
for name, network in networks.items():  # the validation accuracy lies within the interval
    assert table["accuracy_low"][name] < evaluate(network, splits.validation).accuracy < table["accuracy_high"][name]
assert (speed_up.loc["fine-tuned", ["batch of 1", "batch of 256"]] < speed_up.loc["fine-tuned", "by the MACs"]).all()
assert (
    change.nsmallest(2).index.tolist() == ["Shirt", "Coat"]
    and by_class["original"].idxmin() == "Shirt"
    and -0.03 < change.min() < -0.02
)
shirts = splits.test.targets == CLASS_NAMES.index("Shirt")
lost, won = (int((sign * (right["original"] - right["fine-tuned"]) > 0)[shirts].sum()) for sign in (1, -1))
assert (lost, won) == (60, 37) and round(-100 * change["Shirt"], 1) == 2.3
half = 196 * (right["original"] - right["fine-tuned"])[shirts].std().item() / 1000**0.5
assert round(half, 1) == 1.9
by_chance = binomtest(lost, lost + won).pvalue
assert 0.02 < by_chance < 0.03  # for a class named beforehand: once in forty times
nowhere = 1.0  # the chance that no bar is as rare as that, with the coins that each class has
for label in range(10):
    coins = int((right["original"] != right["fine-tuned"])[splits.test.targets == label].sum())
    rare = [k for k in range(coins + 1) if binomtest(k, coins).pvalue <= by_chance]
    nowhere *= 1 - float(binom.pmf(rare, coins, 0.5).sum())
assert 1 / 8 < 1 - nowhere < 1 / 6  # one of ten: once in seven
quarter = {size: times["q1_ms"] for size, times in floor.items()}  # of the rounds, where other work disturbed least
assert quarter[1]["one filter each"] > 0.5 * quarter[1]["original"]  # most of the time of one image
assert quarter[256]["one filter each"] > 0.2 * quarter[256]["original"]  # with 8 % of the MACs
assert abs(by_hand - (high - low) / 2) < 1e-4
assert abs(mean_of_means - right["original"].mean()) > 0.01  # one image that weighs like 9,999
assert paired["p value"]["original - fine-tuned"] < 0.001 < 0.2 < paired["p value"]["from scratch - fine-tuned"]
assert paired.iloc[0, :2].tolist() == [243, 170] and 243 + 170 == 413
assert paired.loc["original - fine-tuned", "95 % from"] > 0 > paired.loc["from scratch - fine-tuned", "95 % from"]
