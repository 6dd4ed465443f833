"""The specification of cnnprune_utils.metrics: every cost is added up by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from random_networks import PROPERTY, Net, RandomNetwork, assert_unchanged, networks, snapshot
from torch import Tensor, nn

from cnnprune_utils.batches import Split
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.metrics import accuracy_interval, compare, file_bytes, latency, macs, macs_per_filter, parameters
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.saving import save_model
from cnnprune_utils.structure import analyse, known, prunable_layers
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(130, 1, 28, 28, generator=generator)
    return Split(images, torch.randint(10, (130,), generator=generator))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_parameters_add_up_by_hand() -> None:
    by_hand = (9 * 1 + 1) * 2 + (9 * 2 + 1) * 4 + (9 * 4 + 1) * 8 + (8 * 28 * 28 + 1) * 10
    assert parameters(CNN()) == by_hand == 63_122
    assert parameters(CNN((1, 2, 3))) == 23_617


def test_which_numbers_count_as_parameters() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    net[1].weight = net[0].weight
    assert parameters(net) == 9 + 3 + 3 + 3 + 3


def test_macs_add_up_by_hand() -> None:
    positions = 28 * 28
    layers = [positions * 1 * 9 * 2, positions * 2 * 9 * 4, positions * 4 * 9 * 8, 8 * positions * 10]
    assert layers == [14_112, 56_448, 225_792, 62_720]
    assert macs(CNN(), torch.rand(1, 1, 28, 28)) == sum(layers) == 359_072


def test_macs_of_stride_and_groups_add_up_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4 * 2 * 4, 5)
    )
    by_hand = (4 * 6) * 3 * 9 * 4 + (2 * 4) * 1 * 9 * 4 + 4 * 2 * 4 * 5
    assert macs(net, torch.rand(1, 3, 8, 12)) == by_hand


@pytest.mark.parametrize("n", [1, 7])
def test_macs_are_for_one_image_however_many_are_given(n: int) -> None:
    assert macs(CNN((1, 2, 3)), torch.rand(n, 1, 28, 28)) == 784 * 9 * (1 * 1 + 1 * 2 + 2 * 3) + 3 * 784 * 10


def test_macs_of_resnet18_are_the_known_ones() -> None:
    known = 1_814_073_344  # 1.81 GMACs for 224 x 224
    assert macs(torchvision.models.resnet18(), torch.rand(1, 3, 224, 224)) == known


def test_counting_macs_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = state(net)
    macs(net, torch.rand(4, 1, 8, 8))
    assert same(state(net), before)
    assert all(m.training for m in net.modules())


def by_pruning(model: nn.Module, images: Tensor, at_most: int = 100, every: int = 1) -> dict[str, float]:
    """The definition: prune one filter, count again; the mean over the first filters of each layer that has several.

    Of these layers each one, or every third, and so on.
    """
    structure, before, shares = analyse(model, images), macs(model, images), {}
    layers = [(name, layer) for name, layer in structure.layers.items() if layer.out_channels > 1]
    with known(model, structure):
        for name, layer in layers[::every]:
            smaller = [prune(model, Plan({name: (k,)})) for k in range(min(at_most, layer.out_channels))]
            shares[name] = sum(before - macs(small, images) for small in smaller) / len(smaller) / before
    return shares


def mixed() -> nn.Module:
    """BatchNorm, a depthwise convolution, PReLU, pooling with a stride, and adaptive pooling before the flatten."""
    first = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    depthwise = [nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.PReLU(6)]
    last = [nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.BatchNorm1d(24)]
    return nn.Sequential(*first, *depthwise, *last, nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 5))


def two_readers() -> nn.Module:
    """One feature map for a convolution and a linear layer; another container knows the modules by other names."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.linear(x.mean((2, 3))) + self.other(self.conv(x).flatten(1))

    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    readers = {"conv": nn.Conv2d(4, 2, 3), "linear": nn.Linear(4, 5), "other": nn.Linear(2 * 4 * 6, 5)}
    return Net(forward, body=body, again=nn.Sequential(body, nn.Identity()), **readers)


def residual() -> nn.Module:
    """The second convolution reads the very channels that it makes: it loses an input and an output."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.linear((x + self.second(x)).mean((2, 3)))

    return Net(forward, first=nn.Conv2d(3, 4, 3), second=nn.Conv2d(4, 4, 3, padding=1), linear=nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (CNN(), (1, 28, 28)),
        (CNN((3, 2, 5)), (1, 28, 28)),
        (mixed(), (3, 9, 11)),
        (two_readers(), (3, 8, 10)),
        (residual(), (3, 8, 10)),
    ],
    ids=["CNN", "other widths", "mixed", "two readers", "residual"],
)
def test_macs_of_a_filter_are_those_that_leave(model: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.rand(3, *shape)
    shares = macs_per_filter(model, images)
    assert shares
    assert shares == by_pruning(model, images)


def test_macs_of_a_filter_add_up_by_hand() -> None:
    own, read_by_conv, read_by_linear = 784 * 9, 784 * 9, 784 * 10
    assert macs_per_filter(CNN(), torch.rand(1, 1, 28, 28)) == {
        "network.0": (own * 1 + read_by_conv * 4) / 359_072,
        "network.2": (own * 2 + read_by_conv * 8) / 359_072,
        "network.4": (own * 4 + read_by_linear) / 359_072,
    }


@settings(PROPERTY, max_examples=15)
@given(networks())
def test_macs_of_a_filter_of_random_networks(net: RandomNetwork) -> None:
    images = net.split(1).inputs
    shares, expected = macs_per_filter(net, images), by_pruning(net, images)
    assert {name: shares[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_macs_of_a_filter_of_mobilenet() -> None:
    """Depthwise convolutions and BatchNorm everywhere."""
    model, images = torchvision.models.mobilenet_v2(num_classes=10), torch.rand(1, 3, 32, 32)
    shares = macs_per_filter(model, images)
    expected = by_pruning(model, images, at_most=1, every=4)
    assert len(shares) >= 20
    assert len(expected) >= 5
    assert {name: shares[name] for name in expected} == expected


def test_macs_of_the_only_filter_of_a_layer() -> None:
    assert macs_per_filter(CNN((1, 1, 1)), torch.rand(1, 1, 28, 28))["network.4"] == pytest.approx(
        784 * (9 + 10) / macs(CNN((1, 1, 1)), torch.rand(1, 1, 28, 28))
    )


def test_macs_of_a_filter_count_one_image() -> None:
    model, images = mixed(), torch.rand(5, 3, 9, 11)
    assert macs_per_filter(model, images) == macs_per_filter(model, images[:1])


def test_counting_macs_of_a_filter_changes_nothing() -> None:
    model, images = mixed().train(), torch.rand(4, 3, 9, 11)
    model[1].eval()
    model(images).sum().backward()
    before = snapshot(model)
    macs_per_filter(model, images)
    assert_unchanged(model, before)


def test_a_high_penalty_removes_what_costs_most() -> None:
    model, images = CNN(), torch.rand(1, 1, 28, 28)
    shares = macs_per_filter(model, images)
    scores = {layer.name: torch.ones(layer.out_channels) for layer in prunable_layers(model)}
    ranks = rank(scores, macs_penalty=1000, macs=shares)
    assert lowest(ranks, 3) == Plan({"network.2": (0, 1, 2)})
    assert max(shares, key=lambda name: shares[name]) == "network.2"


def test_file_bytes_is_the_size_of_the_saved_file(tmp_path: Path) -> None:
    for model in (CNN(), CNN((1, 2, 3)).half()):
        save_model(model, tmp_path / "cnn")
        assert file_bytes(model) == (tmp_path / "cnn").stat().st_size
    assert 4 * 12 < file_bytes(nn.Linear(3, 3)) < 1000


def test_the_interval_is_wilsons() -> None:
    # (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)
    z, n, p = 1.959963984540054, 10_000, 0.9
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    expected = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert accuracy_interval(9_000, 10_000) == pytest.approx(expected, rel=1e-12)


def test_the_interval_stays_within_0_and_1() -> None:
    assert accuracy_interval(0, 20)[0] == 0
    assert accuracy_interval(20, 20)[1] == 1
    assert 0.8 < accuracy_interval(20, 20)[0] < 0.9


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_an_impossible_count_is_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} right of {n} is not possible"):
        accuracy_interval(correct, n)


def test_compare_has_one_row_per_model(split: Split) -> None:
    models = {"pruned": CNN((1, 2, 3)), "baseline": CNN()}
    table = compare(models, split)
    assert table.index.tolist() == ["pruned", "baseline"]
    assert table.index.name == "model"
    columns = ["parameters", "macs", "file_kb", "accuracy", "accuracy_low", "accuracy_high"]
    assert list(table.columns) == columns
    for name, model in models.items():
        accuracy = evaluate(model, split).accuracy
        low, high = accuracy_interval(round(accuracy * 130), 130)
        costs = [parameters(model), macs(model, split.inputs), file_bytes(model) / 1000]
        assert table.loc[name].tolist() == [*costs, accuracy, low, high]
    assert table["parameters"].dtype == table["macs"].dtype == "int64"


def test_compare_counts_the_right_answers_exactly() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([1.0, 0.0]))  # always class 0
    labels = torch.ones(49, dtype=torch.int64)
    labels[-1] = 0
    row = compare({"net": net}, Split(torch.rand(49, 1, 1, 1), labels)).loc["net"]
    assert int(49 * row["accuracy"]) == 0  # 1 / 49 is not exact
    assert (row["accuracy_low"], row["accuracy_high"]) == accuracy_interval(1, 49)


def test_compare_is_repeatable_and_changes_no_model(split: Split) -> None:
    net = nn.Sequential(CNN(), nn.BatchNorm1d(10), nn.Dropout(0.5)).train()
    net[1].eval()
    before, flags = state(net), [m.training for m in net.modules()]
    assert compare({"net": net}, split).equals(compare({"net": net}, split))
    assert same(state(net), before)
    assert [m.training for m in net.modules()] == flags


def test_compare_takes_images_to_each_model(split: Split) -> None:
    seen: list[str] = []

    class Recording(CNN):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.device.type)
            return super().forward(x)

    with pytest.raises(Exception, match="meta"):  # nothing is computed there, but the images were asked for
        compare({"here": Recording(), "there": Recording().to("meta")}, split)
    assert list(dict.fromkeys(seen)) == ["cpu", "meta"]


def test_nothing_to_compare_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="no model to measure"):
        compare({}, split)
    with pytest.raises(ValueError, match="no model to measure"):
        latency({}, split.inputs, batch_size=1)


class Recorder(nn.Module):
    """Notes how it is called."""

    def __init__(self, name: str, calls: list[tuple[str, int, bool, bool, int]]) -> None:
        super().__init__()
        self.name, self.calls = name, calls
        self.work = nn.Linear(784, 784)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(
            (self.name, len(x), self.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        )
        return self.work(x.flatten(1))


def test_latency_times_the_models_in_turn(split: Split) -> None:
    calls: list[tuple[str, int, bool, bool, int]] = []
    models = {name: Recorder(name, calls).train() for name in ("a", "b")}
    threads_before = torch.get_num_threads()
    table = latency(models, split.inputs, batch_size=9, threads=1, rounds=4)
    assert {call[1:] for call in calls} == {(9, False, True, 1)}
    turns = [name for i, (name, *_) in enumerate(calls) if i == 0 or calls[i - 1][0] != name]
    assert turns == ["a", "b"] * 5  # once to warm up, then four rounds
    assert torch.get_num_threads() == threads_before
    assert all(m.training for model in models.values() for m in model.modules())
    assert table.index.tolist() == ["a", "b"]
    assert list(table.columns) == ["batch_size", "threads", "median_ms", "q1_ms", "q3_ms"]
    assert table["batch_size"].tolist() == [9, 9]
    assert table["threads"].tolist() == [1, 1]
    assert (table["q1_ms"] > 0).all()
    assert (table["q1_ms"] <= table["median_ms"]).all()
    assert (table["median_ms"] <= table["q3_ms"]).all()


def test_latency_is_milliseconds_per_batch(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    class Measurement:
        median = 0.0

    class Clock:
        """Says that one pass takes 4 ms, then 1, 2, 3, 5 and 9 ms in the rounds."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.seconds = iter([0.004, 0.001, 0.009, 0.003, 0.002, 0.005])
            self.passes: list[int] = []

        def timeit(self, number: int) -> Measurement:
            self.passes.append(number)
            assert number == (3 if len(self.passes) == 1 else 5)  # 5 passes of 4 ms make 20 ms
            result = Measurement()
            result.median = next(self.seconds)
            return result

    monkeypatch.setattr("cnnprune_utils.metrics.Timer", Clock)
    table = latency({"net": CNN()}, split.inputs, batch_size=2, rounds=5)
    assert table.loc["net", ["median_ms", "q1_ms", "q3_ms"]].tolist() == pytest.approx([3, 2, 5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"batch_size": 131}, "batch_size=131 needs as many images, and there are 130"),
    ],
)
def test_latency_refuses_what_it_cannot_do(split: Split, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latency({"net": CNN()}, split.inputs, **{"batch_size": 1} | wrong)
