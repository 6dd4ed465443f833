"""What the text of chapter 9 claims."""

stopped = {name for (name, version), verdict in verdicts.items() if verdict == "is stopped"}
assert all((verdict == "passes") == (version == "right") for (_, version), verdict in verdicts.items())
assert len(stopped) == 11  # ten sections; section 5 has two checks
assert by_reading["after 6 (%)"].idxmax() == "right" and by_reading["after 7 (%)"].idxmin() == "right"
assert by_reading.loc["after the sum", "ranks that differ"] == 10
assert by_batch["ranks that differ"].tolist() == [0, 0, 0, 0, 2, 6]
for name, values in score(baseline, thousand, 100, "mean").items():
    torch.testing.assert_close(100 * values, score(baseline, thousand)[name], rtol=1e-3, atol=1e-9)
    assert values.max() < 1e-5  # below the threshold, all of them
assert (by_batch["after 8 (%)"][2] - by_batch["after 8 (%)"][4:] > 5.5).all() and 330 // 10 == 33
assert (by_batch["after 8 (%)"][2] - by_batch["after 8 (%)"][4:] < 6.5).all()
assert by_mode["ranks that differ"].tolist()[::2] == [0, 6] and by_mode["ranks that differ"].iloc[1] <= 2
assert by_mode["after 8 (%)"].idxmax() == "eval"
assert 0.65 < 1 - (1 - nn.BatchNorm2d(1).momentum) ** 10 < 0.66  # how much of the statistics ten batches are
assert (folders.targets[-10 * 50 :] == CLASS_NAMES.index("Ankle boot")).all()
assert by_mode.loc["train, by class", "the network (%)"] < by_mode.loc["eval", "the network (%)"] - 0.2
assert by_sgd["score_with_backward"] < 15 and by_sgd["taylor"] > 89
assert accuracy(after_all) - accuracy(clean) > 0.2 > accuracy(after_all, splits.test) - accuracy(clean, splits.test)
loss, loss_error, points, points_error = (by_half[name] for name in columns)
assert loss["own half"] + loss_error["own half"] < 0 and loss["other half"] > loss["own half"] / 3
assert 3 < -(loss / loss_error)["own half - other half"] < 5.5  # about four times its uncertainty
assert abs(points["own half - other half"]) < 0.5 * points_error["own half - other half"]  # alike
assert ((points / points_error)[["own half", "other half"]].between(0.6, 1.7)).all()  # as wide as the rise
assert abs(points["test images"]) < points_error["test images"]  # down, by as much as chance can do
assert torch.isnan(everything[:6]).all() and everything[6:].isfinite().all()
assert by_threshold(ranks, 1).n_filters == 3 and len(answers) == 1 and emptied_layer[0] > 40
assert four == [4, 5, 1, 2] and 14 < shifted[0] - shifted[1] < 16
bias = baseline.network[2].bias.detach().cpu()
torch.testing.assert_close(torch.tensor(sent), bias.relu(), rtol=1e-3, atol=1e-4)
assert max(one.std().item() for one in maps) < 1e-4 and (bias[2:] < 0).all()  # constants; two that a ReLU stops
assert abs(usual[1] - 0.24) < 0.01 and 0.06 < sent[1] < 0.08
assert set(first_six["layer"]) == {"network.0", "network.2"}
costs = accuracy(baseline) - silenced.loc[1]
assert 18 < costs["gate closed (%)"] < 19 and 7.5 < costs["weights zeroed (%)"] < 8.5
assert joined[0] > joined[1] + 5
assert unpruned[1] == accuracy(baseline)
better = pairs["wrong"] > pairs["right"]
assert [name.split()[0] for name in pairs.index[better]] == ["8", "10"]
assert (pairs["wrong"] < pairs["right"]).sum() == 7
assert three["right passes"].all() and not three["wrong passes"].any()
assert sorted({*three.index}) == [2, 3, 4, 7, 8, 9, 10] and three["check"].nunique() == 3
assert len(validation) == 5_000
