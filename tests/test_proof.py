"""The proof on the example: where a cut network fails, and how far it lies from closed gates."""

from typing import Any

import pytest
import torch
from random_networks import Net, randomize
from torch import Tensor, nn

from cnnprune_utils.cutting import without
from cnnprune_utils.example import Example
from cnnprune_utils.proof import Proof, difference

X = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
CUT = {
    "a.weight": {0: torch.tensor([0, 2])},
    "a.bias": {0: torch.tensor([0, 2])},
    "b.weight": {1: torch.tensor([0, 2])},
}
CLOSED = {("b.weight", 1): torch.tensor([False, True, False])}


def network(forward: Any = lambda self, x: self.b(self.a(x))) -> nn.Module:
    return randomize(Net(forward, a=nn.Conv2d(1, 3, 1), b=nn.Conv2d(3, 2, 1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_right_cut_has_no_gap(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    proof = Proof(model, Example((X.to(dtype),)), trains=True)
    small = without(model, CUT)
    assert proof.failure(small, CLOSED) == ""
    assert "outputs differ" in proof.failure(small, {("b.weight", 1): torch.tensor([True, False, False])})
    small.b.bias.data[0] += 1e-6
    assert "outputs differ" in proof.failure(small, CLOSED)


@pytest.mark.parametrize("applies", [lambda _: True, lambda _: torch.is_grad_enabled(), lambda self: self.training])
def test_a_fixed_size_fails_at_its_line(applies: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(2, 3, 4, 4) if applies(self) else self.a(x))

    proof = Proof(model := network(forward), Example((X,)), trains=True)
    assert "fails without these filters, at test_proof.py, line" in proof.failure(without(model, CUT), CLOSED)


def test_each_run_is_the_first() -> None:
    """A network that draws, counts its calls and sets its weights computes the same each time, and stays as it is."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        self.b.bias.data = self.b.bias.data + self.calls * torch.rand(())
        return self.b(self.a(x))

    model = network(forward)
    before = model.b.bias.clone()
    proof, small = Proof(model, Example((X,)), trains=True), without(model, CUT)
    assert [proof.failure(small, CLOSED) for _ in range(2)] == ["", ""]
    assert torch.equal(model.b.bias, before)
    assert torch.equal(small.b.bias, before)


def test_no_tensors_prove_nothing() -> None:
    proof = Proof(model := network(lambda self, x: self.b(self.a(x)) is x), Example((X,)), trains=False)
    with pytest.raises(ValueError, match="forward returns no tensors"):
        proof.failure(without(model, CUT), CLOSED)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1.0, 4.0], [1.0, 2.0], 1), ([0.0], [0.5], 1), ([1.0, 2.0], [1.0], torch.inf), ([torch.nan], [torch.nan], 0),
     ([torch.inf], [torch.inf], 0), ([1.0], [torch.nan], torch.inf), ([0.5], [0.0], 0.5), ([], [], 0)],
)  # fmt: skip
def test_a_difference_is_a_share_of_the_largest(one: list[float], other: list[float], expected: float) -> None:
    assert difference([torch.tensor(one)], [torch.tensor(other)]) == expected


@pytest.mark.parametrize("grad", [False, True])
def test_other_numbers_with_or_without_gradients(grad: bool) -> None:
    """Forward may ask whether gradients are on, and compute something that depends on the number of channels."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / x.shape[1] if torch.is_grad_enabled() is grad else x)

    proof = Proof(model := network(forward), Example((X,)), trains=True)
    assert "outputs differ" in proof.failure(without(model, CUT), CLOSED)


def test_random_numbers_that_the_network_does_not_take_prove_nothing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        assert x.min() >= 0, "a picture has no negative numbers"
        return self.b(self.a(x))

    proof = Proof(model := network(forward), Example((X,)), trains=True)
    assert proof.failure(without(model, CUT), CLOSED) == ""
