"""Fewer images, for a quick look."""

from cnnprune_utils.batches import Splits


def smaller(splits: Splits, at_most: int | None) -> Splits:
    """Return the splits with at most so many images each; None: all of them."""
    if at_most is None:
        return splits
    every = (splits.train, splits.validation, splits.test)
    return Splits(*(split.subset(min(at_most, len(split))) for split in every))
