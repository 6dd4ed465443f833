"""Gates: open they change nothing, closed the filter is gone, and their slopes are those of the loss."""

import copy
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

from cnnprune_utils.batches import Split
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.gates import gate_gradients, gated, mask
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Layer, Port, prunable_layers


def small_cnn() -> CNN:
    return randomize(CNN((2, 4, 3), image_size=(5, 7), n_classes=3))


def small_split(n: int = 10) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 5, 7, generator=generator)
    return Split(images, torch.randint(3, (n,), generator=generator))


def inputs_of_consumers(model: nn.Module, layers: list[Layer]) -> dict[str, Tensor]:
    """Collects, at the next forward pass of ``model``, what the consumers of the layers read."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            seen[name] = inputs[0] * 1  # a tensor of its own, for a gradient through this consumer alone
            if seen[name].requires_grad:
                seen[name].retain_grad()
            return seen[name]

        return hook

    for name in {port.name for layer in layers for port in layer.consumers}:
        model.get_submodule(name).register_forward_pre_hook(keep(name))
    return seen


def by_filter(x: Tensor, port: Port) -> Tensor:
    """What a consumer reads, as (n, filters, numbers of the filter)."""
    return x.reshape(len(x), x.shape[1] // port.block, -1)


@PROPERTY
@given(networks())
def test_open_gates_change_nothing(net: RandomNetwork) -> None:
    net.double()
    if not net.prunable:
        return
    images = net.split(3).images
    before = snapshot(net)
    outputs = gated(net)(images)
    assert_unchanged(net, before)
    assert difference(outputs, copy.deepcopy(net).eval()(images)) < 1e-12


@PROPERTY
@given(networks_with_plans())
def test_no_consumer_reads_anything_of_a_closed_filter(net_and_plan: tuple[RandomNetwork, Plan]) -> None:
    """Traps, rows 7 and 10: gates stand behind BatchNorm, sigmoid and depthwise convolution, on every branch."""
    net, plan = net_and_plan
    if not net.prunable:
        return
    before = snapshot(net)
    masked = mask(net, plan)
    layers = [layer for layer in prunable_layers(net) if layer.name in plan.remove]
    seen = inputs_of_consumers(masked.network, layers)
    masked(net.split(3).images)
    for layer in layers:
        for port in layer.consumers:
            closed = by_filter(seen[port.name], port)[:, list(plan.remove[layer.name])]
            assert torch.equal(closed, torch.zeros_like(closed)), f"{port.name} reads removed filters of {layer.name}"
    assert_unchanged(net, before)


@PROPERTY
@given(networks())
def test_the_slope_along_a_gate_is_the_sum_of_gradient_times_map_where_the_consumers_read(net: RandomNetwork) -> None:
    """Pooling, padding and flatten keep the sum of dC/dz * z, so it can be taken at the consumers' inputs instead.

    A gate in front of an activation, or two gates on one path, would give other numbers.
    """
    net.double()
    if not net.prunable:
        return
    split = net.split(3)
    plain = copy.deepcopy(net).eval().requires_grad_(True)
    layers = prunable_layers(net)
    seen = inputs_of_consumers(plain, layers)
    try:
        loss_over_heads(plain(split.images), split.labels, "none").sum().backward()
    except RuntimeError as error:  # a ReLU, then one in place: PyTorch itself cannot differentiate this network
        if "modified by an inplace operation" not in str(error):
            raise
        return
    (slopes,) = gate_gradients(net, split, loss=loss_over_heads)
    for layer in layers:
        expected = torch.zeros(len(split), layer.out_channels, dtype=torch.float64)
        for port in layer.consumers:
            z = seen[port.name]
            expected += by_filter(z.grad * z, port).sum(2)
        torch.testing.assert_close(slopes[layer.name], expected.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pool_first", [True, False])
def test_the_beta_of_a_batchnorm_does_not_bring_a_closed_filter_back(pool_first: bool) -> None:
    """Traps, rows 7 and 10: also with a BatchNorm behind the pooling."""
    middle = [nn.MaxPool2d(2), nn.BatchNorm2d(4)] if pool_first else [nn.BatchNorm2d(4), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *middle, nn.Flatten(), nn.Linear(4 * 2 * 3, 3, bias=False))
    randomize(model)
    outputs = mask(model, Plan({"0": range(4)}))(small_split().images)
    assert torch.equal(outputs, torch.zeros(10, 3))


def test_a_gate_stands_behind_a_depthwise_convolution_whose_bias_would_bring_the_filter_back() -> None:
    """Traps, row 10."""
    dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), dw, nn.Flatten(), nn.Linear(4 * 35, 3, bias=False))
    randomize(model)
    assert torch.equal(mask(model, Plan({"0": range(4)}))(small_split().images), torch.zeros(10, 3))


def test_a_gate_stands_on_every_branch() -> None:
    """Traps, row 10: one branch reads the map as it is, the other behind BatchNorm and sigmoid."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.straight(x.flatten(1)) + self.bent(self.norm(x).sigmoid().flatten(1))

    linears = {"straight": nn.Linear(4 * 35, 3, bias=False), "bent": nn.Linear(4 * 35, 3, bias=False)}
    model = Net(forward, conv=nn.Conv2d(1, 4, 3, padding=1), norm=nn.BatchNorm2d(4), **linears)
    randomize(model)
    assert torch.equal(mask(model, Plan({"conv": range(4)}))(small_split().images), torch.zeros(10, 3))


def test_a_mask_may_empty_a_layer() -> None:
    model = small_cnn()
    outputs = mask(model, Plan({"network.4": (0, 1, 2)}))(small_split(2).images)
    assert torch.equal(outputs, model.network[7].bias.expand(2, 3))


def test_positions_are_those_of_the_map_behind_the_activation() -> None:
    pool = [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)]
    network = gated(nn.Sequential(nn.Conv2d(1, 4, 3), *pool))
    network(torch.zeros(2, 1, 14, 14))
    assert {name: gate.positions for name, gate in network.gates.items()} == {"0": 12 * 12, "3": 2 * 2}


def test_slopes_come_for_each_example_as_if_it_were_alone() -> None:
    """Traps, row 2."""
    model, split = small_cnn().double(), small_split()
    split = Split(split.images.double(), split.labels)
    (together,) = gate_gradients(model, split)
    for i in range(len(split)):
        (alone,) = gate_gradients(model, Split(split.images[i : i + 1], split.labels[i : i + 1]))
        for name in together:
            torch.testing.assert_close(together[name][i], alone[name][0], rtol=1e-9, atol=1e-12)


def test_slopes_come_batch_by_batch_and_the_last_batch_may_be_short() -> None:
    """Traps, row 2."""
    batches = list(gate_gradients(small_cnn(), small_split(), batch_size=4))
    assert [len(slopes["network.0"]) for slopes in batches] == [4, 4, 2]
    assert {name: slope.shape[1] for name, slope in batches[0].items()} == {
        "network.0": 2,
        "network.2": 4,
        "network.4": 3,
    }


def test_a_slope_is_minus_the_change_of_the_loss_when_a_small_part_of_the_filter_leaves() -> None:
    model, split = small_cnn().double(), small_split()
    split = Split(split.images.double(), split.labels)
    network = gated(model)
    (slopes,) = gate_gradients(network, split)
    step = 1e-6
    for name, gate in network.gates.items():
        for k in range(len(gate.values)):
            losses = []
            for value in (1 - step, 1 + step):
                gate.values[k] = value
                losses.append(F.cross_entropy(network(split.images), split.labels, reduction="none"))
            gate.values[k] = 1
            torch.testing.assert_close(slopes[name][:, k], (losses[1] - losses[0]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_slopes_are_taken_where_the_gates_of_a_masked_network_stand() -> None:
    model, split = small_cnn(), small_split()
    masked = mask(model, Plan({"network.4": (0, 1, 2)}))
    (slopes,) = gate_gradients(masked, split)
    assert slopes["network.4"].abs().sum() > 0
    assert slopes["network.2"].abs().sum() == 0  # nothing of it gets through
    assert torch.equal(masked.gates["network.4"].values, torch.zeros(3))


def test_a_layer_that_the_loss_does_not_see_has_slopes_of_zero() -> None:
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


def test_closed_gates_pass_nan_neither_to_the_outputs_nor_to_other_slopes() -> None:
    masked = mask(small_cnn(), Plan({"network.0": (0,)}))
    (slopes,) = gate_gradients(masked, small_split())
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes.values())


@pytest.mark.parametrize("measure", [gated, lambda m: mask(m, Plan({"network.0": (1,)})), lambda m: [*slopes_of(m)]])
@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing_of_the_model(measure: Callable[[nn.Module], Any], training: bool) -> None:
    """Traps, row 4."""
    model = small_cnn().train(training)
    model.network[1].training = not training  # each module's own flag
    F.cross_entropy(model(small_split().images), small_split().labels).backward()
    before = snapshot(model)
    measure(model)
    assert_unchanged(model, before)


def slopes_of(model: nn.Module, loss: Callable[..., Tensor] = F.cross_entropy) -> Any:
    return gate_gradients(model, small_split(), loss=loss, batch_size=4)


def test_a_loss_that_raises_in_the_second_batch_leaves_model_and_gates_as_they_were() -> None:
    """Traps, row 4."""
    model = small_cnn().train()
    network = mask(model, Plan({"network.0": (1,)}))
    before, before_network = snapshot(model), snapshot(network)
    calls = iter([False, True])

    def loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if next(calls):
            raise KeyError("on purpose")
        return F.cross_entropy(outputs, labels, reduction=reduction)

    with pytest.raises(KeyError, match="on purpose"):
        list(slopes_of(network, loss))
    assert_unchanged(model, before)
    assert_unchanged(network, before_network)


def test_an_iterator_that_is_not_finished_leaves_the_gates_as_they_were() -> None:
    network = gated(small_cnn())
    before = snapshot(network)
    next(iter(slopes_of(network)))
    assert_unchanged(network, before)


def test_slopes_can_be_taken_inside_no_grad_and_of_frozen_models() -> None:
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
        (lambda outputs, labels, reduction: outputs, r"shape \(10, 3\)"),
        (lambda outputs, labels, reduction: 0.5, "0.5"),
    ],
)
def test_a_loss_that_is_not_one_number_per_example_gets_an_error_that_says_so(loss: Any, given: str) -> None:
    """Traps, row 2: a loss reduced over the batch would make the scores depend on its size."""
    message = rf'loss\(outputs, labels, reduction="none"\) must return .* shape \(10,\); it returned {given}\.'
    with pytest.raises(ValueError, match=message):
        list(gate_gradients(small_cnn(), small_split(), loss=loss))


def test_a_loss_without_a_gradient_gets_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="the losses carry no gradient: compute them from the outputs"):
        list(gate_gradients(small_cnn(), small_split(), loss=lambda outputs, labels, reduction: labels.float()))


def test_a_gated_network_refuses_to_train() -> None:
    network = gated(small_cnn().train())
    assert not any(module.training for module in network.modules())
    with pytest.raises(RuntimeError, match="a gated network only measures; train the model itself"):
        network.train()
    assert network.eval() is network


def test_a_gated_network_shares_the_parameters_of_the_model() -> None:
    model = small_cnn()
    network = gated(model)
    assert {id(p) for p in network.parameters()} == {id(p) for p in model.parameters()}


def test_a_network_without_prunable_layers_gets_an_error_with_the_reasons() -> None:
    conv = Net(lambda self, x: self.conv(x), conv=nn.Conv2d(1, 4, 3))
    with pytest.raises(ValueError, match="no filter of Net can leave: conv: its feature map is part of the network's"):
        gated(conv)
    with pytest.raises(ValueError, match="no filter of Linear can leave: it has no convolution"):
        gated(nn.Linear(2, 2))


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'network\.2' has filters 0 to 3; the plan removes"):
        mask(small_cnn(), Plan({"network.2": (4,)}))


def test_a_module_of_the_network_may_have_any_name() -> None:
    modules = {"gate_0": nn.Conv2d(1, 4, 3), "gate_1": nn.Conv2d(4, 4, 3), "gates": nn.Linear(4 * 3, 3)}
    model = Net(lambda self, x: self.gates(self.gate_1(self.gate_0(x)).flatten(1)), **modules)
    images = small_split().images
    assert torch.equal(gated(model)(images), model(images))


def test_a_copy_of_a_gated_network_has_gates_of_its_own() -> None:
    network = gated(small_cnn())
    copied = copy.deepcopy(network)
    copied.gates["network.0"].values.zero_()
    images = small_split().images
    assert torch.equal(network.gates["network.0"].values, torch.ones(2))
    assert difference(copied(images), network(images)) > 1e-3


def test_channels_last_changes_neither_outputs_nor_slopes() -> None:
    model, split = small_cnn().double(), small_split()
    split = Split(split.images.double(), split.labels)
    (expected,) = gate_gradients(model, split)
    last = model.to(memory_format=torch.channels_last)
    split = Split(split.images.to(memory_format=torch.channels_last), split.labels)
    assert difference(gated(last)(split.images), last(split.images)) < 1e-12
    (slopes,) = gate_gradients(last, split)
    for name in expected:
        torch.testing.assert_close(slopes[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gates_stand_on_the_device_of_the_model() -> None:
    model, split = small_cnn(), small_split()
    (expected,) = gate_gradients(model, split)
    (slopes,) = gate_gradients(model.cuda(), split.to("cuda"))
    for name in expected:
        assert slopes[name].device.type == "cuda"
        torch.testing.assert_close(slopes[name].cpu(), expected[name], rtol=1e-3, atol=1e-5)
