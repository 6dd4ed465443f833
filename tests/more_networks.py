"""Small networks of many kinds, each with a removal by hand: a second way to the pruned network.

A :class:`Known` network is built from its widths, named after its layers, so the smaller network is the same class with
smaller widths. Its ``table`` says which numbers of each tensor are copied into it, by index arithmetic written for that
network. Nothing here asks the package which numbers belong to a filter.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from random_networks import randomize
from torch import Tensor, nn

Kept: TypeAlias = Sequence[int] | None
Table: TypeAlias = dict[str, tuple[Kept, ...]]
"""Name of a tensor -> the indices that stay along each dimension, None for all. The name of a module stands for its
weight, by both dimensions, and for all its vectors, by the first."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


# index arithmetic


def joined(*parts: tuple[int, Kept]) -> list[int]:
    """Places that stay in a concatenation of parts, (size, indices that stay) each."""
    places, start = [], 0
    for size, kept in parts:
        places += [start + k for k in (range(size) if kept is None else kept)]
        start += size
    return places


def blocks(kept: Sequence[int], size: int) -> list[int]:
    """Every index has ``size`` places in a row: a flatten of maps with ``size`` positions."""
    return [k * size + i for k in kept for i in range(size)]


def strides(kept: Sequence[int], n: int, times: int) -> list[int]:
    """All ``n`` indices stand in a row, ``times`` over: groups, or a flatten of maps with the channels last."""
    return [i * n + k for i in range(times) for k in kept]


# what every network has


class Known(nn.Module):
    """A network that knows which filters can be removed.

    Attributes:
        layers: width -> all producers of the layer. Other widths cannot be removed.
        stays: convolution -> a pattern that the reason for its stay contains.
        may_stay: widths that a package may refuse, with a reason; where it does not, it must be right.
        reads_what_it_writes: forward reads a weight along the dimension that its module writes, without a bias.
        widths: the arguments of the constructor.
    """

    layers: ClassVar[dict[str, tuple[str, ...]]]
    stays: ClassVar[dict[str, str]] = {}
    may_stay: ClassVar[tuple[str, ...]] = ()
    reads_what_it_writes: ClassVar[bool] = False
    shape: ClassVar[tuple[int, ...]] = (2, 6, 5)
    widths: dict[str, int]

    def example(self, n: int = 3) -> Any:
        """Inputs: a tensor, a tuple of arguments, or a dict of them."""
        return random_input(n, *self.shape)

    def table(self, **kept: list[int]) -> Table:
        raise NotImplementedError


def random_input(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(kind: type[Known], seed: int, smallest: int = 2) -> Known:
    """The network with random widths and numbers, in float64 and eval mode."""
    draw = random.Random(f"{kind.__name__} {seed}")
    widths = {name: draw.randint(smallest, 5) for name in inspect.signature(kind).parameters}
    model = kind(**widths).double()
    model.widths = widths
    randomize(model, seed)
    return model.eval()


def some_filters(model: Known, seed: int) -> dict[str, list[int]]:
    """Width -> indices that stay: in each layer at least one stays, and at least one of two is removed."""
    draw = random.Random(seed)
    return {
        name: sorted(draw.sample(range(n), draw.randint(1, max(n - 1, 1)))) if name in model.layers else list(range(n))
        for name, n in model.widths.items()
    }


def resolved(model: nn.Module, table: Table) -> Table:
    """The table with a line for every tensor, and for tensors only."""
    lines: Table = {}
    for name, kept in table.items():
        if name in dict(model.named_modules()):
            for tensor, value in _tensors(model.get_submodule(name), recurse=False).items():
                if value.ndim:
                    lines[f"{name}.{tensor}"] = kept[: 1 if value.ndim == 1 else 2]
        else:
            lines[name] = kept
    return lines


def _tensors(model: nn.Module, recurse: bool = True) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(recurse=recurse)), **dict(model.named_buffers(recurse=recurse))}


def by_hand(model: Known, kept: Mapping[str, list[int]]) -> Known:
    """The network with the kept filters only: built with smaller widths, its numbers copied by the table."""
    small = type(model)(**{name: len(stay) for name, stay in kept.items()}).double()
    small.widths = {name: len(stay) for name, stay in kept.items()}
    lines = resolved(model, model.table(**kept))
    with torch.no_grad():
        for name, target in _tensors(small).items():
            source = _tensors(model)[name].detach()
            for dim, stay in enumerate(lines.pop(name, ())):
                if stay is not None:
                    source = source[(slice(None),) * dim + (list(stay),)]
            assert source.shape == target.shape, f"the table of {type(model).__name__} is wrong for {name}"
            target.copy_(source)
            target.requires_grad_(_tensors(model)[name].requires_grad)
    assert not lines, f"the table of {type(model).__name__} has no tensors {list(lines)}"
    return small.train(model.training)


def readers_closed(model: Known, kept: Mapping[str, list[int]]) -> Known:
    """Return the whole network, with zeros where layers read removed filters: gates closed, by hand."""
    closed = copy.deepcopy(model)
    for name, dims in resolved(model, model.table(**kept)).items():
        module = closed.get_submodule(name.rpartition(".")[0])
        if name.endswith("weight") and isinstance(module, (*CONVOLUTIONS, nn.Linear)) and len(dims) > 1:
            dim = 0 if isinstance(module, TRANSPOSED) else 1
            for d in (0, 1) if model.reads_what_it_writes else (dim,):
                if (stay := dims[d]) is not None:
                    gone = [i for i in range(module.weight.shape[d]) if i not in set(stay)]
                    with torch.no_grad():
                        module.weight[(slice(None),) * d + (gone,)] = 0.0
    return closed


def run(model: nn.Module, example: Any) -> Any:
    """The outputs for a tensor, a tuple of arguments, or a dict of them."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def tensors_of(outputs: Any) -> list[Tensor]:
    """All tensors of an output, whatever it is made of."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    elif hasattr(outputs, "__dataclass_fields__"):
        outputs = [getattr(outputs, name) for name in outputs.__dataclass_fields__]
    return [tensor for part in outputs for tensor in tensors_of(part)]


def conv(i: int, o: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, padding=kernel // 2, **settings)


# maps that are joined


class Dense(Known):
    """Each convolution reads all maps before it, behind a norm of their own."""

    layers: ClassVar = {"a": ("a",), "b": ("b",), "c": ("c",)}

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.a, self.norm_b, self.b = conv(2, a), nn.BatchNorm2d(a), conv(a, b, bias=False)
        self.norm_c, self.c = nn.BatchNorm2d(a + b), conv(a + b, c)
        self.norm, self.head = nn.BatchNorm2d(a + b + c), nn.Linear(4 * (a + b + c), 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.a(x)]
        maps.append(self.b(F.relu(self.norm_b(torch.cat(maps, 1)))))
        maps.append(self.c(F.relu(self.norm_c(torch.cat(maps, 1)))))
        out: Tensor = self.head(F.adaptive_avg_pool2d(F.silu(self.norm(torch.cat(maps, 1))), 2).flatten(1))
        return out

    def table(self, *, a: list[int], b: list[int], c: list[int]) -> Table:  # type: ignore[override]
        n_a, n_b, n_c = self.widths.values()
        two, three = joined((n_a, a), (n_b, b)), joined((n_a, a), (n_b, b), (n_c, c))
        return {
            "a": (a, None),
            "norm_b": (a,),
            "b": (b, a),
            "norm_c": (two,),
            "c": (c, two),
            "norm": (three,),
            "head": (None, blocks(three, 4)),
        }


class CatWithInput(Known):
    """The image stands before the maps, and stays."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a), conv(a + 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([x, self.a(x).relu()], 1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "head": (None, joined((2, None), (self.widths["a"], a)))}


class UNet(Known):
    """Down, up again by transposed convolutions, and the maps of the way down joined to those of the way up."""

    layers: ClassVar = {"a": ("a",), "b": ("b",), "c": ("c",), "up": ("up",), "d": ("d",), "e": ("e",)}
    shape: ClassVar = (2, 8, 4)

    def __init__(self, a: int, b: int, c: int, up: int, d: int, e: int) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = conv(2, a), nn.BatchNorm2d(a), conv(a, b), conv(b, c)
        self.up, self.d = nn.ConvTranspose2d(c, up, 2, stride=2), conv(up + b, d)
        self.up_norm, self.e, self.head = nn.BatchNorm2d(up), conv(d + a, e), conv(e, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm(self.a(x)))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        c = F.relu(self.c(F.max_pool2d(b, 2)))
        d = F.relu(self.d(torch.cat([self.up_norm(self.up(c)), b], 1)))
        e = F.relu(self.e(torch.cat([a, F.interpolate(d, size=a.shape[2:], mode="bilinear")], 1)))
        out: Tensor = self.head(e)
        return out

    def table(self, **kept: list[int]) -> Table:
        a, b, c, up, d, e = (kept[name] for name in self.widths)
        n = self.widths
        return {
            "a": (a, None),
            "norm": (a,),
            "b": (b, a),
            "c": (c, b),
            "up.weight": (c, up),
            "up.bias": (up,),
            "up_norm": (up,),
            "d": (d, joined((n["up"], up), (n["b"], b))),
            "e": (e, joined((n["a"], a), (n["d"], d))),
            "head": (None, e),
        }


class Pyramids(Known):
    """Atrous branches, and one of the whole map, joined; the outputs at the size of the image."""

    layers: ClassVar = {name: (name,) for name in "abcde"}

    def __init__(self, a: int, b: int, c: int, d: int, e: int) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(2, a), conv(a, b, 1), nn.Conv2d(a, c, 3, padding=2, dilation=2)
        self.d, self.e, self.head = conv(a, d, 1), conv(b + c + d, e, 1), conv(e, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(x))
        pooled = F.interpolate(self.d(F.adaptive_avg_pool2d(a, 1)), size=a.shape[-2:], mode="bilinear")
        e = F.relu(self.e(torch.cat([self.b(a), self.c(a), pooled], dim=1)))
        return {"out": F.interpolate(self.head(F.avg_pool2d(e, 2)), size=x.shape[-2:])}

    def table(self, **kept: list[int]) -> Table:
        a, b, c, d, e = kept.values()
        parts = joined(*((self.widths[name], kept[name]) for name in "bcd"))
        return {"a": (a, None), "b": (b, a), "c": (c, a), "d": (d, a), "e": (e, parts), "head": (None, e)}


# convolutions of every kind


class Groups(Known):
    """Filters at the same place of each group are removed together, before the grouped convolution and behind it."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.norm = conv(2, 3 * a), nn.BatchNorm2d(3 * a)
        self.b, self.head = conv(3 * a, 3 * b, groups=3), nn.Linear(3 * b * 30, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.gelu(self.b(F.relu(self.norm(self.a(x))))).flatten(1))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        all_a, all_b = strides(a, self.widths["a"], 3), strides(b, self.widths["b"], 3)
        return {"a": (all_a, None), "norm": (all_a,), "b": (all_b, a), "head": (None, blocks(all_b, 30))}


class TransposedGroups(Known):
    """As :class:`Groups`, with a transposed convolution, whose weight has its inputs first."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = conv(2, 2 * a), nn.ConvTranspose2d(2 * a, 2 * b, 3, stride=2, groups=2)
        self.norm, self.head = nn.BatchNorm2d(2 * b), conv(2 * b, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.b(torch.tanh(self.a(x)))).relu())
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        all_a, all_b = strides(a, self.widths["a"], 2), strides(b, self.widths["b"], 2)
        return {
            "a": (all_a, None),
            "b.weight": (all_a, b),
            "b.bias": (all_b,),
            "norm": (all_b,),
            "head": (None, all_b),
        }


class Bottleneck(Known):
    """A residual block around a grouped convolution: maps that meet are removed together, also through groups."""

    layers: ClassVar = {"a": ("a", "d"), "b": ("b",), "c": ("c",)}

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(2, a), conv(a, 2 * b, 1), conv(2 * b, 2 * c, groups=2)
        self.d, self.norm, self.head = conv(2 * c, a, 1), nn.BatchNorm2d(a), nn.Linear(a, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x + self.norm(self.d(F.relu(self.c(F.relu(self.b(x))))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out

    def table(self, *, a: list[int], b: list[int], c: list[int]) -> Table:  # type: ignore[override]
        all_b, all_c = strides(b, self.widths["b"], 2), strides(c, self.widths["c"], 2)
        return {
            "a": (a, None),
            "b": (all_b, a),
            "c": (all_c, b),
            "d": (a, all_c),
            "norm": (a,),
            "head": (None, a),
        }


class Multiplier(Known):
    """A depthwise convolution that makes three maps of each."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.depth, self.norm = conv(2, a), conv(a, 3 * a, groups=a), nn.BatchNorm2d(3 * a)
        self.b, self.head = conv(3 * a, b, 1), nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.b(F.relu6(self.norm(self.depth(self.a(x))))))
        out: Tensor = self.head(x.amax((2, 3)))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        three = blocks(a, 3)
        return {"a": (a, None), "depth": (three,), "norm": (three,), "b": (b, three), "head": (None, b)}


class TransposedDepthwise(Known):
    """Upsampling by a depthwise transposed convolution."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.depth = conv(2, a), nn.ConvTranspose2d(a, a, 4, stride=2, padding=1, groups=a)
        self.head = conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.depth(self.a(x).relu()))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "depth": (a,), "head": (None, a)}


class Dimensions(Known):
    """Convolution, norm, pooling, transposed convolution, in as many dimensions as the subclass says."""

    layers: ClassVar = {"a": ("a",), "b": ("b",), "c": ("c",)}
    dims: ClassVar[int] = 2

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        d = self.dims
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[d]
        transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[d]
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[d]
        self.pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[d](2)
        self.a, self.norm = convolution(2, a, 3, padding=1, bias=False), norm(a)
        self.b, self.b_norm = transposed(a, b, 2, stride=2), norm(b)
        self.c, self.head = convolution(b, c, 3), nn.Linear(c * 2**d, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.leaky_relu(self.norm(self.a(x))))
        x = F.elu(self.c(F.relu(self.b_norm(self.b(x)))))
        out: Tensor = self.head(x.flatten(1))
        return out

    def example(self, n: int = 3) -> Tensor:
        return random_input(n, 2, *[4] * self.dims)

    def table(self, *, a: list[int], b: list[int], c: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "norm": (a,),
            "b.weight": (a, b),
            "b.bias": (b,),
            "b_norm": (b,),
            "c": (c, b),
            "head": (None, blocks(c, 2**self.dims)),
        }


class OneDimension(Dimensions):
    dims: ClassVar = 1


class TwoDimensions(Dimensions):
    dims: ClassVar = 2


class ThreeDimensions(Dimensions):
    dims: ClassVar = 3


class Separable(Known):
    """Space and time apart, as in video networks."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(2, a, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm, self.b = nn.BatchNorm3d(a), nn.Conv3d(a, b, (3, 1, 1), padding=(1, 0, 0))
        self.head = nn.Conv3d(b, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(F.avg_pool3d(F.relu(self.b(F.relu(self.norm(self.a(x))))), (2, 3, 3)))
        return torch.mean(x, dim=[2, 3, 4])

    def example(self, n: int = 3) -> Tensor:
        return random_input(n, 2, 4, 6, 6)

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "norm": (a,), "b": (b, a), "head": (None, b)}


# modules that are called several times


class Siamese(Known):
    """One branch, called for each of two inputs."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = conv(2, a), nn.BatchNorm2d(a), conv(a, b), nn.Linear(2 * b, 2)

    def branch(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((-1, -2))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = self.branch(left), self.branch(right)
        out: Tensor = self.head(torch.cat([(left - right).abs(), left * right], dim=-1))
        return out

    def example(self, n: int = 3) -> tuple[Tensor, Tensor]:
        return random_input(n, 2, 6, 5), random_input(n, 2, 6, 5, seed=1)

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "norm": (a,), "b": (b, a), "head": (None, strides(b, self.widths["b"], 2))}


class SharedHead(Known):
    """A feature pyramid: one head reads the maps of two producers, which are therefore removed together."""

    layers: ClassVar = {"a": ("a",), "b": ("b",), "p": ("p", "q"), "h": ("h",)}
    shape: ClassVar = (2, 8, 8)

    def __init__(self, a: int, b: int, p: int, h: int) -> None:
        super().__init__()
        self.a, self.b = conv(2, a, stride=2), conv(a, b, stride=2)
        self.p, self.q = conv(a, p, 1), conv(b, p, 1)
        self.h, self.boxes = conv(p, h), conv(h, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        fine, coarse = self.p(a), self.q(b)
        maps = [fine + F.interpolate(coarse, scale_factor=2.0), coarse]
        return [self.boxes(F.relu(self.h(m))) for m in maps]

    def table(self, *, a: list[int], b: list[int], p: list[int], h: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "b": (b, a),
            "p": (p, a),
            "q": (p, b),
            "h": (h, p),
            "boxes": (None, h),
        }


class SharedHeadAlone(Known):
    """As :class:`SharedHead`, and nothing but the head joins its producers."""

    layers: ClassVar = {"a": ("a", "b"), "h": ("h",)}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int, h: int) -> None:
        super().__init__()
        self.a, self.b, self.h, self.head = conv(2, a), conv(2, a, stride=2), conv(a, h), conv(h, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(F.relu(self.h(F.relu(self.a(x))))), self.head(F.relu(self.h(F.relu(self.b(x)))))

    def table(self, *, a: list[int], h: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (a, None), "h": (h, a), "head": (None, h)}


class Recurrent(Known):
    """A convolution that reads what it wrote."""

    layers: ClassVar = {"a": ("a", "b")}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(2, a), conv(a, a), conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (a, a), "head": (None, a)}


class TiedWeight(Known):
    """An autoencoder that goes back with the weight of the way there."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    may_stay: ClassVar = ("a", "b")
    reads_what_it_writes: ClassVar = True

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(2, a, bias=False), conv(a, b, bias=False), nn.Linear(60, 2)

    def forward(self, x: Tensor) -> Tensor:
        b = F.relu(self.b(F.relu(self.a(x))))
        a = F.relu(F.conv_transpose2d(b, self.b.weight, padding=1))
        out: Tensor = self.head(F.conv_transpose2d(a, self.a.weight, padding=1).flatten(1))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a)}


# channels that move


class ChannelsLast(Known):
    """The channels are the last dimension when the maps are flattened."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a, stride=2), nn.Linear(a * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.a(x)).permute(0, 2, 3, 1).flatten(1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "head": (None, strides(a, self.widths["a"], 9))}


class HeightFirst(Known):
    """Height and channels change places: a filter's columns stand in several runs."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a), nn.Linear(a * 30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu().transpose(1, 2)
        out: Tensor = self.head(x.reshape(x.size(0), -1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        columns = [(row * self.widths["a"] + k) * 5 + i for row in range(6) for k in a for i in range(5)]
        return {"a": (a, None), "head": (None, columns)}


class Sequence1d(Known):
    """Rows of a picture as a sequence of features: the usual neck of text recognition."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.project, self.b = conv(2, a), nn.Linear(a * 6, 4), nn.Conv1d(4, b, 3)
        self.head = nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu().permute(0, 3, 1, 2).flatten(2)
        x = F.relu(self.b(self.project(x).transpose(1, 2)))
        out: Tensor = self.head(x.transpose(1, 2))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "project": (None, blocks(a, 6)), "b": (b, None), "head": (None, b)}


class PointwiseLinear(Known):
    """ConvNeXt's block without its norm: linear layers over channels that are last, a scale (C,), a residual add."""

    layers: ClassVar = {"a": ("a", "second")}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.depth = conv(2, a, stride=2), conv(a, a, groups=a)
        self.first, self.second, self.scale = nn.Linear(a, 7), nn.Linear(7, a), nn.Parameter(torch.ones(a))
        self.head = nn.Linear(a, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.second(F.gelu(self.first(self.depth(x).permute(0, 2, 3, 1))))
        x = x + (self.scale * y).permute(0, 3, 1, 2)
        out: Tensor = self.head(x.mean([-2, -1]))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "depth": (a,),
            "first": (None, a),
            "second": (a, None),
            "scale": (a,),
            "head": (None, a),
        }


class Shuffle(Known):
    """Maps of two groups are dealt in turn, by view and transpose: both groups lose the same places."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(2, 2 * a), conv(2 * a, b), conv(b, 2)

    def shuffle(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.size()
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(n, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(self.shuffle(F.relu(self.a(x))))))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (strides(a, self.widths["a"], 2), None), "b": (b, blocks(a, 2)), "head": (None, b)}


class ShuffleModule(Shuffle):
    """The same by PyTorch's own module."""

    def shuffle(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x, 2)


class ShuffleUnit(Known):
    """ShuffleNet's unit: one half passes, one half is worked on, and both are dealt in turn."""

    layers: ClassVar = {"a": ("a", "c"), "b": ("b",)}
    may_stay: ClassVar = ("a", "b")

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(2, 2 * a), nn.BatchNorm2d(2 * a), conv(a, b, 1)
        self.depth, self.c, self.head = conv(b, b, groups=b), conv(b, a, 1), conv(2 * a, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.norm(self.a(x))).chunk(2, dim=1)
        x = torch.cat((left, F.relu(self.c(self.depth(F.relu(self.b(right)))))), dim=1)
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        out: Tensor = self.head(x)
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        halves = strides(a, self.widths["a"], 2)
        return {
            "a": (halves, None),
            "norm": (halves,),
            "b": (b, a),
            "depth": (b,),
            "c": (a, b),
            "head": (None, blocks(a, 2)),
        }


class PixelShuffle(Known):
    """Four filters in a row make the pixels of one map, and are removed together."""

    layers: ClassVar = {"a": ("a",)}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, 4 * a), conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(F.pixel_shuffle(self.a(x), 2)))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (blocks(a, 4), None), "head": (None, a)}


class PixelUnshuffle(Known):
    """One map becomes four."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    shape: ClassVar = (2, 6, 4)

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(2, a), nn.BatchNorm2d(4 * a), conv(4 * a, b)
        self.head = conv(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(self.norm(F.pixel_unshuffle(F.relu(self.a(x)), 2)))))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "norm": (blocks(a, 4),), "b": (b, blocks(a, 4)), "head": (None, b)}


class SpaceToDepth(Known):
    """YOLO's focus: every other pixel, in four maps that are joined."""

    layers: ClassVar = {"a": ("a",)}
    shape: ClassVar = (2, 6, 4)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a), conv(4 * a, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        out: Tensor = self.head(torch.cat(parts, 1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "head": (None, strides(a, self.widths["a"], 4))}


class Repeat(Known):
    """Maps are repeated as a whole, and turned."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a), conv(2 * a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([F.relu(self.a(x)).flip(-1), self.a(x).roll(1, 2)], 1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "head": (None, strides(a, self.widths["a"], 2))}


class GatedUnit(Known):
    """One half of the filters gates the other, place by place."""

    layers: ClassVar = {"a": ("a",)}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.norm, self.head = conv(2, 2 * a), nn.BatchNorm2d(2 * a), conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.halves(self.norm(self.a(x)))
        out: Tensor = self.head(value * gate.sigmoid())
        return out

    def halves(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.chunk(2, dim=1)

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        halves = strides(a, self.widths["a"], 2)
        return {"a": (halves, None), "norm": (halves,), "head": (None, a)}


class GatedUnitBySplit(GatedUnit):
    def halves(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, x.shape[1] // 2, dim=1)


class GatedUnitBySlices(GatedUnit):
    may_stay: ClassVar = ("a",)

    def halves(self, x: Tensor) -> tuple[Tensor, ...]:
        middle = x.shape[1] // 2
        return x[:, :middle], x[:, middle:]


class Glu(GatedUnit):
    """The same by PyTorch's own function."""

    may_stay: ClassVar = ("a",)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.glu(self.norm(self.a(x)), dim=1))
        return out


# numbers that meet


class SqueezeByConvolutions(Known):
    """A small network on the means gates each map."""

    layers: ClassVar = {"a": ("a", "excite"), "squeeze": ("squeeze",)}

    def __init__(self, a: int, squeeze: int) -> None:
        super().__init__()
        self.a, self.squeeze, self.excite = conv(2, a), conv(a, squeeze, 1), conv(squeeze, a, 1)
        self.head = nn.Linear(a * 30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        x = x * self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        out: Tensor = self.head(x.flatten(1))
        return out

    def table(self, *, a: list[int], squeeze: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "squeeze": (squeeze, a),
            "excite": (a, squeeze),
            "head": (None, blocks(a, 30)),
        }


class SqueezeByLinears(Known):
    """The same with linear layers, and a view back to maps."""

    layers: ClassVar = {"a": ("a", "excite"), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.squeeze, self.excite = conv(2, a), nn.Linear(a, 4), nn.Linear(4, a, bias=False)
        self.b, self.head = conv(a, b), nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        n, channels, _, _ = x.shape
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        x = F.relu(self.b(x * gate.view(n, channels, 1, 1).expand_as(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "squeeze": (None, a), "excite": (a, None), "b": (b, a), "head": (None, b)}


class LayerScale(Known):
    """Parameters of their own shape meet the maps: (C, 1, 1), (1, C, 1, 1), one for all, and PReLU's."""

    layers: ClassVar = {"a": ("a", "b")}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.b, self.prelu, self.one = conv(2, a), conv(a, a), nn.PReLU(a), nn.PReLU()
        self.scale, self.shift = nn.Parameter(torch.ones(a, 1, 1)), nn.Parameter(torch.ones(1, a, 1, 1))
        self.all, self.head = nn.Parameter(torch.ones(1)), conv(a, 2)
        self.register_buffer("mean", torch.zeros(a).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.a(x))
        x = x + self.scale * self.one(self.b(x)) + self.shift - self.mean
        out: Tensor = self.head(x * self.all)
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "b": (a, a),
            "prelu": (a,),
            "scale": (a,),
            "shift": (None, a),
            "mean": (a,),
            "head": (None, a),
        }


class OneGateForAll(Known):
    """A map of one channel multiplies all: they are removed one by one, and it stays."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    stays: ClassVar = {"where": ""}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.where, self.head = conv(2, a), conv(2, b), conv(b, 1), conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.a(x)) * self.where(F.relu(self.b(x))).sigmoid())
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, None), "where": (None, b), "head": (None, a)}


class SpatialAttention(Known):
    """Means over the channels decide where to look: without a filter they would be others."""

    layers: ClassVar = {"b": ("b",)}
    stays: ClassVar = {"a": "", "where": ""}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.where, self.b, self.head = conv(2, a), conv(2, 1), conv(a, b), conv(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        where = self.where(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        out: Tensor = self.head(F.relu(self.b(x * where.sigmoid())))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"b": (b, None), "head": (None, b)}


# sizes of maps


class Padding(Known):
    """Zeros on any side."""

    layers: ClassVar = {"a": ("a",), "b": ("b",), "c": ("c",)}

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, a, 3), nn.Conv2d(a, b, 3, stride=2), nn.Conv2d(b, c, 2)
        self.pad, self.head = nn.ZeroPad2d((0, 1, 2, 1)), conv(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.pad(x, (0, 2, 1, 1))))
        x = F.relu(self.b(F.pad(x, (1, 0, 0, 1))))
        x = F.max_pool2d(F.pad(self.c(self.pad(x)), [0, 1, 0, 1]), 2)
        out: Tensor = self.head(x)
        return out

    def table(self, *, a: list[int], b: list[int], c: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a), "c": (c, b), "head": (None, c)}


class PaddingAdded(Known):
    """Maps of two sizes meet, the smaller with zeros around it."""

    layers: ClassVar = {"a": ("a", "b")}

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(2, a, 3, padding=1), nn.Conv2d(2, a, 2), conv(a, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.a(x) + F.pad(self.b(x), (1, 0, 0, 1))))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (a, None), "head": (None, a)}


class PaddingFlattened(Known):
    """The columns that read the zeros belong to a filter as well."""

    layers: ClassVar = {"a": ("a",)}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.head = conv(2, a), nn.Linear(a * 7 * 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.pad(F.relu(self.a(x)), (2, 0, 0, 1)).flatten(1))
        return out

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "head": (None, blocks(a, 49))}


class PaddedChannels(Known):
    """The first ResNet's short cut: channels of zeros, as many as forward says, meet those of a convolution."""

    layers: ClassVar = {"c": ("c",)}
    stays: ClassVar = {"a": "", "b": ""}

    def __init__(self, a: int, c: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(2, a), conv(a, a + 3, stride=2), conv(a + 3, c), conv(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        out: Tensor = self.head(F.relu(self.c(F.relu(x))))
        return out

    def table(self, *, a: list[int], c: list[int]) -> Table:  # type: ignore[override]
        return {"c": (c, None), "head": (None, c)}


class FixedCut(Known):
    """A cut at a channel that forward names."""

    layers: ClassVar = {"b": ("b",)}
    stays: ClassVar = {"a": ""}
    may_stay: ClassVar = ("b",)

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(2, a + 1), conv(a, b), conv(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        out: Tensor = self.head(F.relu(self.b(x[:, 1:])) * x[:, :1])
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"b": (b, None), "head": (None, b)}


class UpAndDown(Known):
    """Every way to another size."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    shape: ClassVar = (2, 8, 6)

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.up = conv(2, a), conv(a, b), nn.Upsample(scale_factor=2, mode="nearest")
        self.pool, self.drop, self.head = nn.AvgPool2d(3, stride=2, padding=1), nn.Dropout2d(), conv(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.pool(F.relu(self.a(x))))
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        x = self.drop(F.softplus(self.b(x)))
        x = F.interpolate(F.max_pool2d(x, 3, 2, 1, ceil_mode=True), size=(7, 5), mode="bicubic")
        out: Tensor = self.head(F.adaptive_max_pool2d(x[:, :, 1:-1], (2, 1)))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a), "head": (None, b)}


# inputs and outputs


class TwoInputs(Known):
    """A picture and numbers, which a linear layer brings to the maps."""

    layers: ClassVar = {"a": ("a", "shift"), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.shift, self.b = conv(2, a), nn.Linear(4, a), conv(a, b)
        self.head = nn.Linear(b + 4, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = F.relu(self.a(image) + self.shift(numbers)[:, :, None, None])
        x = F.relu(self.b(x)).mean((2, 3))
        out: Tensor = self.head(torch.cat([x, numbers], 1))
        return out

    def example(self, n: int = 3) -> tuple[Tensor, Tensor]:
        return random_input(n, 2, 6, 5), random_input(n, 4)

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {
            "a": (a, None),
            "shift": (a, None),
            "b": (b, a),
            "head": (None, joined((self.widths["b"], b), (4, None))),
        }


class NamedInputs(TwoInputs):
    """The same, called by keyword."""

    def example(self, n: int = 3) -> Any:
        return {"numbers": random_input(n, 4), "image": random_input(n, 2, 6, 5)}


class ModulatedScale(Known):
    """A second input gives scale and shift of every map, cut in halves: FiLM."""

    layers: ClassVar = {"a": ("a", "film")}
    may_stay: ClassVar = ("a",)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a, self.film, self.head = conv(2, a), nn.Linear(4, 2 * a), conv(a, 2)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        scale, shift = self.film(numbers).unsqueeze(-1).unsqueeze(-1).chunk(2, 1)
        out: Tensor = self.head(F.relu(self.a(image) * (1 + scale) + shift))
        return out

    def example(self, n: int = 3) -> tuple[Tensor, Tensor]:
        return random_input(n, 2, 6, 5), random_input(n, 4)

    def table(self, *, a: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "film": (strides(a, self.widths["a"], 2), None), "head": (None, a)}


class SeveralOutputs(Known):
    """Heads on maps of two depths; a map that is an output stays."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}
    stays: ClassVar = {"c": "output", "second": "output"}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(2, a), conv(a, b), conv(b, 3)
        self.first, self.second = nn.Linear(a, 2), conv(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        a = F.relu(self.a(x))
        c = F.relu(self.c(F.relu(self.b(a))))
        return self.first(a.mean((2, 3))), (c, self.second(c))

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a), "c": (None, b), "first": (None, a)}


class DictOutput(Known):
    """A dict of outputs, with lists in it."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.logits, self.low = conv(2, a), conv(a, b), nn.Linear(b * 30, 3), conv(a, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        return {"logits": self.logits(torch.flatten(b, 1)), "low": [self.low(a)]}

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a), "logits": (None, blocks(b, 30)), "low": (None, a)}


@dataclass
class Answer:
    logits: Tensor
    low: Tensor


class DataOutput(DictOutput):
    """A dataclass of outputs that PyTorch has not heard of."""

    def forward(self, x: Tensor) -> Any:
        outputs = super().forward(x)
        return Answer(outputs["logits"], outputs["low"][0])


class HeadInTraining(Known):
    """What a head reads that only runs in train mode belongs to the filters as well."""

    layers: ClassVar = {"a": ("a",), "b": ("b",)}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.head, self.auxiliary = conv(2, a), conv(a, b), nn.Linear(b, 3), nn.Linear(a, 3)

    def forward(self, x: Tensor) -> Any:
        a = F.relu(self.a(x))
        x = self.head(F.dropout(F.relu(self.b(a)), 0.1, training=self.training).mean((2, 3)))
        return (x, self.auxiliary(a.mean((2, 3)))) if self.training else x

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"a": (a, None), "b": (b, a), "head": (None, b), "auxiliary": (None, a)}


# norms over channels


class NormOverChannels(Known):
    """ConvNeXt's block: without a channel the statistics of the others change, so none is removed before the norm."""

    layers: ClassVar = {"b": ("b",)}
    stays: ClassVar = {"a": "norm"}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.depth, self.norm = conv(2, a, stride=2), conv(a, a, groups=a), nn.LayerNorm(a)
        self.first, self.second, self.scale = nn.Linear(a, 6), nn.Linear(6, a), nn.Parameter(torch.ones(a))
        self.b, self.head = conv(a, b), nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.second(F.gelu(self.first(y)))).permute(0, 3, 1, 2)
        out: Tensor = self.head(F.relu(self.b(x)).mean((2, 3)))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"b": (b, None), "head": (None, b)}


class NormOfGroups(Known):
    """GroupNorm: the same, group by group."""

    layers: ClassVar = {"b": ("b",)}
    stays: ClassVar = {"a": "norm"}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = conv(2, 2 * a), nn.GroupNorm(2, 2 * a), conv(2 * a, b), conv(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(F.relu(self.norm(self.a(x))))))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"b": (b, None), "head": (None, b)}


class SoftmaxOverChannels(Known):
    """Shares of a whole: without a channel, those of the others grow."""

    layers: ClassVar = {"b": ("b",)}
    stays: ClassVar = {"a": "softmax"}

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(2, a), conv(a, b), conv(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(self.a(x).softmax(1))))
        return out

    def table(self, *, a: list[int], b: list[int]) -> Table:  # type: ignore[override]
        return {"b": (b, None), "head": (None, b)}


def _kinds(of: type[Known]) -> list[type[Known]]:
    return [kind for sub in of.__subclasses__() for kind in (sub, *_kinds(sub))]


KINDS = [kind for kind in _kinds(Known) if kind is not Dimensions]
