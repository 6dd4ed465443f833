"""What the text of chapter 4 claims."""

from torch import nn

from cnnprune_utils import Plan
from cnnprune_utils.board.facts import facts_of
from cnnprune_utils.training import seed_everything

assert difference < 1e-5 < wrong
gone = table_of_sizes["before"] - table_of_sizes["after"]
assert table_of_sizes.loc["all"].tolist() == [63_122, 23_617] and round(100 * gone["all"] / 63_122, 1) == 62.6
assert gone["network.7"] == 5 * 7_840 == 39_200 and gone["all"] - gone["network.7"] < 400
assert 0.72 < masked_accuracy < 0.80 and off_by_one_accuracy < 0.25

assert other_plan.n_filters == plan.n_filters and other_plan != plan
before, after = repaired["before (%)"], repaired["after one epoch (%)"]
right_one, off_one, poor_one = repaired.index
assert before[off_one] < 25 and before[poor_one] < 25  # neither is near the right one's 76
assert 84.5 < after[off_one] < 87.5 and 0.5 < after[right_one] - after[off_one] < 4
assert -1.5 < after[off_one] - after[poor_one] < 2.5 and after[right_one] - after[poor_one] > 1

assert taylor_line[3] == taylor_line[0] and taylor_line[0] - taylor_line[4] < 0.002
assert taylor_line[0] - taylor_line[5] > 0.01  # the fifth crosses a point
assert highest_first[1] < 0.20 and highest_first[3] < 0.11
drawn = table[table["order"] == "random (three draws)"].groupby("removed")["accuracy"]
assert drawn.max()[2] < taylor_line[0] - 0.01 and abs(drawn.mean()[4] - 0.46) < 0.02
guessing = prune(baseline, lowest(orders[-1][1], 3))  # without the three highest scores
with torch.no_grad():
    assert not any(guessing.network[:4](images).any() for images, _ in validation.batches(500))

facts = facts_of(baseline, validation)
assert round(100 * int(facts.correct[facts.best[8]]) / facts.n, 2) == 84.06
eleven = lowest(ranks, 11).remove
assert any(row.filter not in eleven[row.layer] for row in ranks.nsmallest(11, "rank").itertuples())

# The proof on a BatchNorm network, as it is after training: in train mode.
seed_everything(0)
norms = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10)
).to(device)
few = type(splits)(splits.train.subset(2_000), validation.subset(500), splits.test)
fit(norms, few, epochs=1, learning_rate=1e-2)
cut, closed = prune(norms, Plan({"0": (1,)})), mask(norms, Plan({"0": (1,)}))
assert cut.training and not closed.network.training
assert same_outputs(cut, closed, few.validation) < 1e-5
with torch.no_grad():
    assert (cut(few.validation.inputs) - closed(few.validation.inputs)).abs().max() > 0.01
