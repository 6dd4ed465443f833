"""Surgery: what is left computes what the network computed with the gates of the others closed."""

import copy
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import (  # noqa: F401
    PROPERTY,
    Net,
    RandomNetwork,
    assert_unchanged,
    difference,
    narrow,
    networks_with_plans,
    one_thread,
    randomize,
    snapshot,
)
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cnnprune_utils import gates, surgery
from cnnprune_utils.book import CNN
from cnnprune_utils.gates import GatedNetwork
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import Layer, analyse, known
from cnnprune_utils.structure import prunable_layers as layers_of


def cnn() -> CNN:
    return randomize(CNN((2, 4, 8), image_size=(5, 7), n_classes=3))


def images(n: int = 4, shape: tuple[int, ...] = (1, 5, 7)) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def example(model: nn.Module) -> Tensor:
    if isinstance(model, RandomNetwork):
        return model.example_input_array
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    shape = (3, 64, 64) if first.in_channels == 3 else (first.in_channels, 5, 7)
    return images(2, shape).to(first.weight.dtype)


def prune(model: nn.Module, plan: Plan) -> Any:
    return surgery.prune(model, plan, example(model))


def mask(model: nn.Module, plan: Plan) -> GatedNetwork:
    return gates.mask(model, plan, example(model))


def prunable_layers(model: nn.Module) -> list[Layer]:
    return layers_of(model, example(model))


PLAN = Plan({"network.0": (1,), "network.2": (0, 3), "network.4": (0, 2, 3, 5, 7)})


def every_other_filter(model: nn.Module) -> Plan:
    """From each prunable layer every second filter, or every third: 1 at least stays."""
    layers = prunable_layers(model)
    return Plan({layer.name: range(1, layer.out_channels, 2 + i % 2) for i, layer in enumerate(layers)})


def assert_same_as_masked(model: nn.Module, plan: Plan, x: Tensor, tolerance: float) -> nn.Module:
    with known(model, analyse(model, x[:2])):  # seen once for both
        pruned, masked = surgery.prune(model, plan, x[:2]), gates.mask(model, plan, x[:2])
    with torch.no_grad():
        assert difference(copy.deepcopy(pruned).eval()(x), masked(x)) <= tolerance
    return pruned


# removal is masking


@settings(PROPERTY, max_examples=40)
@given(networks_with_plans())
def test_removed_filters_are_closed_gates(net_and_plan: tuple[RandomNetwork, Plan]) -> None:
    """On random graphs, to 1e-5 in float32 and to 1e-10 in float64."""
    net, plan = net_and_plan
    if not net.prunable:
        return
    before = snapshot(net)
    pruned = assert_same_as_masked(net, plan, net.split(3).inputs, 1e-5)
    assert_unchanged(net, before)
    assert_kept_as_before(net, pruned)
    assert_same_as_masked(net.double(), plan, net.split(3).inputs, 1e-10)


@pytest.mark.parametrize(
    "name",
    ["alexnet", "vgg11_bn", "resnet18", "mobilenet_v2"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet50", "squeezenet1_1", "densenet121", "efficientnet_b0", "googlenet")
    ],
)
def test_networks_of_torchvision(name: str) -> None:
    """Residual adds, squeeze and excitation, depthwise convolutions, cats."""
    model = narrow(name).eval().double()
    x = images(2, (3, 64, 64)).double()
    with known(model, analyse(model, x)):
        pruned = assert_same_as_masked(model, every_other_filter(model), x, 1e-10)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), None])
def test_convolutions_in_front_of_a_norm(bias: bool, norm: nn.Module | None) -> None:
    """Negative gammas and betas that a gate in front of the norm would let through."""
    layers = [nn.Conv2d(1, 4, 3, bias=bias), *([norm] if norm else []), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)]
    model = randomize(nn.Sequential(*layers)).eval()
    assert_same_as_masked(model, Plan({"0": (0, 2)}), images(), 1e-6)


@pytest.mark.parametrize("image_size", [(5, 7), (7, 5), (1, 9), (6, 6)])
def test_a_filter_takes_its_columns_with_it(image_size: tuple[int, int]) -> None:
    """Maps that are not square."""
    model = randomize(CNN((2, 4, 8), image_size=image_size))
    pruned = assert_same_as_masked(model, PLAN, images(shape=(1, *image_size)), 1e-6)
    height, width = image_size
    columns = model.network[7].weight.reshape(10, 8, height * width)[:, [1, 4, 6]]
    assert torch.equal(pruned.network[7].weight, columns.flatten(1))


def test_two_heads_lose_the_same_filters() -> None:
    """One reads positions, the other means; the first linear layer is not the only one."""
    heads = {"linear": nn.Linear(4 * 15, 3), "norm": nn.BatchNorm1d(4), "other": nn.Linear(4, 2)}
    model = Net(
        lambda self, x: (self.linear((y := self.conv(x)).flatten(1)), self.other(self.norm(y.mean((2, 3))))),
        conv=nn.Conv2d(1, 4, 3),
        **heads,
    )
    pruned = assert_same_as_masked(randomize(model).eval(), Plan({"conv": (0, 2)}), images(), 1e-6)
    assert (pruned.linear.in_features, pruned.norm.num_features, pruned.other.in_features) == (30, 2, 2)


@pytest.mark.parametrize("size", [(2, 3), 1])
def test_adaptive_pooling_says_how_many_columns(size: Any) -> None:
    columns = 4 * torch.zeros(1).expand(size if isinstance(size, tuple) else (1, 1)).numel()
    layers = [nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(columns, 3)]
    model = randomize(nn.Sequential(*layers))
    pruned = assert_same_as_masked(model, Plan({"0": (1, 3)}), images(), 1e-6)
    assert pruned[3].in_features == columns // 2


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (cnn, (1, 5, 7)),
        (lambda: narrow("alexnet"), (3, 64, 64)),
        (lambda: narrow("vgg11_bn"), (3, 64, 64)),
        (lambda: narrow("resnet18"), (3, 64, 64)),
        (lambda: narrow("mobilenet_v2"), (3, 64, 64)),
    ],
    ids=["cnn", "alexnet", "vgg11_bn", "resnet18", "mobilenet_v2"],
)
def test_torch_pruning_removes_the_same(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, x = build().eval(), images(2, shape)
    plan = every_other_filter(model)
    other = copy.deepcopy(model).requires_grad_(True)  # it cannot see frozen layers
    graph = torch_pruning.DependencyGraph().build_dependency(other, example_inputs=x)
    for name, filters in plan.remove.items():
        conv = other.get_submodule(name)
        graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, idxs=list(filters)).prune()
    pruned = prune(model, plan)
    assert {name: tuple(p.shape) for name, p in pruned.named_parameters()} == {
        name: tuple(p.shape) for name, p in other.named_parameters()
    }
    with torch.no_grad():
        assert difference(pruned(x), other(x)) < 1e-6


# plans


def shuffled_steps(plan: Plan, seed: int) -> list[tuple[str, int]]:
    """The filters one by one in random order, each in the numbering of the network at that moment."""
    steps = [(name, k) for name, filters in plan.remove.items() for k in filters]
    random.Random(seed).shuffle(steps)
    return [(name, k - sum(n == name and j < k for n, j in steps[:i])) for i, (name, k) in enumerate(steps)]


def assert_equal_networks(a: nn.Module, b: nn.Module) -> None:
    assert repr(a) == repr(b)
    assert a.state_dict().keys() == b.state_dict().keys()
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("seed", range(4))
def test_one_by_one_in_any_order_is_one_plan(seed: int) -> None:
    one_by_one: nn.Module = cnn()
    for name, k in shuffled_steps(PLAN, seed):
        one_by_one = prune(one_by_one, Plan({name: (k,)}))
    assert_equal_networks(one_by_one, prune(cnn(), PLAN))


@settings(PROPERTY, max_examples=8)
@given(networks_with_plans(), st.integers(0, 1000))
def test_any_order_on_random_networks(net_and_plan: tuple[RandomNetwork, Plan], seed: int) -> None:
    net, plan = net_and_plan
    plan = Plan({name: filters[:2] for name, filters in plan.remove.items()})
    one_by_one: nn.Module = net
    for name, k in shuffled_steps(plan, seed):
        one_by_one = prune(one_by_one, Plan({name: (k,)}))
    assert_equal_networks(one_by_one, prune(net, plan))


def test_the_published_plan() -> None:
    model = CNN()
    plan = Plan({"network.0": (0,), "network.2": (1, 3), "network.4": (0, 2, 3, 5, 7)})
    pruned = surgery.prune(model, plan, images(2, (1, 28, 28)))
    assert sum(p.numel() for p in model.parameters()) == 63_122
    assert sum(p.numel() for p in pruned.parameters()) == 23_617


def test_an_empty_plan_gives_a_copy() -> None:
    model = cnn()
    pruned = prune(model, Plan({}))
    assert_equal_networks(pruned, model)
    assert not {id(p) for p in pruned.parameters()} & {id(p) for p in model.parameters()}


def test_a_plan_that_empties_a_layer_is_refused() -> None:
    message = (
        r"the plan removes all 4 filters of 'network\.2', and nothing would pass\. Leave at least one, or use gates"
    )
    with pytest.raises(ValueError, match=message):
        prune(cnn(), Plan({"network.2": range(4)}))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan({"layer1.0.conv2": (0,)}),
            r"'layer1\.0\.conv2': its filters are removed together with those of 'conv1', so name that layer\.",
        ),
        (Plan({"bn1": (0,)}), "'bn1': there is no convolution of that name"),
        (Plan({"layer1.0.conv1": (64,)}), r"'layer1\.0\.conv1' has filters 0 to 63; the plan removes \[64\]"),
    ],
)
def test_unknown_layers_and_filters_are_refused(plan: Plan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(torchvision.models.resnet18(), plan)


@pytest.mark.parametrize(
    "change",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda conv: torch_prune.random_unstructured(conv, "weight", 0.5),
    ],
)
def test_computed_weights_are_refused(change: Callable[[nn.Module], Any]) -> None:
    convolutions = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1)}
    model = Net(lambda self, x: self.c(self.b(self.a(x))), **convolutions)
    change(model.b)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"cannot remove filters of 'b': .*computed from other tensors"):
        prune(model, Plan({"b": (0,)}))
    assert_unchanged(model, before)


def test_a_mask_elsewhere_is_no_obstacle() -> None:
    model = cnn()
    torch_prune.l1_unstructured(model.network[7], "bias", 1)
    model.network[4].seen = model.network[0](images())  # a feature map kept from the last pass
    before = snapshot(model)
    assert_same_as_masked(model, Plan({"network.0": (1,)}), images(), 1e-6)
    assert_unchanged(model, before)


# what stays


def assert_kept_as_before(model: nn.Module, pruned: nn.Module) -> None:
    """Names, kinds, dtypes, devices, requires_grad and flags are those of the model."""
    for these, those in (
        (model.named_parameters(), pruned.named_parameters()),
        (model.named_buffers(), pruned.named_buffers()),
    ):
        before, after = dict(these), dict(those)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            kept = after[name]
            assert (kept.dtype, kept.device, kept.requires_grad) == (tensor.dtype, tensor.device, tensor.requires_grad)
            assert type(kept) is type(tensor)
            assert kept.grad is None
            assert kept.is_leaf
            assert kept.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    assert [m.training for m in pruned.modules()] == [m.training for m in model.modules()]
    assert type(pruned) is type(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_and_flags_stay(dtype: torch.dtype) -> None:
    model = cnn().to(dtype).train()
    model.network[3].eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = snapshot(model)
    pruned = prune(model, PLAN)
    assert_unchanged(model, before)
    assert_kept_as_before(model, pruned)


def test_kept_filters_keep_their_numbers() -> None:
    model = cnn()
    pruned = prune(model, PLAN)
    assert torch.equal(pruned.network[0].weight, model.network[0].weight[[0]])
    assert torch.equal(pruned.network[0].bias, model.network[0].bias[[0]])
    assert torch.equal(pruned.network[2].weight, model.network[2].weight[[1, 2]][:, [0]])
    assert torch.equal(pruned.network[4].weight, model.network[4].weight[[1, 4, 6]][:, [1, 2]])
    assert torch.equal(pruned.network[7].bias, model.network[7].bias)


def test_hooks_of_modules_come_along_and_those_of_tensors_do_not() -> None:
    model, calls = cnn().requires_grad_(True), []
    model.network[0].register_forward_hook(lambda *_: calls.append("module"))
    model.network[0].weight.register_hook(lambda _: calls.append("tensor"))
    pruned = prune(model, PLAN)
    calls.clear()
    pruned(images()).sum().backward()
    assert calls == ["module"]


def test_modules_know_their_new_sizes() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 4, 3, padding=1, groups=4)]
    more = [nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 2)]
    pruned = prune(nn.Sequential(*layers, *more), Plan({"0": (1,), "5": (0, 2, 4)}))
    expected = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.PReLU(3), nn.Conv2d(3, 3, 3, padding=1, groups=3)]
    expected += [
        nn.InstanceNorm2d(3, affine=True),
        nn.Conv2d(3, 3, 3),
        nn.Flatten(),
        nn.BatchNorm1d(9),
        nn.Linear(9, 2),
    ]
    assert repr(pruned) == repr(nn.Sequential(*expected))
    shapes = {name: tensor.shape for name, tensor in nn.Sequential(*expected).state_dict().items()}
    assert {name: tensor.shape for name, tensor in pruned.state_dict().items()} == shapes


def test_channels_last_stays_channels_last() -> None:
    model = randomize(narrow("mobilenet_v2")).eval().to(memory_format=torch.channels_last)
    x = images(2, (3, 64, 64)).to(memory_format=torch.channels_last)
    pruned = assert_same_as_masked(model, every_other_filter(model), x, 1e-5)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in pruned.parameters() if p.ndim == 4)
    assert pruned.features(x).is_contiguous(memory_format=torch.channels_last)
    plain = prune(cnn(), PLAN)
    assert all(p.is_contiguous() for p in plain.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_surgery_on_the_gpu() -> None:
    model = cnn().cuda()
    pruned = assert_same_as_masked(model, PLAN, images().cuda(), 1e-4)
    assert_kept_as_before(model, pruned)


# life after surgery


@pytest.mark.parametrize("build", [cnn, lambda: narrow("resnet18")], ids=["cnn", "resnet18"])
def test_a_pruned_network_trains_and_is_pruned(build: Callable[[], nn.Module]) -> None:
    """With an optimizer of its own, every parameter it has moves."""
    model = build().requires_grad_(True).train()
    x = images() if isinstance(model, CNN) else images(2, (3, 64, 64))
    pruned = prune(model, every_other_filter(model))
    kept = copy.deepcopy(pruned.state_dict())
    before = snapshot(model)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-3)
    F.cross_entropy(pruned(x), torch.zeros(len(x), dtype=torch.int64)).backward()
    optimizer.step()
    assert_unchanged(model, before)
    assert any(not torch.equal(kept[name], tensor) for name, tensor in pruned.state_dict().items())
    assert all(p.grad is not None for p in pruned.parameters())
    first = prunable_layers(pruned)[-1]
    again = assert_same_as_masked(pruned.eval(), Plan({first.name: (0,)}), x, 1e-5)
    assert again.get_submodule(first.name).out_channels == first.out_channels - 1


def test_a_depthwise_convolution_of_one_channel() -> None:
    layers = [nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU()]
    model = randomize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 15, 2)))
    once = assert_same_as_masked(model, Plan({"0": (0, 2)}), images(), 1e-6)
    assert_same_as_masked(once, Plan({"3": (1, 2)}), images(), 1e-6)


@pytest.mark.parametrize("build", [cnn, lambda: narrow("mobilenet_v2").eval()], ids=["cnn", "mobilenet"])
def test_a_pruned_network_is_copied_and_saved(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = images() if isinstance(model, CNN) else images(2, (3, 64, 64))
    plan = every_other_filter(model)
    pruned = prune(model, plan)
    buffer = io.BytesIO()
    torch.save(pruned.state_dict(), buffer)
    buffer.seek(0)
    loaded = prune(build(), plan)
    loaded.load_state_dict(torch.load(buffer))
    with torch.no_grad():
        for same in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), loaded):
            assert torch.equal(same(x), pruned(x))


class Chaotic(nn.Module):
    """Each step makes twice as much of a difference: after 24 of them one rounding is 1e-6 of the output."""

    def __init__(self, depends: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)
        self.depends = depends

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = (1000 * self.second(x).mean((2, 3)) + self.depends * x.shape[1]).cos().square()
        for _ in range(24):
            x = 3.99 * x * (1 - x)
        return x


def test_a_difference_that_one_rounding_makes_is_no_reason_to_refuse() -> None:
    torch.manual_seed(0)
    model, x, plan = Chaotic(0.0).eval(), torch.randn(2, 1, 5, 5), Plan({"first": (0, 1, 2)})
    with torch.no_grad():
        exact, rounding = copy.deepcopy(model).double(), 1 + 2e-16 * torch.randn(x.shape).double()
        assert float((exact(x.double() * rounding) - exact(x.double())).abs().max()) > 1e-8  # so it is chaotic
    pruned = surgery.prune(model, plan, x)
    assert pruned.first.out_channels == 5


def test_in_a_chaotic_network_an_error_is_still_found() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="computes something else than with their gates"):
        surgery.prune(Chaotic(0.1).eval(), Plan({"first": (0,)}), torch.randn(2, 1, 5, 5))
