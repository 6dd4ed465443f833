"""The inputs that a network runs on: given, its own, or found; and running without a trace."""

import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from random_networks import Net
from torch import nn

from cnnprune_utils.example import Example, untouched
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.training import evaluating

X = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [(X, 1, []), ((X, 3), 2, []), ({"a": X, "b": X}, 0, ["a", "b"]), (Example((X,), {"b": X}), 1, ["b"])],
)
def test_what_is_given_is_taken(given: Any, args: int, kwargs: list[str]) -> None:
    example = Example.of(nn.Conv2d(1, 1, 1), given)
    assert (len(example.args), list(example.kwargs)) == (args, kwargs)


def test_its_shapes_are_its_text() -> None:
    assert str(Example((X, 3), {"mask": X})) == "2x1x8x8, int, mask=2x1x8x8"


def test_the_models_own_example_comes_first() -> None:
    model = nn.Conv2d(1, 1, 1)
    model.example_input_array = X
    assert Example.of(model).args == (X,)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(3, 1, 1), (2, 3, 8, 8)),
        (nn.Conv1d(2, 1, 9), (2, 2, 12)),
        (nn.Sequential(nn.Conv2d(1, 1, 5), nn.Flatten(), nn.Linear(24 * 24, 2)), (2, 1, 28, 28)),
    ],
)
def test_the_smallest_picture_is_found(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert Example.of(model).args[0].shape == shape


def test_what_is_no_example_is_refused() -> None:
    with pytest.raises(TypeError, match="a tuple of positional arguments or a dict of keyword arguments, not int"):
        Example.of(nn.Conv2d(1, 1, 1), 3)  # a number
    with pytest.raises(ValueError, match="Linear has no convolution"):
        Example.of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"Net takes no picture of 8 to 512 .*example=images\[:2\]"):
        Example.of(Net(lambda self, x: 1 / 0, conv=nn.Conv2d(1, 1, 1)))


def test_untouched_puts_all_states_back() -> None:
    model = nn.BatchNorm2d(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    drawn = []
    for _ in range(2):
        with suppress(KeyError), untouched(model):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
            model(torch.ones(2, 1, 2, 2))
            raise KeyError
    assert drawn[0] == drawn[1]
    assert model.running_mean.tolist() == [0]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_a_sparse_buffer_is_put_back() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.graph.mul_(2)
        return self.b(self.a(x) * (self.graph @ torch.ones(3, 1)).sum())

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 2, 1))
    model.register_buffer("graph", torch.eye(3).to_sparse())
    with untouched(model), torch.no_grad():
        model(X)
    assert torch.equal(model.graph.to_dense(), torch.eye(3))
    assert [layer.name for layer in prunable_layers(model, X)] == ["a"]
    with evaluating(model), torch.no_grad():
        model(X)
    assert torch.equal(model.graph.to_dense(), torch.eye(3))
