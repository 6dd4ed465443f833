"""Random convolutional networks for property tests, and what the tests compare them with.

``networks()`` draws a graph: convolutions, and between them any order of BatchNorm, activations, pooling, dropout and
depthwise convolutions, as modules, functions and methods; forks, residual adds, cats, groups; one or two heads behind
flatten, view, mean or adaptive pooling. Each network knows what can be removed: ``prunable``, each layer's producers,
and ``widths``, how many filters of each can be removed one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnprune_utils.batches import Split
from cnnprune_utils.plan import Plan

Network = TypeVar("Network", bound=nn.Module)
N_CLASSES = 3
PROPERTY = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks of this size run faster on one thread. A test file that imports this has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _view_by_unpacking(x: Tensor) -> Tensor:
    n, _channels, _height, _width = x.shape
    return x.view(n, -1)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    # activations: functions, methods, in place
    "F.relu": lambda x: F.relu(x),
    "torch.relu": lambda x: torch.relu(x),
    "x.relu": lambda x: x.relu(),
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "x.sigmoid": lambda x: x.sigmoid(),
    "torch.sigmoid": lambda x: torch.sigmoid(x),
    "F.silu": lambda x: F.silu(x),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.softplus": lambda x: F.softplus(x),
    "F.gelu": lambda x: F.gelu(x),
    "x.tanh": lambda x: x.tanh(),
    # carriers
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "F.dropout": lambda x: F.dropout(x, 0.5, training=False),
    "x.contiguous": lambda x: x.contiguous(),
    "F.interpolate": lambda x: F.interpolate(x, scale_factor=2),
    # joins
    "add": lambda a, b: a + b,
    "torch.add": lambda a, b: torch.add(a, b),
    "torch.sub": lambda a, b: torch.sub(a, b),
    "mul": lambda a, b: a * b,
    "torch.maximum": lambda a, b: torch.maximum(a, b),
    "cat": lambda a, b: torch.cat([a, b], 1),
    "affine": lambda x: 1 - x * 0.5,
    # not known to keep channels apart
    "softmax": lambda x: F.softmax(x, 1),
    # from maps to features
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "x.flatten": lambda x: x.flatten(start_dim=1),
    "x.view size": lambda x: x.view(x.size(0), -1),
    "x.view unpacked": _view_by_unpacking,
    "x.reshape shape": lambda x: x.reshape(x.shape[0], -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "x.mean": lambda x: x.mean((2, 3)),
    "x.mean keepdim": lambda x: torch.mean(x, dim=[-1, -2], keepdim=True),
    "x.amax": lambda x: x.amax((2, 3)),
}
ACTIVATION_CALLS = [name for name in FUNCTIONS if name.split()[0].split(".")[-1] in
                    "relu sigmoid silu leaky_relu softplus gelu tanh".split()]  # fmt: skip
ACTIVATION_MODULES = [nn.ReLU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.Hardswish, nn.ELU]
FLATTENS = ["module", "torch.flatten", "x.flatten", "x.view size", "x.view unpacked", "x.reshape shape",
            "torch.reshape", "x.mean", "x.mean keepdim", "x.amax", "adaptive", "adaptive to 1"]  # fmt: skip


class RandomNetwork(nn.Module):
    """Runs its ``steps``: (name of a function or a module, which of the values so far it reads)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[str, tuple[int, ...]]] = []
        self.outputs: list[int] = []
        self.image_shape = (1, 1, 1)
        self.prunable: dict[str, tuple[str, ...]] = {}
        self.widths: dict[str, int] = {}

    @property
    def example_input_array(self) -> Tensor:
        return self.split(2).inputs

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = [images]
        for call, reads in self.steps:
            do = self.layers[call] if call in self.layers else FUNCTIONS[call]
            values.append(do(*(values[i] for i in reads)))
        outputs = tuple(values[i] for i in self.outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def extra_repr(self) -> str:
        return f"images: {self.image_shape}, outputs: {self.outputs}, steps:\n" + "\n".join(map(str, self.steps))

    def split(self, n: int, seed: int = 0) -> Split:
        """``n`` random images that fit the network, in the precision of its parameters."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn((n, *self.image_shape), generator=generator, dtype=torch.float64)
        labels = torch.randint(N_CLASSES, (n,), generator=generator)
        return Split(images.to(next(self.parameters()).dtype), labels)


def loss_over_heads(outputs: Tensor | tuple[Tensor, ...], labels: Tensor, reduction: str) -> Tensor:
    """Cross entropy, summed over a network's heads."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([F.cross_entropy(head, labels, reduction=reduction) for head in heads]).sum(0)


class Net(nn.Module):
    """A network written where it is tested: ``forward(self, x)`` and its modules."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class _Builder:
    """Adds steps to a network. A value is the number of a step's result; ``channels`` says who makes its channels.

    Each filter has a number, and 0 is nobody. Filters that are only removed together point to each other in ``parent``.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.net = RandomNetwork()
        self.shapes: list[tuple[int, int, int]] = []
        self.channels: list[list[int]] = []
        self.filters: dict[str, list[int]] = {}
        self.parent: list[int] = [0]
        self.frozen: list[int] = []

    def step(self, call: str, reads: tuple[int, ...], shape: tuple[int, int, int], channels: list[int]) -> int:
        self.net.steps.append((call, reads))
        self.shapes.append(shape)
        self.channels.append(channels)
        return len(self.shapes) - 1

    def module(self, module: nn.Module, v: int, shape: tuple[int, int, int], channels: list[int]) -> int:
        name = f"m{len(self.net.layers)}"
        self.net.layers[name] = module
        return self.step(name, (v,), shape, channels)

    def root(self, filter_: int) -> int:
        while self.parent[filter_] != filter_:
            filter_ = self.parent[filter_]
        return filter_

    def together(self, a: list[int], b: list[int]) -> list[int]:
        """Number by number. What meets nobody's number cannot be removed."""
        for one, other in zip(a, b, strict=True):
            if one and other:
                low, high = sorted((self.root(one), self.root(other)))
                self.parent[high] = low
            else:
                self.frozen += [one, other]
        return [max(pair) for pair in zip(a, b, strict=True)]

    def meet(self, call: str, a: int, b: int) -> int:
        return self.step(call, (a, b), self.shapes[a], self.together(self.channels[a], self.channels[b]))

    def expect(self) -> None:
        """Convolutions that make the same filters are one layer, which stays where one of its filters is frozen."""
        frozen = {self.root(f) for f in self.frozen}
        parts: list[tuple[list[str], set[int]]] = []
        for name, filters in self.filters.items():
            mine = {self.root(f) for f in filters}
            joined = [part for part in parts if part[1] & mine]
            parts = [part for part in parts if part not in joined]
            names = sorted({name, *(n for part in joined for n in part[0])}, key=[*self.filters].index)
            parts.append((names, mine.union(*(part[1] for part in joined))))
        for names, mine in sorted(parts, key=lambda part: [*self.filters].index(part[0][0])):
            if not mine & frozen:
                self.layers_apart(names)

    def layers_apart(self, names: list[str]) -> None:
        """Filters that the same convolutions make are a layer; what others make beside them is another."""
        makers: dict[int, list[str]] = {}
        for name in names:
            for filter_ in dict.fromkeys(map(self.root, self.filters[name])):
                makers.setdefault(filter_, []).append(name)
        taken: dict[str, list[str]] = {}
        for several in sorted(dict.fromkeys(map(tuple, makers.values())), key=len):
            free = [name for name in several if name not in taken]
            if not free:
                self.net.prunable[names[0]], self.net.widths[names[0]] = tuple(names), len(makers)
                return
            taken[free[0]] = list(several)
        for name in filter(taken.__contains__, names):
            self.net.prunable[name] = tuple(taken[name])
            self.net.widths[name] = sum(several == taken[name] for several in makers.values())

    def conv(self, v: int, out_channels: int | None = None, groups: int = 1) -> int:
        channels, height, width = self.shapes[v]
        out = out_channels or self.draw(st.sampled_from([4, 3, 5, 6, 2, 1]))
        kernel = self.draw(st.sampled_from([1, 3]))
        conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=self.draw(st.booleans()))
        name, read = f"layers.m{len(self.net.layers)}", self.channels[v]
        if 1 < groups == channels:  # depthwise: each channel becomes several
            written = [f for f in read for _ in range(out // groups)]
        else:
            written = list(range(len(self.parent), len(self.parent) + out))
            self.parent += written
            self.filters[name] = written
            for group in range(1, groups):  # the same place of each group is removed together
                for all_, size in ((read, channels // groups), (written, out // groups)):
                    self.together(all_[:size], all_[group * size : (group + 1) * size])
        return self.module(conv, v, (out, height, width), written)

    def between(self, v: int, most: int = 3, resize: bool = True) -> int:
        """Nodes that keep channels apart, in any order. The map keeps its height and width if not ``resize``."""
        kinds = ["norm", "norm", "module", "module", "function", "function", "prelu", "prelu1", "dw", "drop", "same"]
        for kind in self.draw(st.lists(st.sampled_from(kinds + ["pool", "pool", "up"] * resize), max_size=most)):
            v = self._between(v, kind)
        return v

    def _between(self, v: int, kind: str) -> int:
        (channels, height, width), draw = self.shapes[v], self.draw
        same = (channels, height, width), self.channels[v]
        half = (channels, height // 2, width // 2), self.channels[v]
        if kind == "norm":
            if draw(st.integers(0, 4)) == 0:
                return self.module(nn.InstanceNorm2d(channels, affine=True, track_running_stats=True), v, *same)
            return self.module(nn.BatchNorm2d(channels, affine=draw(st.integers(0, 4)) > 0), v, *same)
        if kind == "module":
            return self.module(draw(st.sampled_from(ACTIVATION_MODULES))(), v, *same)
        if kind == "function":
            call = draw(st.sampled_from(ACTIVATION_CALLS))
            return self.step(call, (v,), *same)
        if kind == "prelu":
            return self.module(nn.PReLU(channels), v, *same)
        if kind == "prelu1":
            return self.module(nn.PReLU(), v, *same)
        if kind == "dw" and channels > 1:
            bias = draw(st.booleans())
            return self.module(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias), v, *same)
        if kind == "drop":
            return self.module(draw(st.sampled_from([nn.Dropout, nn.Dropout2d]))(), v, *same)
        if kind == "same":
            call = draw(st.sampled_from(["F.dropout", "x.contiguous", "identity", "affine"]))
            return self.module(nn.Identity(), v, *same) if call == "identity" else self.step(call, (v,), *same)
        if kind == "pool" and min(height, width) >= 2:
            call = draw(st.sampled_from(["F.max_pool2d", "F.avg_pool2d", "max", "avg"]))
            pools = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
            return self.module(pools[call](2), v, *half) if call in pools else self.step(call, (v,), *half)
        if kind == "up" and height * width <= 16:
            return self.step("F.interpolate", (v,), (channels, 2 * height, 2 * width), self.channels[v])
        return v

    def block(self, v: int) -> int:
        channels, height, width = self.shapes[v]
        rare = ["residual", "residual", "self", "cat", "cat", "excite", "groups", "groups", "multiply", "unknown"]
        kind = self.draw(st.sampled_from([*["chain"] * 6, *["fork"] * 4, *rare]))
        if kind == "fork":  # one map, read as it is by one convolution and through other nodes by another
            shared = self._between(v, self.draw(st.sampled_from(["pool", "drop", "same", "norm", "module"])))
            a, b = self.conv(shared), self.between(shared, most=2, resize=False)
            b = self.conv(b, self.shapes[a][0])
            return self.meet("add", a, b)
        if kind == "residual":
            a = self.between(self.conv(v, channels), most=2, resize=False)
            return self.meet(self.draw(st.sampled_from(["add", "torch.add", "torch.sub", "torch.maximum"])), a, v)
        if kind == "self":  # a map meets itself behind other nodes
            return self.meet("add", v, self.between(v, most=2, resize=False))
        if kind == "cat":
            dense = self.draw(st.booleans())  # as in a dense block
            a, b = self.conv(v), v if dense else self.between(self.conv(v), most=1, resize=False)
            both = self.channels[a] + self.channels[b]
            return self.step("cat", (a, b), (len(both), height, width), both)
        if kind == "excite":  # squeeze and excitation: the gates of a small network multiply the channels
            squeezed = self.module(nn.AdaptiveAvgPool2d(1), v, (channels, 1, 1), self.channels[v])
            a = self.conv(squeezed, channels)
            return self.meet("mul", v, self.step("x.sigmoid", (a,), *self._like(a)))
        if kind == "groups" and channels % 2 == 0:
            return self.conv(v, self.draw(st.sampled_from([4, 2 * channels])), groups=2)
        if kind == "multiply" and channels <= 6:
            return self.conv(v, 2 * channels, groups=channels)
        if kind == "unknown" and len({self.root(f) for f in self.channels[v]}) > 1:
            self.frozen += self.channels[v]
            return self.step("softmax", (v,), self.shapes[v], [0] * channels)
        return self.between(self.conv(v))

    def _like(self, v: int) -> tuple[tuple[int, int, int], list[int]]:
        return self.shapes[v], self.channels[v]

    def head(self, v: int) -> None:
        (channels, height, width), made = self._like(v)
        how = self.draw(st.sampled_from(FLATTENS))
        if how.startswith("adaptive"):
            height, width = (1, 1) if how == "adaptive to 1" else (2, 3)
            pool = self.draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))
            v = self.module(pool((height, width)), v, (channels, height, width), made)
        if how in ("x.mean", "x.mean keepdim", "x.amax"):
            height, width = 1, 1
        flat = (channels * height * width, 1, 1)
        if how in FUNCTIONS:
            v = self.step(how, (v,), flat, made)
        if how not in FUNCTIONS or how == "x.mean keepdim":
            v = self.module(nn.Flatten(), v, flat, made)
        for kind in self.draw(st.lists(st.sampled_from(["norm", "relu", "sigmoid", "prelu1", "drop"]), max_size=2)):
            if kind == "sigmoid":
                v = self.step("x.sigmoid", (v,), flat, made)
            else:
                modules = {"norm": lambda: nn.BatchNorm1d(flat[0]), "relu": nn.ReLU, "prelu1": nn.PReLU}
                v = self.module(modules.get(kind, nn.Dropout)(), v, flat, made)
        linear = nn.Linear(flat[0], N_CLASSES, bias=self.draw(st.booleans()))
        self.net.outputs.append(self.module(linear, v, (N_CLASSES, 1, 1), [0] * N_CLASSES))


@st.composite
def networks(draw: st.DrawFn) -> RandomNetwork:
    """A network with random weights, BatchNorm's statistics and negative gammas too; some parameters are frozen."""
    build = _Builder(draw)
    net = build.net
    net.image_shape = draw(st.integers(1, 3)), draw(st.integers(4, 9)), draw(st.integers(4, 9))
    build.shapes.append(net.image_shape)
    build.channels.append([0] * net.image_shape[0])
    ends = [build.between(build.conv(0))]
    for _ in range(draw(st.integers(0, 3))):
        ends.append(build.block(ends[-1]))
    build.head(ends[-1])
    if draw(st.integers(0, 2)) == 0:
        build.head(draw(st.sampled_from(ends)))
    build.expect()
    randomize(net, draw(st.integers(0, 2**32 - 1)))
    return net.train(draw(st.booleans()))


@st.composite
def networks_with_plans(draw: st.DrawFn) -> tuple[RandomNetwork, Plan]:
    """Return a random network, and a plan that keeps at least one filter in each of its layers."""
    net = draw(networks())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    remove = {}
    for name in sorted(net.prunable):
        n = net.widths[name]
        shuffled = torch.randperm(n, generator=generator)
        remove[name] = tuple(shuffled[: int(torch.randint(n, (2,), generator=generator).max())].tolist())
    return net, Plan(remove)


def randomize(model: Network, seed: int = 0) -> Network:
    """Draw every number of a model again, in place, so that nothing is 0 or 1 by default; freeze every fifth tensor."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                weight_of_prelu = isinstance(module, nn.PReLU) and name == "weight"
                parameter.copy_(normal(parameter) * (0.3 if weight_of_prelu else (2 / fan_in) ** 0.5))
                parameter.requires_grad_(float(torch.rand((), generator=generator)) > 0.2)
            for name, buffer in module.named_buffers(recurse=False):
                if name == "running_mean":
                    buffer.copy_(normal(buffer))
                elif name == "running_var":
                    buffer.copy_(0.5 + 1.5 * torch.rand(buffer.shape, generator=generator))
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Copies of everything of a model that measuring must not change, and of the state of the random generator."""
    state: dict[str, Any] = {"random generator": torch.get_rng_state()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        state[name] = (id(tensor), tensor.detach().clone())
        state[f"{name} requires_grad"] = tensor.requires_grad
        state[f"{name}.grad"] = copy.deepcopy(tensor.grad)
    for name, module in model.named_modules():
        state[f"{name} is training"] = module.training
        state[f"{name} is made of"] = repr(module), list(vars(module))
    return state


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    """Fail unless the model is bit for bit what :func:`snapshot` saw."""
    after = snapshot(model)
    assert after.keys() == before.keys()
    for what, value in before.items():
        assert _equal(value, after[what]), f"{what} changed"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def difference(a: Any, b: Any) -> float:
    """The largest difference of two outputs, relative to the largest number in ``b``."""
    heads = list(zip(a, b, strict=True)) if isinstance(a, tuple) else [(a, b)]
    return max(float((x - y).detach().abs().max() / y.detach().abs().max().clamp(min=1e-30)) for x, y in heads)


def narrow(name: str) -> nn.Module:
    """torchvision's network; alexnet and vgg with 64 hidden units for 4096, which hold 9 in 10 of their parameters."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(**{"init_weights": False} if name == "googlenet" else {})
        if isinstance(getattr(model, "classifier", None), nn.Sequential):
            for i, module in enumerate(model.classifier):
                if isinstance(module, nn.Linear):
                    wide = module.in_features == 4096
                    model.classifier[i] = nn.Linear(64 if wide else module.in_features, min(module.out_features, 64))
    return randomize(model.to_empty(device="cpu"))
