"""What the text of chapter 3 claims."""

assert dead == {"network.0": [], "network.2": [2, 3], "network.4": [4]}
assert all(scores[name][k] == 0 for name, filters in dead.items() for k in filters)
assert sum(int((values == 0).sum()) for values in scores.values()) == 3  # the dead, and no one else
assert same
assert max(whole.values()) / min(whole.values()) < 1.25  # one job, handed on
first, second, third = shrinking_ranks.groupby("layer")["score"].sum()
assert second > 2 * first and third > 2 * second  # the smaller the map, the larger the raw score
cost = moved.set_index("rank")["loss when closed"]
assert cost[11] > cost[10] and cost[7] < cost[6]  # one all
assert lowest(raw, 8) == lowest(ranks, 8)
assert table[table["n"] >= 500]["correlation"].min() > 0.9
assert table[table["n"] == 50]["correlation"].min() > 0.7
assert lowest(pool_ranks, 8) != lowest(ranks, 8)  # other images, another plan
assert -0.27 < highest["network.4"][4] < -0.26
rank_8 = evaluate(mask(baseline, Plan({"network.4": (7,)})), validation).loss - before.loss
assert abs(cost[7] - 0.056) < 0.001 and abs(rank_8 - 0.066) < 0.001  # nearly the same
assert lowest(ranks, 8).remove == {"network.0": (0,), "network.2": (2, 3), "network.4": (0, 1, 2, 4, 5)}
magnitude_loss, taylor_loss = (
    before.accuracy - evaluate(mask(baseline, lowest(order, 4)), validation).accuracy for order in (by_weight, ranks)
)
assert magnitude_loss > 0.025 and taylor_loss < 0.002
assert len(ranks) == 14 and (28**2, 14**2, 7**2) == (784, 196, 49)  # positions of the shrinking maps
with torch.no_grad():
    some = splits.validation.inputs[:10]
    first, last = shrinking[:2], shrinking[2:]
    torch.testing.assert_close(last(0.99 * first(some)), 0.99 * shrinking(some))  # ReLUs without biases
