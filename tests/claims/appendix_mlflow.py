"""What the text of the appendix claims."""

assert ended == {"some": 0, "many": 0}
assert list(table["after"]) == [47368, 15814]
assert (pd.read_csv(folder / "many" / "ranks.csv")["score"] == 0).any()  # dead
assert (table["accuracy after"] > table["accuracy"]).all()
