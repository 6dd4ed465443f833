"""What the text of the appendix claims."""

assert ended == {"some": 0, "many": 0}
assert curves["original"].equals(curves["original, of the other run"])
assert list(table["after"]) == [47368, 15814]
with torch.no_grad():
    in_the_folder = load_model(folder / "many" / "finetuned.safetensors").eval()(images)
assert torch.equal(logits, in_the_folder)  # bit for bit

assert (ranks["score"] == 0).sum() > 7  # most filters are dead
assert (table["accuracy after"] > table["accuracy"]).all()
