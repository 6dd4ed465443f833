"""What the text of chapter 1 claims."""

assert sum(by_hand.values()) == sum(p.numel() for p in model.parameters()) == 63_122
assert yours > 0.87 and abs(yours - ours) < 0.02
assert 6 * -(-len(splits.train) // 256) > 1000  # steps
loss = history.set_index("epoch")[["train_loss", "validation_loss"]]  # epoch 0: before training
assert loss["train_loss"][6] < loss["train_loss"][1] / 2
assert (loss.loc[5] - loss.loc[6])["train_loss"] > (loss.loc[5] - loss.loc[6])["validation_loss"]  # time to stop
assert silent == 8 and predict(hasty, few.validation).unique().numel() == 1
assert hasty_history["train_loss"][1] > 5 and 2 < hasty_history["train_loss"][2] < 3.5
assert chosen[:, 0].mean() > 0.58 and abs(chosen[:, 1].mean() - 0.5) < 0.01
assert mistakes.sum(1).argmax() == CLASS_NAMES.index("Shirt")
assert (28 * 28, 784 * 10) == (784, 7_840)  # what a filter of the third convolution feeds
assert round(5000 * ours) == 4_480  # of the pictures are right
