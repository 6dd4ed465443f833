"""Which filters can leave a network: followed through its graph, and never guessed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from random_networks import (  # noqa: F401
    PROPERTY,
    Net,
    RandomNetwork,
    assert_unchanged,
    narrow,
    networks,
    networks_with_plans,
    one_thread,
    randomize,
    snapshot,
)
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cnnprune_utils import gates
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Layer, analyse, known, prunable_layers, skipped_layers
from cnnprune_utils.surgery import prune

EXAMPLE = torch.zeros(2, 1, 8, 8)
OUTPUT = "its feature map is part of the network's output"


def names(model: nn.Module) -> list[str]:
    return [layer.name for layer in prunable_layers(model, EXAMPLE)]


def per_filter(layer: Layer) -> dict[str, int]:
    """Tensor and dimension -> how many of its numbers leave with the first filter."""
    return {f"{place.tensor} {place.dim}": len(place.indices[0]) for place in layer.places}


def why(model: nn.Module, name: str = "conv") -> str:
    return skipped_layers(model, EXAMPLE)[name]


def between(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    """conv (4 filters) -> what is tested -> reader (a convolution)."""
    modules = {"conv": nn.Conv2d(1, 4, 3), "reader": nn.Conv2d(4, 2, 1), **modules}
    return Net(lambda self, x: self.reader(forward(self, self.conv(x))), **modules)


def before_linear(forward: Callable[[Any, Tensor], Any], features: int = 4) -> nn.Module:
    """conv (4 filters of 6 x 6 positions) -> what is tested -> linear."""
    modules = {"conv": nn.Conv2d(1, 4, 3), "linear": nn.Linear(features, 2)}
    return Net(lambda self, x: self.linear(forward(self, self.conv(x))), **modules)


def test_layers_come_in_calling_order() -> None:
    layers = prunable_layers(CNN((2, 4, 8), image_size=(5, 7)), torch.zeros(2, 1, 5, 7))
    assert [(layer.name, layer.out_channels) for layer in layers] == [
        ("network.0", 2),
        ("network.2", 4),
        ("network.4", 8),
    ]
    assert per_filter(layers[0]) == {"network.0.weight 0": 1, "network.0.bias 0": 1, "network.2.weight 1": 1}
    assert per_filter(layers[2])["network.7.weight 1"] == 5 * 7


def test_a_layer_prints_what_leaves_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    print(prunable_layers(CNN((2, 4, 8), image_size=(5, 7)), torch.zeros(2, 1, 5, 7))[2])
    assert capsys.readouterr().out == (
        "network.4: 8 filters, made by network.4\n"
        "  network.4.weight, dimension 0: 1 for each filter\n"
        "  network.4.bias, dimension 0: 1 for each filter\n"
        "  network.7.weight, dimension 1: 35 for each filter\n"
    )


def test_norms_slopes_and_depthwise_follow() -> None:
    modules = {"dw": nn.Conv2d(4, 8, 3, groups=4), "norm": nn.BatchNorm2d(4), "slope": nn.PReLU(8)}
    reader = {"conv": nn.Conv2d(1, 4, 3), "reader": nn.Conv2d(8, 2, 1)}

    def forward(self: Any, x: Tensor) -> Any:
        return self.reader(self.slope(self.dw(F.max_pool2d(self.norm(self.conv(x)), 2))))

    (layer,) = prunable_layers(Net(forward, **modules, **reader))
    one = dict.fromkeys(["conv.weight 0", "conv.bias 0", *(f"norm.{part} 0" for part in ("weight", "bias"))], 1)
    two = dict.fromkeys(["dw.weight 0", "dw.bias 0", "slope.weight 0", "reader.weight 1"], 2)
    assert per_filter(layer) == {**one, **two, "norm.running_mean 0": 1, "norm.running_var 0": 1}


def test_a_norm_behind_flatten_holds_blocks() -> None:
    modules = {"conv": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm1d(4 * 36), "linear": nn.Linear(4 * 36, 2)}
    model = Net(lambda self, x: self.linear(self.norm(self.conv(x).flatten(1))), **modules)
    (layer,) = prunable_layers(model, EXAMPLE)
    assert per_filter(layer)["norm.running_var 0"] == per_filter(layer)["linear.weight 1"] == 36
    place = next(place for place in layer.places if place.tensor == "linear.weight")
    assert place.indices == tuple(tuple(range(36 * k, 36 * k + 36)) for k in range(4))


@PROPERTY
@given(networks())
def test_random_networks_have_the_expected_layers(net: RandomNetwork) -> None:
    """And every convolution is either prunable, or skipped with a reason."""
    before = snapshot(net)
    found = analyse(net)
    assert_unchanged(net, before)
    convolutions = {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert {name: layer.producers for name, layer in found.layers.items()} == net.prunable
    assert {name: layer.out_channels for name, layer in found.layers.items()} == net.widths
    assert set(found.skipped) == convolutions - {name for producers in net.prunable.values() for name in producers}
    assert all(found.skipped.values())


def test_layers_side_by_side_stay_apart() -> None:
    """Two convolutions behind a cat, and one whose map is added to both: nobody can lose all of its filters."""

    def forward(self: Any, x: Tensor) -> Tensor:
        both = torch.cat([self.a(x), self.b(x)], 1)
        return self.reader(both + self.c(both))

    convolutions = {"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(1, 3, 3), "c": nn.Conv2d(5, 5, 1)}
    model = Net(forward, **convolutions, reader=nn.Conv2d(5, 2, 1))
    layers = prunable_layers(model, EXAMPLE)
    assert [(layer.name, layer.out_channels, layer.producers) for layer in layers] == [
        ("a", 2, ("a", "c")),
        ("b", 3, ("b", "c")),
    ]
    pruned = prune(model, Plan({"a": (0,), "b": (0, 2)}), EXAMPLE)
    assert [pruned.a.out_channels, pruned.b.out_channels, pruned.c.out_channels] == [1, 1, 2]


DEPTHWISE = "depthwise: each filter belongs to the channel that it reads"
UNCALLED = "the network does not call it in eval mode"


@pytest.mark.parametrize(
    ("name", "layers", "convolutions", "skipped"),
    [
        ("alexnet", 5, 5, set()),
        ("vgg11_bn", 8, 8, set()),
        ("resnet18", 12, 20, set()),
        ("mobilenet_v2", 25, 35, {DEPTHWISE}),
        ("squeezenet1_1", 25, 25, {OUTPUT}),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [
                ("resnet50", 37, 53, set()),
                ("densenet121", 120, 120, set()),
                ("efficientnet_b0", 40, 65, {DEPTHWISE}),
                ("googlenet", 57, 57, {UNCALLED}),
            ]
        ),
    ],
)
def test_networks_of_torchvision(name: str, layers: int, convolutions: int, skipped: set[str]) -> None:
    """How many layers and convolutions can lose filters, and why the others cannot."""
    model = narrow(name)
    found = analyse(model, torch.zeros(2, 3, 64, 64))
    everything = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    producers = [producer for layer in found.layers.values() for producer in layer.producers]
    assert (len(found.layers), len(producers)) == (layers, convolutions)
    assert {*producers} | found.skipped.keys() == everything
    assert not {*producers} & found.skipped.keys()
    assert len({*producers}) == convolutions
    assert set(found.skipped.values()) == skipped


def test_maps_that_are_added_are_one_layer() -> None:
    layers = {layer.name: layer for layer in prunable_layers(torchvision.models.resnet18())}
    assert layers["conv1"].producers == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert layers["layer2.0.conv2"].producers == ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")
    readers = ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"]
    assert [place.tensor for place in layers["conv1"].places if place.dim == 1] == [f"{r}.weight" for r in readers]
    norms = [place.tensor for place in layers["conv1"].places if place.tensor.endswith("running_var")]
    assert norms == ["bn1.running_var", "layer1.0.bn2.running_var", "layer1.1.bn2.running_var"]


def test_maps_that_meet_late_are_one_layer() -> None:
    convolutions = {name: nn.Conv2d(1 if name in "abc" else 4, 4, 1) for name in "abcd"}

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.d((b - c.sigmoid()) * torch.maximum(a, c))

    (layer,) = prunable_layers(Net(forward, **convolutions))
    assert (layer.name, layer.producers, layer.out_channels) == ("a", ("a", "b", "c"), 4)


def test_one_reason_holds_all_that_share_channels() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.a(x)
        return self.c(a + self.b(x)), a

    model = Net(forward, **{name: nn.Conv2d(4, 4, 1) for name in "abc"})
    assert skipped_layers(model) == dict.fromkeys("abc", OUTPUT)


def test_a_map_that_nobody_reads_is_skipped() -> None:
    model = Net(lambda self, x: (self.b(x), self.a(x))[0], a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(1, 2, 1))
    assert skipped_layers(model) == {"a": "no layer reads it", "b": OUTPUT}


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
def test_a_map_meets_numbers_and_itself(call: Callable[[Tensor], Tensor]) -> None:
    model = between(lambda self, x: call(x))
    model(torch.zeros(2, 1, 8, 8))
    assert names(model) == ["conv"]


@pytest.mark.parametrize(
    ("meet", "reason"),
    [
        (lambda x, small: x.flatten(1) + small.flatten(1)[:, :1].repeat(1, 256), None),  # one number for all
        (lambda x, small: x + torch.ones(4, 1, 1), "joins it with numbers that no filter makes"),
        (lambda x, small: x * torch.arange(4.0).view(4, 1, 1), "joins it with numbers that no filter makes"),
    ],
)
def test_what_a_map_may_not_meet(meet: Callable[[Tensor, Tensor], Tensor], reason: str | None) -> None:
    modules = {"conv": nn.Conv2d(1, 4, 1), "small": nn.Conv2d(1, 1, 1), "reader": nn.Linear(256, 2)}
    model = Net(lambda self, x: self.reader(meet(self.conv(x), self.small(x)).flatten(1)), **modules)
    if reason:
        assert reason in why(model)
    assert "small" not in names(model)


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


@pytest.mark.parametrize("call", [*ACTIVATIONS.values(), *CARRIERS.values()], ids=[*ACTIVATIONS, *CARRIERS])
def test_these_keep_channels_apart(call: Callable[[Tensor], Tensor]) -> None:
    (layer,) = prunable_layers(between(lambda self, x: call(x)), EXAMPLE)
    assert per_filter(layer) == {"conv.weight 0": 1, "conv.bias 0": 1, "reader.weight 1": 1}


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
def test_every_way_from_maps_to_features(call: Callable[[Tensor], Tensor], block: int) -> None:
    """How many inputs of the linear layer belong to one filter is read from the network."""
    model = before_linear(lambda self, x: call(x), features=4 * block)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    (layer,) = prunable_layers(model, EXAMPLE)
    assert per_filter(layer)["linear.weight 1"] == block


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x.view(-1, 4 * 36), id="a fixed number of features"),
        pytest.param(lambda x: x.flatten(1)[:, : 4 * 36].view(2, 4, 36).flatten(1), id="a fixed number of channels"),
    ],
)
def test_a_fixed_size_is_named_with_its_line(call: Callable[[Tensor], Tensor]) -> None:
    reason = why(before_linear(lambda self, x: call(x), features=4 * 36))
    assert "forward fails without these filters, at test_structure.py, line " in reason
    assert "write x.flatten(1)" in reason


def drawn_scale(channels: int) -> Tensor:
    """The first numbers of a sequence: they stay the same if the last filter leaves, and not if the first one does."""
    return torch.rand(channels, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "scale",
    [lambda n: n**-0.5, lambda n: 1 + (n < 4), drawn_scale],
    ids=["by the number", "by a branch", "by a table"],
)
def test_what_is_not_closed_gates_is_skipped(scale: Callable[[int], Any]) -> None:
    """The network runs without a filter, and computes something else. Other layers can be removed."""
    model = Net(lambda self, x: self.reader((y := self.conv(self.first(x))) * scale(y.shape[1])),
                first=nn.Conv2d(1, 3, 1), conv=nn.Conv2d(3, 4, 3), reader=nn.Conv2d(4, 2, 1))  # fmt: skip
    reason = why(randomize(model))
    assert "computes something else than with their gates closed" in reason
    assert "depends on the number of channels" in reason
    assert names(model) == ["first"]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x.view(x.size(0), x.size(1) * 36), id="a product with the channels"),
        pytest.param(lambda x: x.view(x.shape[:1][0], x.shape[1:].numel()), id="the numel of the rest"),
        pytest.param(lambda x: x.flatten(2).flatten(1), id="flatten of the positions first"),
        pytest.param(lambda x: x.permute(0, 2, 3, 1).flatten(1), id="channels last"),
        pytest.param(lambda x: torch.flatten(x.transpose(1, 2), 1), id="transposed"),
        pytest.param(lambda x: x.view(2, -1), id="a fixed number of images"),
    ],
)
def test_reshapes_that_keep_channels_apart(call: Callable[[Tensor], Tensor]) -> None:
    model = before_linear(lambda self, x: call(x), features=4 * 36)
    (layer,) = prunable_layers(model, EXAMPLE)
    assert per_filter(layer)["linear.weight 1"] == 36


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: torch.cat([x, x], 1)[:, :4], "cut at fixed channels"),
        (lambda x: F.softmax(x, 1), "softmax over channels"),
        (lambda x: x[:, [3, 2, 1, 0]], "channels picked by their numbers"),
        (lambda x: x.roll(1, 1), "channels rolled by a fixed number"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), "mean over channels"),
        (lambda x: x.cumsum(1), "cumsum over channels"),
        (lambda x: torch.einsum("nchw,cd->ndhw", x, torch.eye(4)), "matrix product"),
        (lambda x: F.normalize(x), "vector_norm|norm over channels"),
        (lambda x: torch.fft.fft(x).real, "fft"),
    ],
)
def test_what_mixes_channels_is_skipped(call: Callable[[Tensor], Tensor], reason: str) -> None:
    model = between(lambda self, x: call(x))
    model(EXAMPLE)
    assert re.search(reason, why(model))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.GroupNorm(2, 4), "norm over channels in between"),
        (nn.LayerNorm([4, 6, 6]), "norm over channels in between"),
        (nn.Softmax2d(), "softmax over channels in between"),
        (nn.LocalResponseNorm(2), "avg_pool3d over channels in between"),
    ],
)
def test_what_mixes_channels_names_its_module(module: nn.Module, reason: str) -> None:
    assert why(between(lambda self, x: self.between(x), between=module)) == reason


def test_an_output_keeps_its_filters() -> None:
    assert skipped_layers(Net(lambda self, x: self.conv(x), conv=nn.Conv2d(1, 4, 3))) == {"conv": OUTPUT}


@pytest.mark.parametrize("follower", [nn.BatchNorm2d(4), nn.PReLU(4)])
def test_a_norm_called_twice_joins_its_maps(follower: nn.Module) -> None:
    modules = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1), "f": follower}
    model = Net(lambda self, x: self.c(self.f(self.b(self.f(self.a(x))))), **modules)
    (layer,) = prunable_layers(model)
    assert layer.producers == ("a", "b")


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU()])
def test_an_activation_called_twice_joins_none(activation: nn.Module) -> None:
    modules = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1), "act": activation}
    model = Net(lambda self, x: self.c(self.act(self.b(self.act(self.a(x))))), **modules)
    assert names(model) == ["a", "b"]


def chain(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), *more
    )


@pytest.mark.parametrize("called", [True, False])
def test_a_shared_weight_lies_on_both_sides(called: bool) -> None:
    """Called or not, the other module keeps its share of the parameter."""

    def forward(self: Any, x: Tensor) -> Any:
        return (self.body(x), self.end(self.other(x))) if called else self.body(x)

    model = Net(forward, body=chain(), end=nn.Conv2d(4, 1, 1))
    model.other = nn.Conv2d(1, 4, 3)
    model.other.weight = model.body[0].weight
    layer = prunable_layers(model)[0]
    assert layer.name == "body.0"
    assert ("other.bias 0" in per_filter(layer)) == called
    small = prune(model, Plan({"body.0": (0,)}))
    assert small.other.weight is small.body[0].weight


def test_parameters_read_directly_stay() -> None:
    model = Net(lambda self, x: self.body(x) * self.body[2].weight.sum(), body=chain())
    assert why(model, "body.2") == why(model, "body.0") == "body.2 is read by sum in Net.forward"


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
def test_a_computed_weight_stays_and_the_rest_goes(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    model = chain(nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
    parametrize(model[0])
    model(torch.randn(2, 1, 8, 8))
    before = snapshot(model)
    found = analyse(model, EXAMPLE)
    assert found.skipped.keys() <= {"0"}
    assert all("computed" in reason for reason in found.skipped.values())
    assert [*found.layers][-2:] == ["2", "4"]
    assert_unchanged(model, before)


def test_a_computed_reader_keeps_what_it_reads() -> None:
    model = chain()
    nn.utils.parametrizations.weight_norm(model[2])
    assert why(model, "0") == "the weight of 2 is computed from other tensors"


def test_a_head_that_only_trains_is_cut_too() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.a(x)
        y = self.c(self.b(x))
        return (y, self.auxiliary(x)) if self.training else y

    convolutions = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1)}
    model = Net(forward, **convolutions, auxiliary=nn.Conv2d(4, 2, 1)).eval()
    assert names(model) == ["a", "b"]
    assert per_filter(prunable_layers(model)[0])["auxiliary.weight 1"] == 1
    assert why(model, "auxiliary") == UNCALLED


def test_an_output_of_train_mode_keeps_its_filters() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        features = self.a(x)
        return (self.b(features), features) if self.training else self.b(features)

    model = Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 2, 1)).eval()
    assert why(model, "a") == OUTPUT


def test_dropout_by_the_training_flag() -> None:
    model = between(lambda self, x: F.dropout(x, 0.5, training=self.training))
    assert names(model) == ["conv"]


def test_a_write_in_place_is_followed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2)
        x.sigmoid_()
        return x

    assert names(between(forward)) == ["conv"]


def test_counters_and_random_numbers_stay() -> None:
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


def test_a_model_may_keep_its_last_map() -> None:
    model = chain()
    model.last = model[0](torch.randn(1, 1, 8, 8))
    assert names(model) == ["0", "2"]


def branching(when: Callable[[Any], bool]) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        if when(self) and x.sum() > 0:
            return self.body(-x)
        return self.body(x)

    return Net(forward, body=chain())


def test_a_branch_of_train_mode_is_no_obstacle() -> None:
    found = analyse(branching(lambda model: model.training), EXAMPLE)
    assert [*found.layers] == ["body.0", "body.2"]
    assert not found.trains


def test_a_branch_on_numbers_is_named_with_its_line() -> None:
    message = r"decides by the numbers that pass, at test_structure\.py, line \d+ \(if when.*move that branch out"
    with pytest.raises(ValueError, match=message):
        prunable_layers(branching(lambda model: True), EXAMPLE)


def test_a_failing_example_is_named_with_its_shape() -> None:
    with pytest.raises(
        ValueError, match=r"^Sequential fails on the example \(2x3x8x8\): .*\. Pass inputs that it takes"
    ):
        prunable_layers(chain(), torch.zeros(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (torch.compile, r"model is a OptimizedModule, .*: pass model\._orig_mod"),
        (nn.DataParallel, r"model is a DataParallel, .*: pass model\.module"),
        (lambda m: nn.Sequential(nn.DataParallel(m)), r"model\.0 is a DataParallel, .*: put model\.0\.module in its"),
        (torch.jit.script, "a TorchScript module shows no layers: pass the module that it was made from"),
    ],
)
def test_what_wraps_a_network_is_refused(wrap: Callable[[nn.Module], nn.Module], message: str) -> None:
    model = wrap(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    for call in (prunable_layers, skipped_layers, gates.gated, lambda m, x: prune(m, Plan({}), x)):
        with pytest.raises(ValueError, match=message):
            call(model, EXAMPLE)


def test_a_layer_under_vmap_is_refused() -> None:
    model = before_linear(lambda self, x: torch.vmap(lambda one: self.inner(one[None])[0])(x).flatten(1), 4 * 36)
    model.inner = nn.Conv2d(4, 4, 1)
    with pytest.raises(ValueError, match=r"at test_structure\.py, line .* inside torch\.vmap .* on the whole batch"):
        analyse(model, EXAMPLE)


def test_a_plan_for_another_network_lists_the_layers() -> None:
    found = analyse(CNN((2, 4)))
    with pytest.raises(ValueError, match=r"'conv9': there is no convolution of that name\. .*: network\.0, network\.2"):
        found.check(Plan({"conv9": (0,)}))
    with pytest.raises(ValueError, match=r"'network\.2' has filters 0 to 3; the plan removes \[4, 9\]\. Was it made"):
        found.check(Plan({"network.2": (0, 4, 9)}))


# what a structure knows besides


def test_the_output_is_that_of_one_layer_or_none() -> None:
    assert analyse(CNN((2, 4))).output == "network.5.weight"
    assert analyse(chain(), EXAMPLE).output == "4.weight"
    assert analyse(chain(nn.ReLU()), EXAMPLE).output == ""
    twice = Net(lambda self, x: (self.body(x), x), body=chain())
    assert analyse(twice, EXAMPLE).output == ""


def test_statistics_of_the_batch_are_named() -> None:
    norms = {"kept": nn.BatchNorm2d(4), "own": nn.BatchNorm2d(4, track_running_stats=False)}
    model = between(lambda self, x: self.own(self.kept(x)), **norms)
    assert analyse(model, EXAMPLE).batch_statistics == ("own",)


def test_a_network_that_does_not_train_says_so() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        assert not self.training
        return self.body(x)

    assert not analyse(Net(forward, body=chain()), EXAMPLE).trains
    assert analyse(chain(), EXAMPLE).trains


def counting(model: nn.Module) -> list[int]:
    calls: list[int] = []
    forward = type(model).forward

    def counted(self: Any, *args: Any) -> Any:
        calls.append(1)
        return forward(self, *args)

    model.__class__ = type("Counted", (type(model),), {"forward": counted})
    return calls


def test_inside_known_nothing_runs_again() -> None:
    model = chain()
    structure = analyse(model, EXAMPLE)
    calls = counting(model)
    with known(model, structure):
        assert analyse(model) is structure
        assert prunable_layers(model) == [*structure.layers.values()]
    assert not calls
    assert analyse(model, EXAMPLE) is not structure
    assert calls


# after a plan, without a second run


def of_cats() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        a = self.a(x)
        return self.c(torch.cat([a, self.b(a)], 1))

    return Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 3, 1), c=nn.Conv2d(7, 2, 1))


def of_groups() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 12, 1), nn.Conv2d(12, 9, 1, groups=3), nn.ReLU(), nn.Conv2d(9, 2, 1))


def of_a_shortcut() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        a = self.a(x)
        return self.c(self.norm(a + self.b(a)))

    return Net(forward, a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 2, 1), norm=nn.BatchNorm2d(4))


def of_features() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Flatten(), nn.BatchNorm1d(128), nn.Linear(128, 2)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("build", [of_cats, of_groups, of_a_shortcut, of_features])
@pytest.mark.parametrize("last", [0, -1])
def test_after_is_the_structure_of_the_pruned(build: Callable[[], nn.Module], last: int) -> None:
    model = build()
    before = analyse(model, EXAMPLE)
    name = [*before.layers][last]
    assert_same_after(model, Plan({name: (0,)}), EXAMPLE)
    assert_same_after(model, Plan(dict.fromkeys(before.layers, (0,))), EXAMPLE)


def assert_same_after(model: nn.Module, plan: Plan, example: Tensor) -> None:
    after = analyse(model, example).after(plan)
    seen = analyse(prune(model, plan, example), example)
    assert after.layers == seen.layers
    for name, layer in seen.layers.items():
        assert after.layers[name].places == layer.places
        assert str(after.layers[name]) == str(layer)
    for one, other in ((after.owners, seen.owners), (after.readers, seen.readers)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (after.skipped, after.outputs, after.trains) == (seen.skipped, seen.outputs, seen.trains)
    assert (after.output, after.batch_statistics) == (seen.output, seen.batch_statistics)


def depthwise(model: nn.Module) -> list[bool]:
    return [1 < m.groups == m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


@settings(PROPERTY, max_examples=25)
@given(networks_with_plans())
def test_after_is_a_new_analysis(net_and_plan: tuple[RandomNetwork, Plan]) -> None:
    """Where a convolution becomes depthwise, or is it no more, a second plan still fits the whole network."""
    net, plan = net_and_plan
    after, once = analyse(net).after(plan), prune(net, plan)
    if depthwise(once) == depthwise(net):
        seen = analyse(once)
        assert after.layers == seen.layers
        assert all(after.layers[name].places == layer.places for name, layer in seen.layers.items())
    second = Plan({name: range(1, layer.out_channels, 2) for name, layer in after.layers.items()})
    with known(once, after):
        twice = prune(once, second)
    at_once = prune(net, plan.then(second))
    assert repr(twice) == repr(at_once)
    for name, tensor in at_once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name


@settings(PROPERTY, max_examples=20)
@given(networks_with_plans())
def test_after_serves_the_next_pruning(net_and_plan: tuple[RandomNetwork, Plan]) -> None:
    """The second pruning trusts it, and proves itself."""
    net, plan = net_and_plan
    after, once = analyse(net).after(plan), prune(net, plan)
    again = Plan({name: range(1, layer.out_channels, 2) for name, layer in after.layers.items()})
    with known(once, after):
        twice = prune(once, again)
    assert all(layer.out_channels <= 3 for layer in after.after(again).layers.values())
    for name, tensor in once.state_dict().items():
        gone = [len(p.indices[k]) for la in after.layers.values() for p in la.places if p.tensor == name
                for k in again.remove.get(la.name, ())]  # fmt: skip
        assert (twice.state_dict()[name].numel() < tensor.numel()) == bool(gone)


def test_groups_left_with_one_channel_stay_groups() -> None:
    """They look like a depthwise convolution, but the structure from before knows better."""
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 9, 1, groups=3), nn.ReLU(), nn.Conv2d(9, 2, 1))
    after = analyse(model, EXAMPLE).after(Plan({"0": (0,)}))
    once = prune(model, Plan({"0": (0,)}), EXAMPLE)
    with known(once, after):
        twice = prune(once, Plan({"1": (1,)}), EXAMPLE)
    whole = prune(model, Plan({"0": (0,), "1": (1,)}), EXAMPLE)
    assert repr(twice) == repr(whole)
    assert torch.equal(twice(EXAMPLE), whole(EXAMPLE))
