"""What the text of chapter 2 claims."""

assert abs(changes.mean(1)).max() < 0.2 < changes.abs().max()  # the mean hardly moves, single images do
assert one.mean() > 0 > changes[1:].mean(1).min() - 1e-3 and changes.mean(1)[-1] > 0.1  # a fall promised, a rise found
assert 0.3 < (one > 0).double().mean() < 0.7  # both directions
assert sum(int((values == 0).sum()) for values in scores.values()) == 3
assert (
    agreement.loc["minus the mean slope", "training"]
    > 0.5
    > 0
    > -0.6
    > agreement.loc["minus the mean slope", "validation"]
)
assert abs(agreement.loc["minus the mean slope", "validation"] + 0.68) < 0.02
assert agreement.loc["the mean size"].min() > 0.95
assert round(spearmanr(-found["training"].mean(0)[living], truth["training"][living]).statistic, 2) == 0.47

by_set = dict(list(table.groupby("images")))
assert len(living) == 11
seen_once = by_set["training"]
assert (seen_once["promise"] > 0).sum() > 6  # most say that the loss rises
assert (seen_once["promise"] > 2 * seen_once["error"]).sum() == 2
unseen = by_set["validation"].reset_index(drop=True)
falls = unseen[unseen["promise"] < 0]
surest = falls[falls["promise"] < -3 * falls["error"]]
assert len(falls) == 8 and surest.index.tolist() == [9, 10]  # the two that cost most, the last in the order
assert all(truth["validation"][k] > 0 for k in living)  # it never falls

seen, held_out = (others.loc[(images, "minus the mean slope")] for images in ("training", "validation"))
assert (seen > 0).all() and (seen < 0.2).sum() == 4
assert held_out.max() < -0.5 and others.loc[("test", "minus the mean slope")].max() < -0.4
mean_size = others.xs("the mean size", level="score")
assert round(mean_size.min(axis=None), 2) == 0.78 and (mean_size > 0.93).all().sum() == 4  # and ours: five of six

sure = pd.DataFrame(rows)
slope, error, added = sure.index
assert sure.loc[slope, "training"] < -2 * sure.loc[error, "training"]  # being less sure costs
assert sure.loc[slope, "validation"] > 2 * sure.loc[error, "validation"]  # it gains
assert (sure.loc[slope] - sure.loc[added]).abs().max() < 0.01

half_square = {images: s.square().mean(0) / 2 - s.mean(0) for images, s in found.items()}
last = [k for k in living if names[k].startswith("network.4")]
part = {images: (half_square[images][last] / truth[images][last]) for images in found}
assert part["validation"].min() > 0.6 and part["training"].min() > 0.5  # most of the truth, half of it or more
assert all(spearmanr(half_square[images][last], truth[images][last]).statistic > 0.8 for images in found)
costly = names.index("network.0, 1")
assert round(float(half_square["validation"][costly]), 1) == 0.3 and round(float(truth["validation"][costly]), 1) == 5.1
shrinking = [round(1000 * score, 3) for score in by_batch]
assert shrinking == sorted(shrinking, reverse=True) and by_batch[0] > 8 * by_batch[-1]  # larger batches, smaller scores
assert len(names) == 14
assert 2 * 64 + 2 * 128 + 3 * 256 + 3 * 512 + 3 * 512 == 4_224  # filters of VGG-16
