"""Which filters can leave a network: followed through its graph, and never guessed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from random_networks import (  # noqa: F401
    PROPERTY,
    Net,
    RandomNetwork,
    assert_unchanged,
    networks,
    one_thread,
    randomize,
    snapshot,
)
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Port, analyse, prunable_layers, removals, skipped_layers

JOINS = "joins its channels with others"
KNOWN = "is not known to keep channels apart"


def names(model: nn.Module) -> list[str]:
    return [layer.name for layer in prunable_layers(model)]


def between(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    """conv (4 filters) -> what is tested -> reader (a convolution)."""
    modules = {"conv": nn.Conv2d(1, 4, 3), "reader": nn.Conv2d(4, 2, 1), **modules}
    return Net(lambda self, x: self.reader(forward(self, self.conv(x))), **modules)


def before_linear(forward: Callable[[Any, Tensor], Any], features: int = 4) -> nn.Module:
    """conv (4 filters of 6 x 6 positions) -> what is tested -> linear."""
    modules = {"conv": nn.Conv2d(1, 4, 3), "linear": nn.Linear(features, 2)}
    return Net(lambda self, x: self.linear(forward(self, self.conv(x))), **modules)


def test_the_layers_of_a_chain_come_in_calling_order_with_their_consumers() -> None:
    first, second, third = prunable_layers(CNN((2, 4, 8), image_size=(5, 7)))
    assert [layer.out_channels for layer in (first, second, third)] == [2, 4, 8]
    assert first.consumers == (Port("network.2", 1),)
    assert second.consumers == (Port("network.4", 1),)
    assert third.consumers == (Port("network.7", 5 * 7),)
    assert not first.followers


def test_followers_lose_the_same_channels_as_the_layer() -> None:
    modules = {"dw": nn.Conv2d(4, 4, 3, groups=4), "norm": nn.BatchNorm2d(4), "slope": nn.PReLU(4)}
    model = between(lambda self, x: self.slope(self.dw(F.max_pool2d(self.norm(x), 2))), **modules)
    (layer,) = prunable_layers(model)
    assert layer.followers == (Port("norm", 1), Port("dw", 1), Port("slope", 1))
    assert layer.consumers == (Port("reader", 1),)


def test_a_norm_behind_flatten_holds_a_block_of_numbers_for_each_filter() -> None:
    modules = {"conv": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm1d(4 * 36), "linear": nn.Linear(4 * 36, 2)}
    (layer,) = prunable_layers(Net(lambda self, x: self.linear(self.norm(self.conv(x).flatten(1))), **modules))
    assert (layer.followers, layer.consumers) == ((Port("norm", 36),), (Port("linear", 36),))


@PROPERTY
@given(networks())
def test_exactly_the_convolutions_whose_channels_nothing_joins_are_prunable(net: RandomNetwork) -> None:
    """Traps, row 11, on random graphs: every convolution is either prunable or skipped with a reason."""
    before = snapshot(net)
    found = analyse(net)
    assert_unchanged(net, before)
    convolutions = {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert {name: layer.producers for name, layer in found.layers.items()} == net.prunable
    assert set(found.skipped) == convolutions - {name for producers in net.prunable.values() for name in producers}
    assert all(found.skipped.values())


DEPTHWISE = "depthwise: each filter belongs to the channel that it reads"
UNCALLED = "the network does not call it in eval mode"


@pytest.mark.parametrize(
    ("name", "layers", "convolutions", "skipped"),
    [
        ("alexnet", 5, 5, set()),
        ("vgg11", 8, 8, set()),
        ("vgg11_bn", 8, 8, set()),
        ("vgg16_bn", 13, 13, set()),
        ("resnet18", 12, 20, set()),
        ("resnet50", 37, 53, set()),
        ("mobilenet_v2", 25, 35, {DEPTHWISE}),
        ("squeezenet1_1", 9, 9, {f"cat {JOINS}", "its feature map is part of the network's output"}),
        ("densenet121", 58, 58, {f"cat {JOINS}"}),
        ("efficientnet_b0", 40, 65, {DEPTHWISE}),
        ("googlenet", 21, 21, {f"cat {JOINS}", UNCALLED}),
    ],
)
def test_networks_of_torchvision(name: str, layers: int, convolutions: int, skipped: set[str]) -> None:
    """Traps, row 11: how many layers and convolutions can lose filters, and why the others cannot."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(**{"init_weights": False} if name == "googlenet" else {})
    everything = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    producers = [producer for layer in prunable_layers(model) for producer in layer.producers]
    assert (len(prunable_layers(model)), len(producers)) == (layers, convolutions)
    assert {*producers} | skipped_layers(model).keys() == everything
    assert not {*producers} & skipped_layers(model).keys()
    assert len({*producers}) == convolutions
    assert set(skipped_layers(model).values()) == skipped


def test_in_resnet18_the_convolutions_whose_maps_are_added_are_one_layer() -> None:
    """Traps, row 11."""
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    layers = {layer.name: layer for layer in prunable_layers(model)}
    assert layers["conv1"].producers == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert layers["layer2.0.conv2"].producers == ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")
    readers = ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"]
    assert [port.name for port in layers["conv1"].consumers] == readers
    assert [port.name for port in layers["conv1"].followers] == ["bn1", "layer1.0.bn2", "layer1.1.bn2"]
    assert layers["layer4.0.conv2"].consumers == (Port("layer4.1.conv1", 1), Port("fc", 1))


def test_maps_that_meet_late_are_one_layer_from_their_first_convolution_on() -> None:
    convolutions = {name: nn.Conv2d(1 if name in "abc" else 4, 4, 1) for name in "abcd"}

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.d((b - c.sigmoid()) * torch.maximum(a, c))

    (layer,) = prunable_layers(Net(forward, **convolutions))
    assert (layer.name, layer.producers, layer.consumers) == ("a", ("a", "b", "c"), (Port("d", 1),))


def test_a_reason_that_holds_one_convolution_holds_all_whose_channels_it_shares() -> None:
    convolutions = {name: nn.Conv2d(4, 4, 1) for name in "abc"}

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.a(x)
        return self.c(a + self.b(x)), a

    model = Net(forward, **convolutions)
    assert names(model) == []
    part_of_output = "its feature map is part of the network's output"
    assert skipped_layers(model) == dict.fromkeys("abc", part_of_output)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: 1 - x / 2,
        lambda x: x + x,
        lambda x: x.mul_(2),
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x / x.size(0),
    ],
)
def test_a_map_may_meet_numbers_and_itself(call: Callable[[Tensor], Tensor]) -> None:
    model = between(lambda self, x: call(x))
    model(torch.zeros(2, 1, 8, 8))
    assert names(model) == ["conv"]


@pytest.mark.parametrize(
    "meet",
    [
        lambda x, small: x + small,  # one channel for all
        lambda x, small: x.flatten(1) + small.flatten(1),
        lambda x, small: x + torch.ones(4, 1, 1),
    ],
)
def test_maps_of_other_widths_and_tensors_from_elsewhere_do_not_meet(meet: Callable[[Tensor, Tensor], Tensor]) -> None:
    modules = {"conv": nn.Conv2d(1, 4, 1), "small": nn.Conv2d(1, 1, 1), "reader": nn.Conv2d(4, 2, 1)}
    model = Net(lambda self, x: self.reader(meet(self.conv(x), self.small(x))), **modules)
    assert "conv" not in names(model)


ACTIVATIONS = {
    "F.relu": lambda x: F.relu(x),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "x.relu_": lambda x: x.relu_(),
    "F.relu6": lambda x: F.relu6(x),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "F.elu": lambda x: F.elu(x),
    "F.selu": lambda x: F.selu(x),
    "F.celu": lambda x: F.celu(x),
    "F.gelu": lambda x: F.gelu(x),
    "F.silu": lambda x: F.silu(x),
    "F.mish": lambda x: F.mish(x),
    "F.hardswish": lambda x: F.hardswish(x),
    "F.hardsigmoid": lambda x: F.hardsigmoid(x),
    "F.hardtanh": lambda x: F.hardtanh(x),
    "torch.sigmoid": lambda x: torch.sigmoid(x),
    "F.sigmoid": lambda x: F.sigmoid(x),
    "x.tanh": lambda x: x.tanh(),
    "F.softplus": lambda x: F.softplus(x),
    "F.softsign": lambda x: F.softsign(x),
    "F.logsigmoid": lambda x: F.logsigmoid(x),
    "F.tanhshrink": lambda x: F.tanhshrink(x),
    "F.softshrink": lambda x: F.softshrink(x),
    "F.hardshrink": lambda x: F.hardshrink(x),
}
CARRIERS = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "F.avg_pool2d over all": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "F.max_pool2d over all": lambda x: F.max_pool2d(x, kernel_size=(x.size(2), x.shape[-1])),
    "F.lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "F.adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "F.adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "F.dropout": lambda x: F.dropout(x, training=False),
    "F.dropout2d": lambda x: F.dropout2d(x, training=False),
    "F.interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "F.interpolate to its own size": lambda x: F.interpolate(x, size=x.shape[2:]),
    "x.contiguous": lambda x: x.contiguous(),
}


@pytest.mark.parametrize("call", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_a_gate_sits_behind_every_activation_function(call: Callable[[Tensor], Tensor]) -> None:
    (layer,) = prunable_layers(between(lambda self, x: call(x)))
    ((source, reader),) = layer.gate_edges
    assert source != "conv"
    assert reader == "reader"


@pytest.mark.parametrize("call", CARRIERS.values(), ids=CARRIERS)
def test_channels_stay_apart_in_every_pooling_and_resizing_function(call: Callable[[Tensor], Tensor]) -> None:
    (layer,) = prunable_layers(between(lambda self, x: call(x)))
    assert layer.consumers == (Port("reader", 1),)
    assert len(layer.gate_edges) == 1


FLATTENS = {
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "x.flatten": lambda x: x.flatten(1),
    "x.flatten to the end": lambda x: x.flatten(1, -1),
    "torch.flatten by name": lambda x: torch.flatten(x, start_dim=1),
    "view, size(0)": lambda x: x.view(x.size(0), -1),
    "view, shape[0]": lambda x: x.view(x.shape[0], -1),
    "view, size()[0]": lambda x: x.view(x.size()[0], -1),
    "view of a tuple": lambda x: x.view((x.size(0), -1)),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
}
MEANS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean by name": lambda x: x.mean(dim=[-2, -1]),
    "torch.mean": lambda x: torch.mean(x, (3, 2)),
    "amax": lambda x: x.amax((2, 3)),
    "mean, then flatten": lambda x: x.mean((2, 3), keepdim=True).flatten(1),
    "mean, True, then flatten": lambda x: x.mean((2, 3), True).flatten(1),
    "adaptive pooling, then flatten": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "squeeze and excite without the excitement": lambda x: F.adaptive_max_pool2d(x, (1, 1)).view(x.size(0), -1),
}


def unpacked(x: Tensor) -> Tensor:
    n, _channels, _height, _width = x.shape
    return x.view(n, -1)


def unpacked_size(x: Tensor) -> Tensor:
    n, _channels, _height, _width = x.size()
    return x.view(n, -1)


@pytest.mark.parametrize(
    ("call", "block"),
    [
        *(pytest.param(call, 36, id=name) for name, call in FLATTENS.items()),
        *(pytest.param(call, 1, id=name) for name, call in MEANS.items()),
        pytest.param(unpacked, 36, id="view, unpacked shape"),
        pytest.param(unpacked_size, 36, id="view, unpacked size()"),
    ],
)
def test_every_way_from_maps_to_features_is_known(call: Callable[[Tensor], Tensor], block: int) -> None:
    """Traps, row 6: how many inputs of the linear layer belong to one filter is read from the network."""
    model = before_linear(lambda self, x: call(x), features=4 * block)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    (layer,) = prunable_layers(model)
    assert layer.consumers == (Port("linear", block),)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x.view(-1, 4 * 36), id="a fixed number of features"),
        pytest.param(lambda x: x.view(2, -1), id="a fixed number of images"),
        pytest.param(lambda x: x.view(x.size(0), x.size(1) * 36), id="a product with the channels"),
        pytest.param(lambda x: x.view(x.size(1) // 2, -1), id="the channels as the batch"),
        pytest.param(lambda x: x.view(x.size(2), -1), id="the height as the batch"),
        pytest.param(lambda x: x.mean((1, 3)), id="a mean over channels"),
        pytest.param(lambda x: x.mean((1, 2, 3)), id="a mean over all"),
        pytest.param(lambda x: x.view(x.shape[:1][0], x.shape[1:].numel()), id="the numel of the rest"),
        pytest.param(lambda x: x.flatten(2).flatten(1), id="flatten of the positions alone"),
        pytest.param(lambda x: x.permute(0, 2, 3, 1).flatten(1), id="channels last"),
        pytest.param(lambda x: torch.flatten(x.transpose(1, 2), 1), id="transposed"),
    ],
)
def test_a_reshape_that_could_mix_or_fix_channels_is_refused(call: Callable[[Tensor], Tensor]) -> None:
    """Traps, row 6."""
    model = before_linear(lambda self, x: call(x), features=4 * 36)
    assert KNOWN in skipped_layers(model)["conv"]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: torch.cat([x, x], 1)[:, :4], f"cat {JOINS}"),
        (lambda x: F.softmax(x, 1), f"softmax {KNOWN}"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, 1:], f"pad {KNOWN}"),
        (lambda x: x[:, [3, 2, 1, 0]], f"getitem {KNOWN}"),
        (lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1), f"pixel_shuffle {KNOWN}"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), f"mean {KNOWN}"),
        (lambda x: F.instance_norm(x) / x.shape[1], "not known"),
    ],
)
def test_what_mixes_channels_is_skipped_with_its_name(call: Callable[[Tensor], Tensor], reason: str) -> None:
    """Traps, row 11."""
    model = between(lambda self, x: call(x))
    model(torch.zeros(2, 1, 8, 8))
    assert reason in skipped_layers(model)["conv"]


@pytest.mark.parametrize("module", [nn.GroupNorm(2, 4), nn.LayerNorm(6), nn.Softmax2d(), nn.ChannelShuffle(2)])
def test_a_module_that_is_not_known_is_named_with_its_type(module: nn.Module) -> None:
    model = between(lambda self, x: self.between(x), between=module)
    assert skipped_layers(model)["conv"] == f"between ({type(module).__name__}) {KNOWN}"


def test_a_feature_map_that_leaves_the_network_is_skipped() -> None:
    model = Net(lambda self, x: self.conv(x), conv=nn.Conv2d(1, 4, 3))
    assert skipped_layers(model) == {"conv": "its feature map is part of the network's output"}


def test_grouped_and_depthwise_convolutions_keep_their_own_filters() -> None:
    groups = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 8, 1, groups=2), "c": nn.Conv2d(8, 1, 1)}
    model = Net(lambda self, x: self.c(self.b(self.a(x))), **groups)
    assert names(model) == []
    assert skipped_layers(model)["b"] == "its filters come in 2 groups of equal size"
    assert skipped_layers(model)["a"] == f"b (Conv2d) {KNOWN}"


def test_a_module_called_twice_is_refused_with_its_name() -> None:
    """Traps, row 12: pruned for one use, it would be wrong for the other."""
    twice = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1)}
    model = Net(lambda self, x: self.c(self.b(self.b(self.a(x)))), **twice)
    reason = "b is called 2 times in one forward pass"
    assert skipped_layers(model) == {"a": reason, "b": reason, "c": "its feature map is part of the network's output"}
    with pytest.raises(ValueError, match="b is called 2 times"):
        removals({}, skipped_layers(model), Plan({"b": (0,)}))


@pytest.mark.parametrize("follower", [nn.BatchNorm2d(4), nn.PReLU(4)])
def test_a_follower_called_twice_is_refused_with_its_name(follower: nn.Module) -> None:
    """Traps, row 12."""
    modules = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1), "f": follower}
    model = Net(lambda self, x: self.c(self.f(self.b(self.f(self.a(x))))), **modules)
    assert names(model) == []
    assert skipped_layers(model)["a"] == "f is called 2 times in one forward pass"


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU()])
def test_an_activation_that_holds_nothing_for_a_channel_may_be_called_twice(activation: nn.Module) -> None:
    modules = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1), "act": activation}
    model = Net(lambda self, x: self.c(self.act(self.b(self.act(self.a(x))))), **modules)
    assert names(model) == ["a", "b"]


def chain(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), *more
    )


@pytest.mark.parametrize("called", [True, False])
def test_a_shared_parameter_is_refused_with_its_name(called: bool) -> None:
    """Traps, row 12: also where the other module is never called, the two would come apart."""
    model = Net(lambda self, x: (self.body(x), self.other(x)) if called else self.body(x), body=chain())
    model.other = nn.Conv2d(1, 4, 3)
    model.other.weight = model.body[0].weight
    assert skipped_layers(model)["body.0"] == "body.0 shares a parameter with another module"
    assert names(model) == ["body.2"]


def test_parameters_that_the_network_reads_directly_are_refused_with_their_module() -> None:
    model = Net(lambda self, x: self.body(x) * self.body[2].weight.sum(), body=chain())
    assert skipped_layers(model)["body.2"] == "the network reads the parameters of body.2 directly"
    assert skipped_layers(model)["body.0"] == "the network reads the parameters of body.2 directly"


PARAMETRIZED = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "masked weight": lambda module: torch_prune.l1_unstructured(module, "weight", 0.5),
    "masked bias": lambda module: torch_prune.l1_unstructured(module, "bias", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("parametrize", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_a_computed_weight_is_refused_with_its_name_and_the_rest_is_prunable(
    parametrize: Callable[[nn.Module], nn.Module],
) -> None:
    model = chain(nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
    parametrize(model[0])
    model(torch.randn(2, 1, 8, 8))
    before = snapshot(model)
    assert skipped_layers(model) == {"0": "the weight or bias of 0 is computed from other tensors"}
    assert names(model) == ["2", "4"]
    assert_unchanged(model, before)


def test_a_consumer_with_a_computed_weight_keeps_the_layer_before_it() -> None:
    model = chain()
    nn.utils.parametrizations.weight_norm(model[2])
    assert skipped_layers(model)["0"] == "the weight or bias of 2 is computed from other tensors"


def test_a_head_that_reads_only_in_train_mode_keeps_the_layer() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.a(x)
        y = self.c(self.b(x))
        return (y, self.auxiliary(x)) if self.training else y

    convolutions = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1)}
    model = Net(forward, **convolutions, auxiliary=nn.Conv2d(4, 2, 1)).eval()
    assert skipped_layers(model)["a"] == "in train mode other modules read it"
    assert skipped_layers(model)["auxiliary"] == "the network does not call it in eval mode"
    assert names(model) == ["b"]


def test_a_map_that_leaves_the_network_only_in_train_mode_keeps_the_layer() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        features = self.a(x)
        return (self.b(features), features) if self.training else self.b(features)

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 2, 1)).eval()
    assert skipped_layers(model)["a"] == "in train mode its feature map is part of the network's output"


def test_dropout_by_the_training_flag_is_followed() -> None:
    model = between(lambda self, x: F.dropout(x, 0.5, training=self.training))
    assert names(model) == ["conv"]


def test_an_activation_in_place_whose_result_nobody_reads_is_refused() -> None:
    """The next node reads the changed map through the old name, and a gate would stand before the activation."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2)
        x.sigmoid_()
        return x

    assert "the result of sigmoid_ is not read" in skipped_layers(between(forward))["conv"]


def test_where_a_map_forks_no_gate_stands_before_another() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        pooled = F.max_pool2d(self.a(x), 2)
        return self.b(pooled), self.c(F.relu(pooled))

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 2, 1), c=nn.Conv2d(4, 2, 1))
    (layer,) = prunable_layers(model)
    assert layer.gate_edges == (("max_pool2d", "b"), ("relu", "c"))


def test_tracing_leaves_counters_and_random_numbers_of_the_forward_pass_alone() -> None:
    """Traps, row 3: the graph of train mode is looked at, but on copies."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            torch.rand(1)
        return self.body(x)

    model = Net(forward, body=chain())
    model.register_buffer("steps", torch.zeros(()))
    randomize(model)
    before = snapshot(model)
    assert names(model) == ["body.0", "body.2"]
    assert_unchanged(model, before)


def test_a_model_that_keeps_its_last_feature_map_can_be_traced() -> None:
    model = chain()
    model.last = model[0](torch.randn(1, 1, 8, 8))
    assert names(model) == ["0", "2"]


def test_a_network_that_only_traces_in_eval_mode_is_taken_by_that() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training and x.sum() > 0:
            return self.body(-x)
        return self.body(x)

    assert names(Net(forward, body=chain())) == ["body.0", "body.2"]


def test_a_network_that_cannot_be_traced_gets_an_error_that_says_what_to_do() -> None:
    model = Net(lambda self, x: self.body(x) if x.sum() > 0 else -self.body(x), body=chain())
    with pytest.raises(ValueError, match=r"torch\.fx cannot trace Net: .*\. Pruning needs .*move branches"):
        prunable_layers(model)


def test_a_plan_for_another_network_gets_an_error_that_lists_the_layers() -> None:
    found = analyse(CNN((2, 4)))
    with pytest.raises(ValueError, match=r"'conv9': there is no convolution of that name\. .*: network\.0, network\.2"):
        removals(found.layers, found.skipped, Plan({"conv9": (0,)}))
    with pytest.raises(ValueError, match=r"'network\.2' has filters 0 to 3; the plan removes \[4, 9\]\. Was it made"):
        removals(found.layers, found.skipped, Plan({"network.2": (0, 4, 9)}))
