"""What each operation does to the names of four filters: followed, merged or frozen with its reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_networks import Net
from torch import Tensor, nn

from cnnprune_utils.structure import Structure, analyse


@torch.library.custom_op("cnnprune_tests::mixing", mutates_args=())
def mixing(x: Tensor) -> Tensor:
    return x.flip(1) * 2


def found(operation: Callable[[Tensor], Any]) -> Structure:
    """A convolution of 4 filters, 4 x 4 positions -> the operation -> a convolution over the whole of its result."""
    conv, images = nn.Conv2d(1, 4, 1), torch.randn(2, 1, 4, 4)
    shape = operation(conv(images)).shape
    reader = nn.Conv2d(shape[1], 2, 1)
    model = Net(lambda self, x: self.reader(operation(self.conv(x))), conv=conv, reader=reader)
    return analyse(model, images)


def written_one_by_one() -> Tensor:
    scale = torch.ones(4, 1, 1)
    for k in range(4):
        scale[k] = k
    return scale


FOLLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(1),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "repeat": lambda x: x.repeat(1, 3, 1, 1),
    "softmax": lambda x: x.softmax(2),
    "cumsum": lambda x: x.cumsum(3),
    "cummax": lambda x: x.cummax(3)[0],
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "roll": lambda x: x.roll(1, -1),
    "zeros": lambda x: x * torch.zeros(x.shape, dtype=torch.float64).to(x).exp(),
    "pad": lambda x: F.pad(x, (1, 1)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "index": lambda x: x[:, :, [2, 0]],
    "slice": lambda x: x[..., 1:],
    "where": lambda x: torch.where(x > 0, x, -x),
    "clamp": lambda x: x.clamp(-1, 1),
    "unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "var": lambda x: x / x.var((2, 3), keepdim=True),
    "through a list": lambda x: torch.stack(list(x.unbind(2)), 2),
    "through zeros": lambda x: torch.zeros_like(x).copy_(x),
}
MERGED: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "chunk": (2, lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]),
    "glu": (2, lambda x: F.glu(x, 1)),
    "channel shuffle": (2, lambda x: F.channel_shuffle(x, 2)),
    "flipped sum": (2, lambda x: x + x.flip(1)),
    "pixel shuffle": (1, lambda x: F.pixel_shuffle(x, 2)),
}
FROZEN: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "softmax": ("softmax over channels", lambda x: x.softmax(1)),
    "mean": ("mean over channels", lambda x: x * x.mean(1, keepdim=True)),
    "slice": ("cut at fixed channels", lambda x: x[:, 1:]),
    "one": ("cut at fixed channels", lambda x: x[:, 1:2]),
    "split": ("cut at fixed channels", lambda x: x.split([1, 3], 1)[1]),
    "index": ("channels picked by their numbers", lambda x: x[:, [1, 0]]),
    "roll": ("channels rolled by a fixed number", lambda x: x.roll(1, 1)),
    "constant": ("joins it with numbers that no filter makes", lambda x: x + torch.arange(4.0).view(4, 1, 1)),
    "written": ("joins it with numbers that no filter makes", lambda x: x * written_one_by_one()),
    "places": ("joins it with numbers that no filter makes", lambda x: (x.mT.transpose(1, 3) + torch.arange(4)).mT),
    "product": ("matrix product", lambda x: (x.flatten(2).transpose(1, 2) @ torch.ones(4, 4)).mT.view(x.shape)),
    "unknown": ("cdist_forward, which is not known to keep channels apart,", lambda x: torch.cdist(x, x)),
    "custom": ("mixing, which is not known to keep channels apart,", mixing),
    "bytes": ("its bytes are read as other numbers", lambda x: x.view(torch.int16).view(torch.float32)),
}


@pytest.mark.parametrize("operation", FOLLOWED.values(), ids=FOLLOWED)
def test_followed_filters_stay_apart(operation: Callable[[Tensor], Tensor]) -> None:
    structure = found(operation)
    assert structure.layers.keys() == {"conv"}, structure.skipped
    assert structure.layers["conv"].out_channels == 4


@pytest.mark.parametrize(("n", "operation"), MERGED.values(), ids=MERGED)
def test_merged_filters_are_removed_together(n: int, operation: Callable[[Tensor], Tensor]) -> None:
    assert {layer.out_channels for layer in found(operation).layers.values()} == {n}


@pytest.mark.parametrize(("reason", "operation"), FROZEN.values(), ids=FROZEN)
def test_frozen_filters_have_a_reason(reason: str, operation: Callable[[Tensor], Tensor]) -> None:
    structure = found(operation)
    assert reason in structure.skipped["conv"]
    assert not structure.layers


SPLIT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[int], list[int]]]] = {
    "view, inner fixed": (lambda x: x.view(len(x), -1, 4, 4, 4).amax(2), lambda c: [4 * c + j for j in range(4)]),
    "view, outer fixed": (lambda x: x.view(len(x), 4, -1, 4, 4).amax(1), lambda c: [3 * j + c for j in range(4)]),
    "reshape, inner": (lambda x: x.reshape(len(x), -1, 4, 4, 4).amax(2), lambda c: [4 * c + j for j in range(4)]),
    "reshape, outer": (
        lambda x: torch.reshape(x, (len(x), 4, -1, 4, 4)).amax(1),
        lambda c: [3 * j + c for j in range(4)],
    ),
    "unflatten, inner": (lambda x: x.unflatten(1, (-1, 4)).amax(2), lambda c: [4 * c + j for j in range(4)]),
    "unflatten, outer": (lambda x: torch.unflatten(x, -3, (4, -1)).amax(1), lambda c: [3 * j + c for j in range(4)]),
    "by names": (lambda x: x.unflatten(dim=1, sizes=(-1, 4)).amax(2), lambda c: [4 * c + j for j in range(4)]),
    "the module": (nn.Sequential(nn.Unflatten(1, (-1, 4)), nn.Flatten(1, 2)), lambda c: [4 * c + j for j in range(4)]),
    "both sides fixed": (
        lambda x: x.view(len(x), 2, -1, 2, 4, 4).amax((1, 3)),
        lambda c: [6 * i + 2 * c + j for i in range(2) for j in range(2)],
    ),
    "shuffled": (
        lambda x: x.reshape(len(x), -1, 4, 4, 4).transpose(1, 2).flatten(1, 2),
        lambda c: [4 * c + j for j in range(4)],
    ),
}


@pytest.mark.parametrize(("operation", "channels"), SPLIT.values(), ids=SPLIT)
def test_the_size_that_is_open_may_shrink(
    operation: Callable[[Tensor], Tensor], channels: Callable[[int], list[int]]
) -> None:
    """12 channels in 3 parts of 4, or in 4 of 3: which leave together."""
    x = torch.randn(2, 1, 4, 4)
    convolutions = {
        "conv": nn.Conv2d(1, 12, 1),
        "reader": nn.Conv2d(operation(torch.zeros(2, 12, 4, 4)).shape[1], 2, 1),
    }
    structure = analyse(Net(lambda self, x: self.reader(operation(self.conv(x))), **convolutions), x)
    (place, *_) = structure.layers["conv"].places
    assert place.indices == tuple(tuple(channels(c)) for c in range(3))


POSITIONS = torch.tensor([True, False, True, True])
CHANNELS = torch.tensor([[True, True, False, True]] * 2)


def test_a_constant_mask_picks_positions() -> None:
    assert [*found(lambda x: x[:, :, POSITIONS]).layers] == ["conv"]
    assert [*found(lambda x: x[:, :, POSITIONS.expand(4, 4)][..., None]).layers] == ["conv"]


@pytest.mark.parametrize("mask", [CHANNELS, CHANNELS.byte()])
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_a_mask_over_channels_freezes(mask: Tensor) -> None:
    structure = found(lambda x: x[mask].view(2, 3, 4, 4))
    assert "channels picked by their numbers" in structure.skipped["conv"]


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.mean().item() > 0,
        lambda x: x.mean().tolist() > 0,
        lambda x: float(x.detach().numpy().mean()) > 0,
        lambda x: x[x > 0].numel() > 3,
        lambda x: len(torch.masked_select(x, x > 0)) > 3,
        lambda x: len(torch.unique(x)) > 1,
    ],
)
def test_a_branch_on_numbers_is_refused(asks: Callable[[Tensor], bool]) -> None:
    model = Net(
        lambda self, x: self.b(self.a(x) if asks(x) else 2 * self.a(x)), a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 2, 1)
    )
    with pytest.raises(ValueError, match="decides by the numbers that pass"):
        analyse(model, torch.randn(2, 1, 5, 5))


def test_a_parameter_in_another_shape_freezes() -> None:
    scale = nn.ParameterDict({"scale": torch.ones(2, 2)})
    modules = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 2, 1), "scale": scale}
    model = Net(lambda self, x: self.b(self.a(x) * self.scale["scale"].view(1, -1, 1, 1)), **modules)
    assert "mul with scale.scale in another shape" in analyse(model, torch.randn(2, 1, 5, 5)).skipped["a"]


def test_a_state_that_starts_with_zeros_is_read() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), self.r.weight.shape[1], *x.shape[2:])
        for _ in range(3):
            h = torch.tanh(self.a(x) + self.r(h))
        return self.b(h)

    model = Net(forward, a=nn.Conv2d(1, 4, 1), r=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 2, 1))
    found = analyse(model, torch.randn(2, 1, 5, 5))
    assert found.readers["r.weight", 1].tolist() == [0, 1, 2, 3]
