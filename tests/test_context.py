"""What surrounds the operations: modes, hooks, branches, sizes. A filter is removed rightly, or the call is refused."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import random
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_networks import difference, one_thread, randomize  # noqa: F401
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.criteria import taylor
from cnnprune_utils.gates import gated, mask
from cnnprune_utils.metrics import macs
from cnnprune_utils.plan import Plan
from cnnprune_utils.saving import load_model, save_model
from cnnprune_utils.structure import prunable_layers, skipped_layers
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate, evaluating, fit

Build = Callable[[], nn.Module]
# The filter that is removed. Not the first: channels that move up would be seen as well.
K = 1


def network(forward: Callable[..., Any], **modules: nn.Module) -> Any:
    """A network of a class of its own, with random numbers that are the same in every call."""
    model = type("Network", (nn.Module,), {"forward": forward})()
    for name, module in modules.items():
        model.add_module(name, copy.deepcopy(module))
    return randomize(model)


def two_convolutions(forward: Callable[..., Any], **more: nn.Module) -> Any:
    """1 -> 4 -> 6 filters on maps of 6 x 6, and a linear layer behind a flatten."""
    layers = {"one": nn.Conv2d(1, 4, 3, padding=1), "two": nn.Conv2d(4, 6, 3, padding=1), "linear": nn.Linear(216, 3)}
    return network(forward, **layers, **more)


def plain(self: Any, x: Tensor) -> Tensor:
    return self.linear(F.relu(self.two(F.relu(self.one(x)))).flatten(1))


READ_BY = {"one": [("two", 1)], "two": [("linear", 36)]}


def images(n: int = 2, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *(shape or (1, 6, 6)), generator=torch.Generator().manual_seed(seed))


def labelled(n: int = 12, seed: int = 0) -> Split:
    return Split(images(n, seed=seed), torch.arange(n) % 3)


def splits(n: int = 12) -> Splits:
    return Splits(labelled(n), labelled(6, seed=1), labelled(3))


def call(model: Callable[..., Any], inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


# what the tests ask


def state(model: nn.Module, *, of_random: bool = True) -> dict[str, Any]:
    """Everything that a model holds, and the states of the three random generators."""
    seen: dict[str, Any] = {}
    if of_random:
        seen = {"Python's random": random.getstate(), "torch's random": torch.get_rng_state()}
        seen["NumPy's random"] = str(np.random.get_state(legacy=False))  # noqa: NPY002
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            what = f"{name}.{attribute}"
            if attribute in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    seen[f"{what}.{key}"] = None if tensor is None else (id(tensor), tensor.requires_grad)
                    seen[f"{what}.{key}'s values"] = copy.deepcopy(tensor)
                    seen[f"{what}.{key}.grad"] = None if tensor is None else copy.deepcopy(tensor.grad)
            elif isinstance(value, dict):
                seen[what] = [(key, id(entry)) for key, entry in value.items()]
            elif value is None or isinstance(value, (bool, int, float, str, tuple)):
                seen[what] = value
            else:
                seen[what] = id(value)
    return seen


@contextmanager
def unchanged(model: nn.Module, *, of_random: bool = True) -> Iterator[None]:
    """Fail unless the model, bit for bit, and the random states come out as they went in; also after an error."""
    before = state(model, of_random=of_random)
    try:
        yield
    finally:
        after = state(model, of_random=of_random)
        assert list(after) == list(before)
        for what, value in before.items():
            equal = torch.equal(value, after[what]) if isinstance(value, Tensor) else value == after[what]
            assert equal, f"{what} changed"


def refused(result: Any) -> bool:
    """Whether what :func:`attempt` returned is a refusal, which has to say why."""
    if isinstance(result, ValueError):
        assert len(str(result)) > 20
    return isinstance(result, ValueError)


def attempt(function: Callable[[], Any]) -> Any:
    """What it returns, or the ValueError that it raises."""
    try:
        return function()
    except ValueError as error:
        return error


def without(model: nn.Module, readers: Sequence[tuple[str, int]], k: int, n: int) -> nn.Module:
    """The removal by hand: the layers that read filter ``k`` of ``n`` read zeros, in each block of columns."""
    for name, block in readers:
        weight = model.get_parameter(f"{name}.weight").data
        weight[:, torch.arange(weight.shape[1]) // block % n == k] = 0
    return model


def removed_rightly_or_refused(
    build: Build,
    example: Any,
    *others: Any,
    read_by: Mapping[str, Sequence[tuple[str, int]]] = types.MappingProxyType({}),
    open_exactly: bool = True,
) -> set[str]:
    """The layers that lost a filter. Open gates are the model; the pruned network is closed gates, is removal by hand.

    Args:
        build: makes the same model in each call.
        example: what the functions are given.
        others: other inputs on which it has to hold.
        read_by: by layer, the layers that read it, and how many columns in a row belong to one filter.
        open_exactly: bit for bit.
    """
    model, inputs = build().train(), (example, *others)
    with unchanged(model):
        gates = attempt(lambda: gated(model, example))
    if refused(gates):
        return set()
    grad_modes = [torch.no_grad, torch.enable_grad]
    for x in inputs:
        for grad_mode in grad_modes:
            with grad_mode(), unchanged(model, of_random=False):
                outputs, expected = call(gates, x), call(build().eval(), x)
                assert torch.equal(outputs, expected) if open_exactly else difference(outputs, expected) < 1e-6

    def leaves(name: str) -> bool:
        """Whether a filter of this layer alone could leave; and then rightly."""
        with unchanged(model):
            pruned = attempt(lambda: prune(model, Plan({name: (K,)}), example))
        if refused(pruned):
            return False
        assert all(module.training for module in pruned.modules())
        pruned.eval()
        values, by_hand = gates.gates[name].values, None
        values[K] = 0
        if name in read_by:
            by_hand = without(build().eval(), read_by[name], K, len(values))
        for x in inputs:
            for grad_mode in grad_modes:
                with grad_mode(), unchanged(model, of_random=False):
                    closed = call(gates, x)
                    assert difference(call(pruned, x), closed) < 1e-5
                    assert by_hand is None or difference(closed, call(by_hand, x)) < 1e-5
        values[K] = 1
        call(pruned.train(), example)
        return True

    return set(filter(leaves, gates.gates))


def run_all(model: nn.Module, plan: Plan) -> list[Callable[[], Any]]:
    """A call of each public function that is given a model and must not change it."""
    example, split, student = images(), labelled(), two_convolutions(plain)
    return [
        lambda: prunable_layers(model, example),
        lambda: skipped_layers(model, example),
        lambda: gated(model, example),
        lambda: mask(model, plan, example),
        lambda: prune(model, plan, example),
        lambda: taylor(model, split),
        lambda: evaluate(model, split),
        lambda: macs(model, example),
        lambda: fit(student, splits(), epochs=1, learning_rate=1e-2, teacher=model),
    ]


# modes: modules that do something in train() and eval(), buffers that count, random numbers


class Merging(nn.Module):
    """A frozen convolution and a low-rank branch, which ``eval()`` adds to its weight and ``train()`` takes off."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.down = nn.Conv2d(in_channels, 2, 3, padding=1, bias=False)
        self.up = nn.Conv2d(2, out_channels, 1, bias=False)
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            change = torch.einsum("or,rikl->oikl", self.up.weight[:, :, 0, 0], self.down.weight)
            self.conv.weight.data += -change if mode else change
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.merged else self.conv(x) + self.up(self.down(x))


def merging() -> Any:
    model = two_convolutions(plain)
    model.one = Merging(1, 4)
    randomize(model)
    return model


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # in place
        self.images = self.images + len(x)  # a new tensor
        return x


def counting() -> Any:
    return two_convolutions(
        lambda self, x: self.linear(self.count(F.relu(self.two(F.relu(self.one(x))))).flatten(1)), count=Counting()
    )


def drawing() -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
        return plain(self, x)

    return two_convolutions(forward)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("build", [merging, counting, drawing])
def test_every_function_changes_nothing(build: Build, train: bool) -> None:
    model = build().train(train)
    model.linear.train(not train)
    model.linear.weight.grad = torch.ones_like(model.linear.weight)
    model.two.register_forward_hook(lambda *_: None)
    for function in run_all(model, Plan({"two": (K,)})):
        with unchanged(model):
            result = attempt(function)
        assert not refused(result)


def test_an_error_changes_nothing_either() -> None:
    """Wherever the forward fails: at once, or behind a module that counts and one that has merged."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.count(self.one(x))
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
        raise ArithmeticError("mine")

    model = two_convolutions(forward, count=Counting())
    model.one = Merging(1, 4)
    for function in run_all(model, Plan({"two": (K,)})):
        with unchanged(model), pytest.raises((ValueError, ArithmeticError), match="mine"):
            function()
    model = merging()
    for wrong in ({"nowhere": (0,)}, {"two": range(6)}, {"two": (6,)}):
        with unchanged(model), pytest.raises(ValueError, match=r"nowhere|two"):
            prune(model, Plan(wrong), images())


def test_a_merging_branch_is_removed_too() -> None:
    read_by = {"one.conv": [("two", 1)], "two": READ_BY["two"]}
    removed = removed_rightly_or_refused(merging, images(), images(5), read_by=read_by, open_exactly=False)
    assert "two" in removed


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_pruned_network_has_not_been_run(train: bool) -> None:
    """Weights are merged or not as they were, bit for bit, and a counter stands where it stood."""
    model = merging().train(train)
    model.count = Counting()
    model.register_forward_hook(lambda model, *_: model.count(torch.ones(1)) and None)
    pruned = prune(model, Plan({"two": (K,)}), images())
    assert pruned.one.merged is model.one.merged is not train
    assert int(pruned.count.calls) == int(model.count.calls) == 0
    for name, tensor in model.one.state_dict().items():
        assert torch.equal(pruned.one.state_dict()[name], tensor), name


def test_a_counter_does_not_keep_a_filter() -> None:
    assert "one" in removed_rightly_or_refused(counting, images(), images(5), read_by=READ_BY)


def test_fit_keeps_training_a_merging_branch() -> None:
    """Each epoch measures in eval mode in between; another one must train on as if it had not."""
    model = merging().train()
    model.one.conv.requires_grad_(False)
    model.one.up.requires_grad_(True)
    before = model.one.conv.weight.clone()
    branches = []
    fit(
        model,
        splits(),
        epochs=3,
        learning_rate=1e-2,
        on_epoch=lambda _: branches.append(model.one.up.weight.detach().clone()),
    )
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(branches))
    assert torch.equal(model.one.conv.weight, before)
    assert not model.one.merged
    assert difference(model.train()(images()), model.eval()(images())) < 1e-5


def test_fit_gives_merged_weights_back_merged() -> None:
    model = merging().eval()
    model.one.conv.requires_grad_(False)
    model.one.up.requires_grad_(True)
    branch = model.one.up.weight.detach().clone()
    fit(model, splits(), epochs=2, learning_rate=1e-2)
    assert model.one.merged
    assert not model.one.training
    assert not torch.equal(model.one.up.weight, branch)
    assert difference(model(images()), model.train()(images())) < 1e-5


def test_evaluating_uses_the_models_own_eval() -> None:
    model = merging().train()
    with unchanged(model), evaluating(model):
        assert model.one.merged
        expected = merging().eval()(images())
        assert torch.equal(model(images()), expected)


# the batch dimension


def test_a_plain_batch_size_keeps_nothing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        b = x.size(0)
        return self.linear(F.relu(self.two(F.relu(self.one(x)))).view(b, -1))

    removed = removed_rightly_or_refused(lambda: two_convolutions(forward), images(), images(5), read_by=READ_BY)
    assert removed == {"one", "two"}


def test_frames_folded_into_the_batch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.two(F.relu(self.one(x.flatten(0, 1)))))
        return self.linear(y.view(x.size(0), x.size(1), -1).mean(1))

    videos = images(2, 3, 1, 6, 6), images(5, 4, 1, 6, 6)
    removed_rightly_or_refused(lambda: two_convolutions(forward), *videos, read_by=READ_BY)


def test_frames_side_by_side_in_the_columns() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        b, t = x.size(0), x.size(1)
        return self.three(F.relu(self.two(F.relu(self.one(x.view(b * t, 1, 6, 6))))).view(b, -1))

    videos = images(2, 3, 1, 6, 6), images(5, 3, 1, 6, 6)
    read_by = {"one": [("two", 1)], "two": [("three", 36)]}
    removed_rightly_or_refused(lambda: two_convolutions(forward, three=nn.Linear(648, 3)), *videos, read_by=read_by)


def test_pairs_folded_into_the_batch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.two(F.relu(self.one(x)))).mean((2, 3))
        return self.pair(y.view(x.size(0) // 2, -1))

    read_by = {"one": [("two", 1)], "two": [("pair", 1)]}
    build = lambda: two_convolutions(forward, pair=nn.Linear(12, 3))  # noqa: E731
    removed_rightly_or_refused(build, images(4), images(6), images(2), read_by=read_by)


@pytest.mark.parametrize("times", [1, 3])
def test_the_batch_size_of_another_input(times: int) -> None:
    """With as many images as the other input has rows, and with three for each of its rows."""

    def forward(self: Any, x: Tensor, other: Tensor) -> Tensor:
        b = other.size(0)
        y = F.relu(self.two(F.relu(self.one(x)))).view(b, -1)
        return self.head(y) + self.linear(other)

    build = lambda: two_convolutions(forward, head=nn.Linear(216 * times, 3))  # noqa: E731
    read_by = {"one": [("two", 1)], "two": [("head", 36)]}
    inputs = [(images(n * times), images(n, 216)) for n in (2, 5)]
    removed_rightly_or_refused(build, *inputs, read_by=read_by)


def test_one_image_without_a_batch_dimension() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.two(F.relu(self.one(x)))).flatten())

    one, other = images()[0], images(2, seed=1)[1]
    removed_rightly_or_refused(lambda: two_convolutions(forward), one, other, read_by=READ_BY)


# what is traced is what runs


def with_hook(hook: Callable[..., Any], *, before: bool = False) -> Build:
    def build() -> Any:
        model = two_convolutions(plain)
        (model.register_forward_pre_hook if before else model.register_forward_hook)(hook)
        return model

    return build


@pytest.mark.parametrize(
    "build",
    [
        with_hook(lambda model, inputs: (inputs[0].flip(3) - 1,), before=True),
        with_hook(lambda model, inputs, outputs: outputs.softmax(1) ** 2),
    ],
    ids=["before", "behind"],
)
def test_hooks_on_the_network_itself(build: Build) -> None:
    removed_rightly_or_refused(build, images(), images(5), read_by=READ_BY)


def another_forward(self: Any, x: Tensor) -> Tensor:
    """The filters of the first convolution in another order, and another activation."""
    return self.linear(torch.tanh(self.two(F.relu(self.one(x)).flip(1))).flatten(1))


def own_method(model: Any) -> Callable[..., Any]:
    return types.MethodType(another_forward, model)


def own_partial(model: Any) -> Callable[..., Any]:
    return functools.partial(another_forward, model)


def own_closure(model: Any) -> Callable[..., Any]:
    def forward(x: Tensor) -> Tensor:
        return another_forward(model, x)

    return forward


def own_wrapper(model: Any) -> Callable[..., Any]:
    inner = model.forward

    @functools.wraps(inner)
    def forward(x: Tensor) -> Tensor:
        return inner(x.flip(2)) * 2

    return forward


@pytest.mark.parametrize("own", [own_method, own_partial, own_closure, own_wrapper])
def test_a_forward_of_the_instance(own: Callable[[Any], Callable[..., Any]]) -> None:
    def build() -> Any:
        model = two_convolutions(plain)
        model.forward = own(model)
        return model

    removed_rightly_or_refused(build, images(), images(5), read_by={"two": READ_BY["two"]})


def test_a_wrapped_forward_of_the_class() -> None:
    def reversed_images(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def wrapped(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return forward(self, x.flip(3), *args, **kwargs) + 1

        return wrapped

    build = lambda: two_convolutions(reversed_images(plain))  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by=READ_BY)


class Called(nn.Module):
    """A network that does more when it is called than ``forward`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.linear = nn.Linear(216, 3)

    def forward(self, x: Tensor) -> Tensor:
        return plain(self, x)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.flip(3)).log_softmax(1)


def test_an_overridden_call() -> None:
    removed_rightly_or_refused(lambda: randomize(Called()), images(), images(5), read_by=READ_BY)


def test_an_optional_argument() -> None:
    def forward(self: Any, x: Tensor, weight: Tensor | None = None, flip: bool = False) -> Tensor:
        y = F.relu(self.one(x))
        if weight is not None:
            y = y * weight
        return self.linear(F.relu(self.two(y.flip(1) if flip else y)).flatten(1))

    build = lambda: two_convolutions(forward)  # noqa: E731
    x, weight = images(), images(2, seed=1)
    removed_rightly_or_refused(build, x, images(5), read_by=READ_BY)
    removed_rightly_or_refused(build, (x, weight), read_by=READ_BY)
    removed_rightly_or_refused(build, {"x": x, "weight": weight}, read_by=READ_BY)
    removed_rightly_or_refused(build, {"x": x, "flip": True})


def test_gates_follow_an_argument_not_traced() -> None:
    def forward(self: Any, x: Tensor, twice: bool = False) -> Tensor:
        return plain(self, x) * (2 if twice else 1)

    model = two_convolutions(forward).eval()
    gates = attempt(lambda: gated(model, images()))
    if refused(gates):
        return
    assert torch.equal(gates(images(), True), model(images(), True))
    assert torch.equal(gates(images(), twice=True), model(images(), twice=True))


@pytest.mark.parametrize(
    "is_real",
    [
        lambda x: type(x) is Tensor,
        lambda x: isinstance(x, Tensor),
        lambda x: not torch.compiler.is_compiling(),
        lambda x: not torch.jit.is_tracing(),
        lambda x: isinstance(x.shape[0], int),
    ],
    ids=["type", "isinstance", "compiling", "tracing", "int"],
)
def test_a_branch_that_sees_the_tracing(is_real: Callable[[Tensor], bool]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return another_forward(self, x) if is_real(x) else plain(self, x)

    build = lambda: two_convolutions(forward)  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by={"two": READ_BY["two"]})


def test_a_branch_on_whether_gradients_are_on() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return another_forward(self, x) if torch.is_grad_enabled() else plain(self, x)

    build = lambda: two_convolutions(forward)  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by={"two": READ_BY["two"]})


# forward reads sizes or numbers of modules


@pytest.mark.parametrize(
    "scale",
    [
        lambda conv: conv.out_channels**-0.5,
        lambda conv: 1 / conv.weight.shape[0],
        lambda conv: conv.weight.numel() / 99,
    ],
    ids=["attribute", "shape", "numel"],
)
def test_a_scale_by_the_number_of_filters(scale: Callable[[Any], float]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.two(F.relu(self.one(x)) * scale(self.one))).flatten(1))

    removed_rightly_or_refused(lambda: two_convolutions(forward), images(), images(5), read_by=READ_BY)


@pytest.mark.parametrize("n", [4, 5])
def test_a_skip_where_numbers_of_filters_agree(n: int) -> None:
    """With 4 they agree and with 5 they do not, until the last convolution has lost one."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        y = self.end(F.relu(self.two(x)))
        if self.two.in_channels == self.end.out_channels:
            y = y + x
        return self.head(y.mean((2, 3)))

    build = lambda: two_convolutions(forward, end=nn.Conv2d(6, n, 3, padding=1), head=nn.Linear(n, 3))  # noqa: E731
    read_by = {"one": [("two", 1), ("head", 1)] if n == 4 else [("two", 1)], "end": [("head", 1)], "two": [("end", 1)]}
    removed_rightly_or_refused(build, images(), images(5), read_by=read_by)


def test_a_mean_of_running_statistics() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.one(x))) * self.norm.running_var.mean()
        return self.linear(F.relu(self.two(y)).flatten(1) + self.norm.running_mean.sum())

    build = lambda: two_convolutions(forward, norm=nn.BatchNorm2d(4))  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by=READ_BY)


def test_a_penalty_over_the_parameters() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return plain(self, x) + 0.1 * sum(parameter.norm() for parameter in self.parameters())

    assert not removed_rightly_or_refused(lambda: two_convolutions(forward), images(), images(5))


# hooks and forwards of leaves


def mixes_channels(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    return outputs.cumsum(1)


def reverses_channels(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    return outputs.flip(1)


@pytest.mark.parametrize("hook", [mixes_channels, reverses_channels])
@pytest.mark.parametrize("leaf", ["one", "two"])
def test_a_hook_on_a_leaf(leaf: str, hook: Callable[..., Any]) -> None:
    def build() -> Any:
        model = two_convolutions(plain)
        model.get_submodule(leaf).register_forward_hook(hook)
        return model

    removed_rightly_or_refused(build, images(), images(5))


def test_a_hook_before_a_leaf() -> None:
    def build() -> Any:
        model = two_convolutions(plain)
        model.two.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(1).cumsum(1),))
        return model

    removed_rightly_or_refused(build, images(), images(5))


def test_a_weight_that_a_hook_masks() -> None:
    def build() -> Any:
        model = two_convolutions(plain)
        torch_prune.random_unstructured(model.two, "weight", amount=0.4)
        model.two.weight_mask.copy_(torch.arange(model.two.weight.numel()).view_as(model.two.weight) % 3 > 0)
        model.two(torch.zeros(1, 4, 6, 6))
        return model

    removed_rightly_or_refused(build, images(), images(5))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: F.conv2d(x, self.weight, self.bias, padding=1).cumsum(1),
        lambda self, x: F.conv2d(x, self.weight.flip(0, 1), self.bias, padding=1),
        lambda self, x: F.conv2d(x, self.weight * (self.weight.abs() > self.weight.abs().mean()), self.bias, padding=1),
        lambda self, x: F.conv2d(x, self.weight - self.weight.mean(1, keepdim=True), self.bias, padding=1),
    ],
    ids=["cumsum", "flip", "mask", "centred"],
)
def test_a_patched_forward_of_a_leaf(forward: Callable[..., Any]) -> None:
    def build() -> Any:
        model = two_convolutions(plain)
        model.two.forward = types.MethodType(forward, model.two)
        return model

    removed_rightly_or_refused(build, images(), images(5))


# alias and in place


ALIASES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "identity": lambda self, y: self.same(y),
    "dropout": lambda self, y: self.drop(y),
    "flatten": lambda self, y: self.flat(y),
    "slice": lambda self, y: y[:, :, :5],
}
IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "relu": lambda z: F.relu(z, inplace=True),
    "add": lambda z: z.add_(1.5),
    "assignment": lambda z: z.__setitem__((slice(None), slice(None, 2)), 1.5) or z,
}


def aliased(write: Callable[[Tensor], Any], alias: str, *, first: bool) -> Build:
    """Two names for one map: it is written through the first or the second, and read by the other name as well."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.one(x)
        z = ALIASES[alias](self, y)
        written = write(y if first else z)
        # Decided here, not by shapes: a network that is traced symbolically would stop at that.
        a, b = (z if first else y), written
        if first and alias == "flatten":
            a, b = b, a
        return self.linear(F.relu(self.two(a)).flatten(1)) + self.head(b.flatten(1))

    more = {"same": nn.Identity(), "drop": nn.Dropout(0.3), "flat": nn.Flatten()}
    head = nn.Linear(120 if alias == "slice" else 144, 3)
    return lambda: two_convolutions(forward, **more, head=head)


@pytest.mark.parametrize("write", IN_PLACE)
@pytest.mark.parametrize("alias", ["identity", "flatten", "slice"])
def test_a_write_through_an_alias(alias: str, write: str) -> None:
    read_by = {"one": [("two", 1), ("head", 30 if alias == "slice" else 36)], "two": READ_BY["two"]}
    build = aliased(IN_PLACE[write], alias, first=False)
    removed_rightly_or_refused(build, images(), images(5), read_by=read_by)


@pytest.mark.parametrize("write", IN_PLACE)
@pytest.mark.parametrize("alias", ["identity", "dropout", "flatten"])
def test_a_write_that_an_alias_sees(alias: str, write: str) -> None:
    read_by = {"one": [("two", 1), ("head", 36)], "two": READ_BY["two"]}
    build = aliased(IN_PLACE[write], alias, first=True)
    removed_rightly_or_refused(build, images(), images(5), read_by=read_by)


def test_a_residual_that_is_changed_in_place() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.one(x)
        z = F.relu(self.same(y), inplace=True)
        y += self.back(self.two(z))
        y[:, :2] = y[:, 2:] * 0.5
        return self.head(y.flatten(1)) + self.head(z.flatten(1))

    more = {"same": nn.Identity(), "back": nn.Conv2d(6, 4, 1), "head": nn.Linear(144, 3)}
    build = lambda: two_convolutions(forward, **more)  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by={"two": [("back", 1)]})


# structure drawn at random


def test_stochastic_depth_has_one_structure() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        if not self.training or random.random() < 0.5:
            x = x + self.back(F.relu(self.two(x)))
        return self.head(x.flatten(1))

    more = {"back": nn.Conv2d(6, 4, 1), "head": nn.Linear(144, 3)}
    model = two_convolutions(forward, **more).train()
    found = []
    for seed in range(4):
        random.seed(seed)
        found.append([(layer.name, layer.producers) for layer in prunable_layers(model, images())])
    assert all(layers == found[0] for layers in found)
    build = lambda: two_convolutions(forward, **more)  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by={"two": [("back", 1)]})


# a backward pass of its own


class Rounded(torch.autograd.Function):
    """Rounding whose gradient is 1: the straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return slopes[0]


def taylor_by_hand(model: nn.Module, reader: str, split: Split, n_filters: int) -> Tensor:
    """Mean over the examples of |sum over positions of input times slope| / positions, where ``reader`` reads."""
    read: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read.append(inputs[0].detach().requires_grad_() if not inputs[0].requires_grad else inputs[0])
        return (read[-1],)

    handle = model.get_submodule(reader).register_forward_pre_hook(keep)
    loss = F.cross_entropy(model(split.inputs), split.targets, reduction="sum")
    handle.remove()
    (slope,) = torch.autograd.grad(loss, read)
    return (slope * read[0]).reshape(len(split), n_filters, -1).mean(2).abs().mean(0).detach()


def test_a_straight_through_gradient_scores() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(Rounded.apply(self.two(F.relu(self.one(x)))))
        return self.linear(y.flatten(1))

    model = two_convolutions(forward).requires_grad_(True).eval()
    split = labelled()
    scores = attempt(lambda: taylor(model, split))
    if refused(scores):
        return
    assert scores
    for name, reader in (("one", "two"), ("two", "linear")):
        if name in scores:
            expected = taylor_by_hand(model, reader, split, len(scores[name]))
            assert expected.max() > 0
            torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-7)
    removed_rightly_or_refused(lambda: two_convolutions(forward), images(), images(5), read_by=READ_BY)


# operations that know the number of channels


def test_channels_flattened_into_the_batch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.two(F.relu(self.one(x))))
        y = F.adaptive_avg_pool2d(y.flatten(end_dim=1), 2)
        return self.head(y.view(x.size(0), -1))

    build = lambda: two_convolutions(forward, head=nn.Linear(24, 3))  # noqa: E731
    read_by = {"one": [("two", 1)], "two": [("head", 4)]}
    removed_rightly_or_refused(build, images(), images(5), read_by=read_by)


@pytest.mark.parametrize("pad", [nn.ZeroPad2d((0, 0, 0, 0, 1, 1)), nn.ConstantPad2d((0, 0, 0, 0, 1, 1), 2.0), None])
def test_padding_over_channels(pad: nn.Module | None) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.one(x))
        y = F.pad(y, (1, 1, 0, 0, 2, 0)) if pad is None else self.pad(y)
        return self.head(F.relu(self.wide(y)).mean((2, 3)))

    more = {"pad": pad or nn.Identity(), "wide": nn.Conv2d(6, 5, 3), "head": nn.Linear(5, 3)}
    build = lambda: two_convolutions(forward, **more)  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by={"wide": [("head", 1)]})


def test_fake_quantisation_per_channel() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", 0.01 * torch.arange(1.0, 5.0))
            self.register_buffer("zero_point", torch.tensor([0, 3, 1, 0], dtype=torch.int32))

        def forward(self, x: Tensor) -> Tensor:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 1, -128, 127)

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.two(F.relu(self.quantised(self.one(x))))).flatten(1))

    build = lambda: two_convolutions(forward, quantised=Quantised())  # noqa: E731
    removed_rightly_or_refused(build, images(), images(5), read_by=READ_BY)


def test_an_auxiliary_head_that_only_trains() -> None:
    """The pruned network is run in both modes."""

    def forward(self: Any, x: Tensor) -> Any:
        y = F.relu(self.one(x))
        outputs = self.linear(F.relu(self.two(y)).flatten(1))
        return (outputs, self.auxiliary(y.mean((2, 3)))) if self.training else outputs

    build = lambda: two_convolutions(forward, auxiliary=nn.Linear(4, 3))  # noqa: E731
    assert "two" in removed_rightly_or_refused(build, images(), images(5), read_by=READ_BY)


# styles of networks


def windows(self: Any, x: Tensor) -> Tensor:
    """A linear layer on windows of 3 x 3, as tokens."""
    y = F.relu(self.one(x))
    b, c, h, w = y.shape
    y = y.view(b, c, h // 3, 3, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, c)
    y = self.tokens(y).view(b, h // 3, w // 3, 3, 3, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)
    return self.linear(F.relu(self.two(y)).flatten(1))


def attention(self: Any, x: Tensor) -> Tensor:
    """Over positions; what queries and keys share is summed away, so it stays."""
    y = F.relu(self.one(x))
    q, k, v = (layer(y).flatten(2) for layer in (self.query, self.key, self.value))
    z = ((q.mT @ k).softmax(-1) @ v.mT).mT.reshape(len(x), -1, 6, 6)
    return self.linear(F.relu(self.two(y + self.back(z))).flatten(1))


def modulated(self: Any, x: Tensor) -> Tensor:
    """FiLM: each filter has a scale and a shift from elsewhere."""
    scale, shift = self.film(x.mean((2, 3))).chunk(2, 1)
    y = F.relu(scale[..., None, None] * self.one(x) + shift[..., None, None])
    return self.linear(F.relu(self.two(y)).flatten(1))


def recurrent(self: Any, x: Tensor) -> Tensor:
    """An LSTM reads what the second convolution made, in a matrix product, so that stays."""
    y = F.relu(self.two(F.relu(self.one(x)))).mean(2).mT
    return self.head(self.lstm(y)[0][:, -1])


def along_both_axes(self: Any, x: Tensor) -> Tensor:
    """Coordinate attention: rows and columns side by side, and apart again."""
    y = F.relu(self.one(x))
    rows, columns = F.relu(self.both(torch.cat([y.mean(3, True), y.mean(2, True).mT], 2))).split([6, 6], 2)
    return self.linear(F.relu(self.two(y * self.rows(rows).sigmoid() * self.columns(columns.mT).sigmoid())).flatten(1))


def unpooled(self: Any, x: Tensor) -> Tensor:
    """Numbers go back to where the largest ones were."""
    y, places = F.max_pool2d(F.relu(self.one(x)), 2, return_indices=True)
    return self.linear(F.relu(self.two(F.max_unpool2d(F.relu(self.same(y)), places, 2))).flatten(1))


def convolutional_lstm(self: Any, x: Tensor) -> Tensor:
    h = c = torch.zeros(len(x), self.gates.out_channels // 4, *x.shape[2:], dtype=torch.float64).to(x)
    for _ in range(2):
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return self.linear(F.relu(self.two(h)).flatten(1))


def rounded(self: Any, x: Tensor) -> Tensor:
    y = F.relu(self.one(x))
    y = y + (y.div(0.05).round().mul(0.05) - y).detach()
    return self.linear(F.relu(self.two(y)).flatten(1))


def shuffled(self: Any, x: Tensor) -> Tensor:
    """Half of the channels pass by; then both halves are shuffled by reshape."""
    a, b = F.relu(self.one(x)).chunk(2, 1)
    y = torch.cat([a, F.relu(self.right(b))], 1)
    y = y.reshape(len(x), 2, -1, 6, 6).transpose(1, 2).reshape(len(x), -1, 6, 6)
    return self.linear(F.relu(self.two(y)).flatten(1))


def conv(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 1)


STYLES: dict[str, tuple[Callable[..., Any], dict[str, nn.Module], set[str]]] = {
    "windows": (windows, {"tokens": nn.Linear(4, 4)}, {"one", "two"}),
    "attention": (
        attention,
        {"query": conv(4, 5), "key": conv(4, 5), "value": conv(4, 5), "back": conv(5, 4)},
        {"one", "two"},
    ),
    "FiLM": (modulated, {"film": nn.Linear(1, 8)}, {"one", "two"}),
    "LSTM": (recurrent, {"lstm": nn.LSTM(6, 5, batch_first=True), "head": nn.Linear(5, 3)}, {"one"}),
    "axes": (along_both_axes, {"both": conv(4, 3), "rows": conv(3, 4), "columns": conv(3, 4)}, {"one", "both", "two"}),
    "unpool": (unpooled, {"same": conv(4, 4)}, {"one", "two"}),
    "convolutional LSTM": (convolutional_lstm, {"gates": nn.Conv2d(5, 16, 3, padding=1)}, {"gates", "two"}),
    "quantised": (rounded, {}, {"one", "two"}),
    "shuffle": (shuffled, {"right": conv(2, 2)}, {"one", "two"}),
}


@pytest.mark.parametrize(("forward", "more", "removed"), STYLES.values(), ids=STYLES)
def test_styles_of_networks(forward: Callable[..., Any], more: dict[str, nn.Module], removed: set[str]) -> None:
    found = removed_rightly_or_refused(lambda: two_convolutions(forward, **more), images(), images(5))
    assert found == removed


# BatchNorm


def test_batch_statistics_do_not_reach_scores() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.norm(self.two(F.relu(self.one(x))))).flatten(1))

    model = two_convolutions(forward, norm=nn.BatchNorm2d(6, track_running_stats=False)).eval()
    split = labelled()
    scores = attempt(lambda: [taylor(model, split, batch_size=batch_size) for batch_size in (12, 5)])
    if refused(scores):
        assert re.search(r"\bnorm\b", str(scores))  # which one it is
        return
    assert scores[0].keys() == scores[1].keys()
    for name in scores[0]:
        torch.testing.assert_close(scores[0][name], scores[1][name], rtol=1e-5, atol=1e-8)


def with_norm() -> Any:
    return two_convolutions(
        lambda self, x: self.end(F.relu(self.norm(self.linear(F.relu(self.two(F.relu(self.one(x)))).flatten(1))))),
        norm=nn.BatchNorm1d(3),
        end=nn.Linear(3, 3),
    )


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_last_batch_of_one_is_no_half_training(train: bool) -> None:
    """Nine images in batches of four: two updates are done when the last image comes alone."""
    model = with_norm().train(train)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    log = attempt(lambda: fit(model, splits(9), epochs=2, learning_rate=1e-2, batch_size=4))
    if refused(log):
        assert "batch_size" in str(log)
        assert "as it came" in str(log)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    else:
        assert len(log) == 3
    assert model.training is train
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_error_in_fit_puts_the_model_back() -> None:
    model = merging().eval()
    model.requires_grad_(True)
    calls = []

    def fails_at_the_third(*_: Any) -> None:
        calls.append(model.training)
        if sum(calls) == 3:
            raise KeyError("mine")

    handle = model.register_forward_hook(fails_at_the_third)
    model.register_buffer("count", torch.zeros(()), persistent=False)

    def counts(*_: Any) -> None:
        model.count.add_(1)

    model.two.register_forward_hook(counts)
    with unchanged(model, of_random=False), pytest.raises(KeyError, match="mine"):
        fit(model, splits(), epochs=1, learning_rate=1e-2, batch_size=4)
    assert sum(calls) == 3
    handle.remove()


def test_a_frozen_norm_keeps_its_statistics() -> None:
    """A model in train mode trains as it is; one that is in eval mode as a whole trains as a whole."""
    model = with_norm().train()
    model.norm.eval()
    before = model.norm.running_mean.clone(), model.norm.running_var.clone()
    fit(model, splits(), epochs=2, learning_rate=1e-2)
    assert torch.equal(model.norm.running_mean, before[0])
    assert torch.equal(model.norm.running_var, before[1])
    assert not model.norm.training
    assert model.training
    whole = with_norm().eval()
    fit(whole, splits(), epochs=2, learning_rate=1e-2)
    assert not torch.equal(whole.norm.running_mean, before[0])


def test_a_norm_that_its_own_train_freezes() -> None:
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    model = with_norm()
    model.norm = Frozen(3)
    before = model.norm.running_mean.clone()
    fit(model.eval(), splits(), epochs=1, learning_rate=1e-2)
    assert torch.equal(model.norm.running_mean, before)


# pruned twice


FIRST, SECOND = Plan({"one": (2,), "two": (0, 4)}), Plan({"one": (0, 1), "two": (1, 3)})


def test_two_prunings_are_one_of_both_plans() -> None:
    model = two_convolutions(plain, unused=nn.Identity()).eval()
    twice = prune(prune(model, FIRST, images()), SECOND, images())
    at_once = prune(model, FIRST.then(SECOND), images())
    assert [tuple(p.shape) for p in twice.parameters()] == [tuple(p.shape) for p in at_once.parameters()]
    for (name, tensor), other in zip(twice.state_dict().items(), at_once.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert twice.one.out_channels == 1
    assert torch.equal(twice(images(5)), at_once(images(5)))
    closed = mask(model, FIRST.then(SECOND), images())
    assert difference(twice(images(5)), closed(images(5))) < 1e-5


def test_twice_pruned_loads_against_the_first(tmp_path: Path) -> None:
    model = two_convolutions(plain).eval()
    model.example_input_array = images()
    twice = prune(prune(model, FIRST), SECOND)
    save_model(twice, tmp_path / "twice.safetensors", plan=FIRST.then(SECOND))
    loaded = load_model(tmp_path / "twice.safetensors", base=model).eval()
    assert torch.equal(loaded(images(5)), twice(images(5)))


# constant sizes


class ConstantSize(nn.Module):
    """The first convolution can lose filters; the second feeds 150 numbers, and forward says so."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.linear = nn.Linear(150, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = F.relu(self.two(x))
        x = x.view(-1, 150)  # the line
        return self.linear(x)


def test_a_constant_size_names_its_line() -> None:
    model, example = randomize(ConstantSize()), images(2, 1, 10, 10)
    lines, first = inspect.getsourcelines(ConstantSize)
    line = first + next(i for i, text in enumerate(lines) if "# the line" in text)
    removed = removed_rightly_or_refused(lambda: randomize(ConstantSize()), example, read_by={"one": [("two", 1)]})
    assert removed == {"one"}
    # Six images of five filters are as many numbers as five images of six.
    six = images(6, 1, 10, 10)
    assert "two" not in removed_rightly_or_refused(lambda: randomize(ConstantSize()), six)
    why = skipped_layers(model, example).get("two")
    if why is None:
        with unchanged(model):
            why = str(attempt(lambda: prune(model, Plan({"two": (K,)}), example)))
    assert Path(__file__).name in why
    assert f"line {line}" in why or f":{line}" in why
    assert "flatten(1)" in why
