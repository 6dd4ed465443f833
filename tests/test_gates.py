"""Gates: open they change nothing, closed the filter is gone, and their slopes are those of the loss."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from random_networks import (  # noqa: F401
    PROPERTY,
    Net,
    RandomNetwork,
    assert_unchanged,
    difference,
    loss_over_heads,
    networks,
    networks_with_plans,
    one_thread,
    randomize,
    snapshot,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from cnnprune_utils import gates
from cnnprune_utils.batches import Split
from cnnprune_utils.book import CNN
from cnnprune_utils.gates import GatedNetwork, gate_gradients
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Structure, analyse


def small_cnn() -> CNN:
    return randomize(CNN((2, 4, 3), image_size=(5, 7), n_classes=3))


def small_split(n: int = 10) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 5, 7, generator=generator)
    return Split(images, torch.randint(3, (n,), generator=generator))


def example(model: nn.Module) -> Tensor:
    if isinstance(model, RandomNetwork):
        return model.example_input_array
    return small_split(2).inputs.to(next(model.parameters()).dtype)


def gated(model: nn.Module) -> GatedNetwork:
    return gates.gated(model, example(model))


def mask(model: nn.Module, plan: Plan) -> GatedNetwork:
    return gates.mask(model, plan, example(model))


class Inputs(TorchFunctionMode):
    """Sees what layers read, behind the modes inside: as tensors of their own, for the gradient of one reader."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.seen: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, F.linear):
            x = args[0] * 1
            if x.requires_grad:
                x.retain_grad()
            self.seen[self.names[id(args[1])]] = x
            args = (x, *args[1:])
        return func(*args, **(kwargs or {}))


def by_filter(found: Structure, weight: str, x: Tensor) -> dict[str, Tensor]:
    """Sums over what a reader reads of each filter: (n, filters) for each layer."""
    filters = found.readers[weight, 1]
    sums = torch.zeros(len(x), found.n_filters + 1, dtype=x.dtype)
    sums.index_add_(1, filters % (found.n_filters + 1), x.detach().flatten(2).sum(2) if x.ndim > 2 else x.detach())
    widths = [layer.out_channels for layer in found.layers.values()]
    return dict(zip(found.layers, sums[:, :-1].split(widths, 1), strict=True))


@PROPERTY
@given(networks())
def test_open_gates_change_nothing(net: RandomNetwork) -> None:
    net.double()
    if not net.prunable:
        return
    images = net.split(3).inputs
    before = snapshot(net)
    outputs = gated(net)(images)
    assert_unchanged(net, before)
    assert difference(outputs, copy.deepcopy(net).eval()(images)) < 1e-12


@PROPERTY
@given(networks_with_plans())
def test_nobody_reads_a_closed_filter(net_and_plan: tuple[RandomNetwork, Plan]) -> None:
    """Gates stand behind BatchNorm, sigmoid and depthwise convolution, on every branch."""
    net, plan = net_and_plan
    if not net.prunable:
        return
    before = snapshot(net)
    found, masked = analyse(net), mask(net, plan)
    with Inputs(masked) as inputs:
        masked(net.split(3).inputs)
    seen = {name.removeprefix("network."): x for name, x in inputs.seen.items()}
    for weight, _ in found.readers:
        for name, read in by_filter(found, weight, seen[weight].abs()).items():
            closed = read[:, list(plan.remove.get(name, ()))]
            assert torch.equal(closed, torch.zeros_like(closed)), f"{weight} reads removed filters of {name}"
    assert_unchanged(net, before)


@PROPERTY
@given(networks())
def test_slopes_are_those_where_layers_read(net: RandomNetwork) -> None:
    """The sum of gradient times map. A gate in front of an activation, or two on one path, would give other numbers."""
    net.double()
    if not net.prunable:
        return
    split = net.split(3)
    plain = copy.deepcopy(net).eval().requires_grad_(True)
    found = analyse(net)
    try:
        with Inputs(plain) as inputs:
            loss_over_heads(plain(split.inputs), split.targets, "none").sum().backward()
    except RuntimeError as error:  # a ReLU, then one in place: PyTorch itself cannot differentiate this network
        if "modified by an inplace operation" not in str(error):
            raise
        return
    (slopes,) = gate_gradients(net, split, loss=loss_over_heads)
    expected = {name: torch.zeros_like(slope) for name, slope in slopes.items()}
    for weight, _ in found.readers:
        z = inputs.seen[weight]
        for name, slope in by_filter(found, weight, z.grad * z).items():
            expected[name] += slope
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, expected[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pool_first", [True, False])
def test_a_beta_brings_no_filter_back(pool_first: bool) -> None:
    """Also with a BatchNorm behind the pooling."""
    middle = [nn.MaxPool2d(2), nn.BatchNorm2d(4)] if pool_first else [nn.BatchNorm2d(4), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *middle, nn.Flatten(), nn.Linear(4 * 2 * 3, 3, bias=False))
    randomize(model)
    outputs = mask(model, Plan({"0": range(4)}))(small_split().inputs)
    assert torch.equal(outputs, torch.zeros(10, 3))


def test_a_depthwise_bias_brings_no_filter_back() -> None:
    dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), dw, nn.Flatten(), nn.Linear(4 * 35, 3, bias=False))
    randomize(model)
    assert torch.equal(mask(model, Plan({"0": range(4)}))(small_split().inputs), torch.zeros(10, 3))


def test_a_gate_stands_on_every_branch() -> None:
    """One branch reads the map as it is, the other behind BatchNorm and sigmoid."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.straight(x.flatten(1)) + self.bent(self.norm(x).sigmoid().flatten(1))

    linears = {"straight": nn.Linear(4 * 35, 3, bias=False), "bent": nn.Linear(4 * 35, 3, bias=False)}
    model = Net(forward, conv=nn.Conv2d(1, 4, 3, padding=1), norm=nn.BatchNorm2d(4), **linears)
    randomize(model)
    assert torch.equal(mask(model, Plan({"conv": range(4)}))(small_split().inputs), torch.zeros(10, 3))


def test_a_mask_may_empty_a_layer() -> None:
    model = small_cnn()
    outputs = mask(model, Plan({"network.4": (0, 1, 2)}))(small_split(2).inputs)
    assert torch.equal(outputs, model.network[7].bias.expand(2, 3))


def test_positions_are_those_that_a_layer_reads() -> None:
    """Behind the pooling. Before slopes are taken, nobody counts them."""
    pool = [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)]
    network = gates.gated(nn.Sequential(nn.Conv2d(1, 4, 3), *pool), torch.zeros(2, 1, 14, 14))
    assert {gate.positions for gate in network.gates.values()} == {0}
    list(gate_gradients(network, Split(torch.zeros(3, 1, 14, 14), torch.zeros(3, dtype=torch.int64)), batch_size=2))
    assert {name: gate.positions for name, gate in network.gates.items()} == {"0": 6 * 6, "3": 2 * 2}


def test_slopes_are_those_of_each_example_alone() -> None:
    model, split = small_cnn().double(), small_split()
    split = Split(split.inputs.double(), split.targets)
    (together,) = gate_gradients(model, split)
    for i in range(len(split)):
        (alone,) = gate_gradients(model, Split(split.inputs[i : i + 1], split.targets[i : i + 1]))
        for name in together:
            torch.testing.assert_close(together[name][i], alone[name][0], rtol=1e-9, atol=1e-12)


def test_the_last_batch_of_slopes_may_be_short() -> None:
    batches = list(gate_gradients(small_cnn(), small_split(), batch_size=4))
    assert [len(slopes["network.0"]) for slopes in batches] == [4, 4, 2]
    assert {name: slope.shape[1] for name, slope in batches[0].items()} == {
        "network.0": 2,
        "network.2": 4,
        "network.4": 3,
    }


def test_slopes_are_finite_differences() -> None:
    model, split = small_cnn().double(), small_split()
    split = Split(split.inputs.double(), split.targets)
    network = gated(model)
    (slopes,) = gate_gradients(network, split)
    step = 1e-6
    for name, gate in network.gates.items():
        for k in range(len(gate.values)):
            losses = []
            for value in (1 - step, 1 + step):
                gate.values[k] = value
                losses.append(F.cross_entropy(network(split.inputs), split.targets, reduction="none"))
            gate.values[k] = 1
            torch.testing.assert_close(slopes[name][:, k], (losses[1] - losses[0]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_slopes_of_a_masked_network() -> None:
    model, split = small_cnn(), small_split()
    masked = mask(model, Plan({"network.4": (0, 1, 2)}))
    (slopes,) = gate_gradients(masked, split)
    assert slopes["network.4"].abs().sum() > 0
    assert slopes["network.2"].abs().sum() == 0  # nothing of it gets through
    assert torch.equal(masked.gates["network.4"].values, torch.zeros(3))


def test_slopes_of_what_the_loss_does_not_see() -> None:
    """Two heads, and a loss of one of them."""

    def forward(self: Any, x: Tensor) -> Any:
        return self.linear(self.a(x).flatten(1)), self.other(self.b(x).flatten(1))

    convolutions = {"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(1, 3, 3)}
    model = Net(forward, **convolutions, linear=nn.Linear(2 * 15, 3), other=nn.Linear(3 * 15, 3))
    (slopes,) = gate_gradients(
        model,
        small_split(),
        loss=lambda outputs, labels, reduction: F.cross_entropy(outputs[0], labels, reduction="none"),
    )
    assert slopes["a"].abs().min() > 0
    assert torch.equal(slopes["b"], torch.zeros(10, 3))


def test_slopes_behind_closed_gates_are_finite() -> None:
    masked = mask(small_cnn(), Plan({"network.0": (0,)}))
    (slopes,) = gate_gradients(masked, small_split())
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes.values())


@pytest.mark.parametrize("measure", [gated, lambda m: mask(m, Plan({"network.0": (1,)})), lambda m: [*slopes_of(m)]])
@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing(measure: Callable[[nn.Module], Any], training: bool) -> None:
    model = small_cnn().train(training)
    model.network[1].training = not training  # each module's own flag
    F.cross_entropy(model(small_split().inputs), small_split().targets).backward()
    before = snapshot(model)
    measure(model)
    assert_unchanged(model, before)


def slopes_of(model: nn.Module, loss: Callable[..., Tensor] = F.cross_entropy) -> Any:
    return gate_gradients(model, small_split(), loss=loss, batch_size=4)


def test_a_loss_that_raises_changes_nothing() -> None:
    model = small_cnn().train()
    network = mask(model, Plan({"network.0": (1,)}))
    before, before_network = snapshot(model), snapshot(network)
    calls = iter([False, False, False, True])  # two of a trial, and the first batch

    def loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if next(calls):
            raise KeyError("on purpose")
        return F.cross_entropy(outputs, labels, reduction=reduction)

    with pytest.raises(KeyError, match="on purpose"):
        list(slopes_of(network, loss))
    assert_unchanged(model, before)
    assert_unchanged(network, before_network)


def test_slopes_left_unfinished_change_nothing() -> None:
    network = gated(small_cnn())
    before = snapshot(network)
    next(iter(slopes_of(network)))
    assert_unchanged(network, before)


def test_slopes_inside_no_grad_and_of_frozen() -> None:
    model = small_cnn().requires_grad_(False)
    (expected,) = gate_gradients(copy.deepcopy(model).requires_grad_(True), small_split())
    with torch.no_grad():
        (slopes,) = gate_gradients(model, small_split())
        assert not torch.is_grad_enabled()
    for name, slope in expected.items():
        assert torch.equal(slopes[name], slope)


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (lambda outputs, labels, reduction: F.cross_entropy(outputs, labels), r"shape \(\)"),
        (lambda outputs, labels, reduction: outputs.T, r"shape \(3, 10\)"),
        (lambda outputs, labels, reduction: 0.5, "0.5"),
    ],
)
def test_a_reduced_loss_is_refused(loss: Any, given: str) -> None:
    """A loss reduced over the batch would make the scores depend on its size."""
    message = rf"must return one number for each example, shape \(10,\), .* it returned {given}\."
    with pytest.raises(ValueError, match=message):
        list(gate_gradients(small_cnn(), small_split(10), loss=loss))


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="the losses carry no gradient: compute them from the outputs"):
        list(gate_gradients(small_cnn(), small_split(), loss=lambda outputs, labels, reduction: labels.float()))


def test_a_gated_network_refuses_to_train() -> None:
    network = gated(small_cnn().train())
    assert not any(module.training for module in network.modules())
    with pytest.raises(RuntimeError, match="a gated network only measures; train the model itself"):
        network.train()
    assert network.eval() is network


def test_a_gated_network_shares_parameters() -> None:
    model = small_cnn()
    network = gated(model)
    assert {id(p) for p in network.parameters()} == {id(p) for p in model.parameters()}


def test_weights_set_in_forward_are_put_back() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.a.weight.data = self.a.weight.data / 2
        return self.b(self.a(x).mean((2, 3)))

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Linear(4, 2))
    before = model.a.weight.detach().clone()
    next(gate_gradients(model, Split(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]))))
    assert torch.equal(model.a.weight, before)


def test_a_channel_beside_the_picture_has_a_slope() -> None:
    model = Net(lambda self, x: self.c(self.b(torch.cat([self.a(x), x], 1)).mean((2, 3))),
                a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(5, 3, 1), c=nn.Linear(3, 2))  # fmt: skip
    data = Split(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1]))
    (slopes,) = gate_gradients(model, data)
    network, small = gates.gated(model, data.inputs[:2]), 1e-3
    for k in range(4):
        losses = []
        for value in (1 + small, 1 - small):
            network.gates["a"].values[k] = value
            losses.append(F.cross_entropy(network(data.inputs), data.targets, reduction="none"))
        network.gates["a"].values[k] = 1.0
        torch.testing.assert_close(slopes["a"][:, k], (losses[0] - losses[1]) / (2 * small), rtol=0.02, atol=1e-4)


def test_a_layer_without_gradients_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.b(self.a(x))
        return self.c(h.mean((2, 3)))

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 3, 1), c=nn.Linear(3, 2))
    data = Split(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="b is read without gradients"):
        next(gate_gradients(model, data))


def reads(change: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """a -> y is read by b, then y meets what b made of it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(change(self, y, self.b(y)).mean((2, 3)))

    return forward


def by_hand(self: Any, y: Tensor, z: Tensor) -> Tensor:
    return (y + z).relu()


def in_place(self: Any, y: Tensor, z: Tensor) -> Tensor:
    y += z
    return y.relu_()


def through_a_view(self: Any, y: Tensor, z: Tensor) -> Tensor:
    y[:].add_(z)
    return y.relu_()


@pytest.mark.parametrize("change", [in_place, through_a_view])
@pytest.mark.parametrize("closed", [False, True])
def test_a_map_may_be_changed_after_it_was_read(change: Callable[..., Tensor], closed: bool) -> None:
    layers = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Linear(4, 2)}
    data = Split(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1]))
    found = []
    for forward in (reads(by_hand), reads(change)):
        network = gates.gated(randomize(Net(forward, **layers)), data.inputs[:2])
        network.gates["a"].values[1] = 0.0 if closed else 1.0
        found.append(next(gate_gradients(network, data))["a"])
    torch.testing.assert_close(found[1], found[0])


def test_a_checkpoint_changes_no_slope() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        def part(y: Tensor) -> Tensor:
            return F.relu(self.b(F.relu(self.a(y))))

        return self.c((checkpoint(part, x, use_reentrant=False) if self.checkpointed else part(x)).mean((2, 3)))

    model = randomize(Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 3, 1), c=nn.Linear(3, 2)))
    data = Split(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1]))
    found = []
    for model.checkpointed in (False, True):
        found.append(next(gate_gradients(model, data)))
    assert found[0].keys() == {"a", "b"}
    for name, slopes in found[0].items():
        assert torch.equal(slopes, found[1][name])


def test_nothing_to_gate_is_refused_with_reasons() -> None:
    conv = Net(lambda self, x: self.conv(x), conv=nn.Conv2d(1, 4, 3))
    with pytest.raises(
        ValueError, match="no filter of Net can be removed: conv: its feature map is part of the network's"
    ):
        gated(conv)
    with pytest.raises(ValueError, match="no filter of Linear can be removed: it has no convolution"):
        gates.gated(nn.Linear(2, 2), torch.zeros(2, 2))


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'network\.2' has filters 0 to 3; the plan removes"):
        mask(small_cnn(), Plan({"network.2": (4,)}))


def test_modules_may_have_any_name() -> None:
    modules = {"gate_0": nn.Conv2d(1, 4, 3), "gate_1": nn.Conv2d(4, 4, 3), "gates": nn.Linear(4 * 3, 3)}
    model = Net(lambda self, x: self.gates(self.gate_1(self.gate_0(x)).flatten(1)), **modules)
    images = small_split().inputs
    assert torch.equal(gated(model)(images), model(images))


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_has_gates_of_its_own(copied_by: Callable[[Any], Any]) -> None:
    """And they close: a copy has other weights, by which its readers are known."""
    network = gated(small_cnn())
    copied = copied_by(network)
    copied.gates["network.0"].values.zero_()
    images = small_split().inputs
    assert torch.equal(network.gates["network.0"].values, torch.ones(2))
    assert difference(copied(images), network(images)) > 1e-3


def test_channels_last_changes_nothing() -> None:
    model, split = small_cnn().double(), small_split()
    split = Split(split.inputs.double(), split.targets)
    (expected,) = gate_gradients(model, split)
    last = model.to(memory_format=torch.channels_last)
    split = Split(split.inputs.to(memory_format=torch.channels_last), split.targets)
    assert difference(gated(last)(split.inputs), last(split.inputs)) < 1e-12
    (slopes,) = gate_gradients(last, split)
    for name in expected:
        torch.testing.assert_close(slopes[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gates_are_on_the_models_device() -> None:
    model, split = small_cnn(), small_split()
    (expected,) = gate_gradients(model, split)
    (slopes,) = gate_gradients(model.cuda(), split.to("cuda"))
    for name in expected:
        assert slopes[name].device.type == "cuda"
        torch.testing.assert_close(slopes[name].cpu(), expected[name], rtol=1e-3, atol=1e-5)
