"""What the text of chapter 5 claims."""

from scipy.stats import t

fallen = evaluate(pruned, splits.validation).accuracy
ended = evaluate(tuned, splits.validation).accuracy
assert ended > fallen + 0.08  # most of it comes back
assert history["validation_accuracy"][1] - fallen > 0.7 * (ended - fallen)  # in the first epoch
stored = {name: evaluate(checkpoint(name).to(device), splits.validation).accuracy for name in ("baseline", "tuned")}
assert round(100 * stored["baseline"], 2) == 89.60
assert round(100 * stored["tuned"], 1) == 88.9 and abs(100 * ended - 88.8) < 1  # about
assert abs(stored["tuned"] - ended) < 0.015
sizes = [sum(p.numel() for p in network.parameters()) for network in (baseline, tuned)]
assert sizes == [63_122, 23_617]
assert round(100 * (1 - sizes[1] / sizes[0]), 1) == 62.6
assert (ends.loc["0.001"] > ends.loc["0.0001"] + 2).all() and (ends.loc["0.01"] > ends.loc["0.001"]).all()
assert (ends.loc["0.1"] < ends.loc["0.01"] - 1).all()  # too large
assert not moved
assert updates == 20

assert (runs.loc[("from scratch", 11)] == 10).sum() == 3  # three of five never learn
assert runs.loc["pruned"].drop(0).min(axis=None) > 80  # a cut network always does
assert runs.loc["restarted"].min(axis=None) > 80
assert 0 < (runs.loc[("pruned", 11)] - runs.loc[("pruned", 5)]).mean() < 0.2  # hardly more
mean = differences.mean()
more, cost, one, five, eleven = differences.columns
interval = pd.DataFrame({"low": low, "high": high}, index=differences.columns)
assert round(mean[more], 1) == 0.4
assert -0.2 < interval["low"][more] < 0  # just includes zero
assert (round(mean[cost], 1), round(interval["high"][cost], 1), round(interval["low"][cost], 1)) == (-1.9, -1.0, -2.7)
assert 3.5 < mean[one] < 4.5
assert 1.2 < mean[five] < 1.8
assert interval["low"][one] > 0
assert -0.1 < interval["low"][five] < 0
assert interval["low"][eleven] < 0 < interval["high"][eleven]
means = runs.mean(axis=1)
assert (round(means["original", 0], 1), round(means["pruned", 5], 1)) == (89.5, 88.0)

assert round(t.ppf(0.975, 4), 3) == 2.776
assert abs(100 * (stored["baseline"] - ended) - 0.8) < 1 and 100 * (stored["baseline"] - fallen) > 13
taken = (runs.loc[("original", 0)] - runs.loc[("pruned", 0)]).round()
assert (taken.min(), taken.max()) == (9, 33) and round(100 * (stored["baseline"] - fallen)) == 13

# a network of one's own
large, several = by_batch.loc[256], by_batch.loc[32]
assert large["training loss"] < 1.5  # the weights have learned
assert large["statistics measured again (%)"] > large["validation images right (%)"] + 15
assert abs(several["statistics measured again (%)"] - several["validation images right (%)"]) < 3
assert -(-len(few.train) // 256) == 20 and round(100 * 0.9**20) == 12 and not warned
assert third.n_filters == 8 and 8 + 16 == 24
assert {layer.name: layer.producers for layer in prunable_layers(own)}["stem.0"] == ("stem.0", "narrow.0")
assert after_cut > 0.6 and evaluate(small, splits.validation).accuracy > after_cut
