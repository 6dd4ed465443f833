"""What the text of the appendix claims."""

assert ended == {"some": 0, "many": 0}
assert curves["original"].equals(curves["original, of the other run"])
assert list(table["after"]) == [47368, 15814]
assert torch.equal(logits, in_the_folder)
assert (pd.read_csv(folder / "many" / "ranks.csv")["score"] == 0).any()  # dead
assert (table["accuracy after"] > table["accuracy"]).all()
