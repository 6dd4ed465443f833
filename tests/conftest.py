"""Fixtures that several test files share."""

import pytest

from cnnprune_utils.batches import Splits
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist


@pytest.fixture(scope="session")
def splits() -> Splits:
    """The real Fashion-MNIST, from whichever source this machine has. Tests do not write to its tensors."""
    return load_fashion_mnist()
