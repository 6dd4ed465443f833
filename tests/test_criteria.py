"""Criteria: the paper's score, example by example, and nothing of the model changes."""

import copy
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import (  # noqa: F401
    PROPERTY,
    Net,
    RandomNetwork,
    assert_unchanged,
    loss_over_heads,
    networks,
    one_thread,
    randomize,
    snapshot,
)
from torch import Tensor, nn

from cnnprune_utils import criteria
from cnnprune_utils.batches import Split
from cnnprune_utils.book import CNN
from cnnprune_utils.criteria import (
    CRITERIA,
    activation_mean,
    activation_std,
    apoz,
    fisher,
    loss_changes,
    magnitude,
    oracle,
    oracle_loss,
    taylor,
)
from cnnprune_utils.gates import gate_gradients, gated, mask
from cnnprune_utils.plan import Plan, Scores, rank
from cnnprune_utils.structure import prunable_layers

MEASURING_THE_LOSS = [taylor, fisher, oracle, oracle_loss]
LOOKING_AT_IMAGES = [taylor, fisher, activation_mean, activation_std, apoz, oracle, oracle_loss]


def cnn() -> CNN:
    return randomize(CNN((2, 4, 3), image_size=(5, 7), n_classes=3)).double()


def with_dropout_and_norm() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5)]
    second = [nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5)]
    return randomize(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(5 * 2 * 3, 3))).double()


def read_at_two_places() -> nn.Module:
    """One feature map of 5 x 7, read behind a sigmoid, and pooled to 2 x 3 behind a BatchNorm."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        return self.straight(self.sigmoid(x).flatten(1)) + self.pooled(self.norm(self.pool(x)).flatten(1))

    nodes = {"relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "pool": nn.MaxPool2d(2), "norm": nn.BatchNorm2d(4)}
    linears = {"straight": nn.Linear(4 * 35, 3), "pooled": nn.Linear(4 * 6, 3)}
    return randomize(Net(forward, conv=nn.Conv2d(1, 4, 3, padding=1), **nodes, **linears)).double()


def images_and_labels(n: int = 20, seed: int = 1) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 5, 7, generator=generator, dtype=torch.float64)
    return Split(images, torch.randint(3, (n,), generator=generator))


def by_the_paper(
    model: nn.Module, split: Split, activations: dict[str, str], loss: Callable[..., Tensor] = F.cross_entropy
) -> Scores:
    """The definition, one example at a time: mean of dC/dz * z over the positions of z, abs, mean over examples."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            output.retain_grad()
            maps[name] = output

        return hook

    for layer, activation in activations.items():
        model.get_submodule(activation).register_forward_hook(keep(layer))
    scores = {layer: torch.zeros(model.get_submodule(layer).out_channels) for layer in activations}
    for i in range(len(split)):
        loss(model(split.inputs[i : i + 1]), split.targets[i : i + 1], reduction="none").sum().backward()
        for layer, z in maps.items():
            scores[layer] += (z.grad * z)[0].mean((1, 2)).abs().detach() / len(split)
    return scores


def assert_same(scores: Scores, expected: Scores, rtol: float = 1e-6) -> None:
    assert scores.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(scores[name], expected[name].to(scores[name].dtype), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "activations"),
    [
        (cnn(), {"network.0": "network.1", "network.2": "network.3", "network.4": "network.5"}),
        (with_dropout_and_norm(), {"0": "3", "5": "7"}),
    ],
    ids=["cnn", "BatchNorm, pooling, dropout"],
)
def test_taylor_is_the_formula_of_the_paper(model: nn.Module, activations: dict[str, str]) -> None:
    """Equation 8 with T > 1 examples, and z behind BatchNorm and activation."""
    split = images_and_labels()
    assert_same(taylor(model, split), by_the_paper(model, split, activations))


READ_BEHIND = [
    (cnn(), {"network.0": ["network.1"], "network.2": ["network.3"], "network.4": ["network.5"]}),
    (with_dropout_and_norm(), {"0": ["3"], "5": ["7"]}),
    (read_at_two_places(), {"conv": ["sigmoid", "norm"]}),
]


def maps_read(
    model: nn.Module, split: Split, read_behind: dict[str, list[str]], batch_size: int = 1
) -> dict[str, list[Tensor]]:
    """Layer -> for each filter all numbers of its map, wherever it is read."""
    model = copy.deepcopy(model).eval()
    maps: dict[str, list[Tensor]] = {layer: [] for layer in read_behind}
    for layer, places in read_behind.items():
        for place in places:
            keep = lambda module, inputs, output, layer=layer: maps[layer].append(output.transpose(0, 1).flatten(1))  # noqa: E731
            model.get_submodule(place).register_forward_hook(keep)
    with torch.no_grad():
        for images in split.inputs.split(batch_size):
            model(images)
    return {layer: list(torch.cat(seen, 1)) for layer, seen in maps.items()}


@pytest.mark.parametrize(
    ("model", "read_behind"), READ_BEHIND, ids=["cnn", "BatchNorm, pooling, dropout", "two places"]
)
@pytest.mark.parametrize(
    ("criterion", "of_one_filter"),
    [
        (activation_mean, lambda z: sum(z.tolist()) / len(z)),
        (activation_std, lambda z: (sum((x - z.mean()) ** 2 for x in z) / len(z)) ** 0.5),
        (apoz, lambda z: 1 - z.tolist().count(0.0) / len(z)),
    ],
    ids=["mean", "std", "apoz"],
)
def test_activations_are_over_all_that_is_read(
    criterion: Callable[..., Scores],
    of_one_filter: Callable[[Tensor], float],
    model: nn.Module,
    read_behind: dict[str, list[str]],
) -> None:
    split = images_and_labels(9)
    maps = maps_read(model, split, read_behind)
    expected = {layer: torch.tensor([float(of_one_filter(z)) for z in filters]) for layer, filters in maps.items()}
    assert_same(criterion(model, split, batch_size=4), expected)


@pytest.mark.parametrize(
    ("model", "read_behind"), READ_BEHIND, ids=["cnn", "BatchNorm, pooling, dropout", "two places"]
)
def test_fisher_is_the_mean_square_over_examples(model: nn.Module, read_behind: dict[str, list[str]]) -> None:
    """The sum of dC/dz * z over positions and places, squared, and then the mean over the examples."""
    split = images_and_labels()
    plain = copy.deepcopy(model).eval().requires_grad_(True)
    maps: dict[str, Tensor] = {}

    def keep(place: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        maps[place] = output

    for place in (place for places in read_behind.values() for place in places):
        plain.get_submodule(place).register_forward_hook(partial(keep, place))
    expected = {layer: torch.zeros(plain.get_submodule(layer).out_channels).double() for layer in read_behind}
    for i in range(len(split)):
        F.cross_entropy(plain(split.inputs[i : i + 1]), split.targets[i : i + 1]).backward()
        for layer, places in read_behind.items():
            slope = sum((maps[place].grad * maps[place].detach())[0].sum((1, 2)) for place in places)
            expected[layer] += slope**2 / len(split)
    assert_same(fisher(model, split), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deviation_under_a_large_mean(dtype: torch.dtype) -> None:
    """A mean of 1,000,000 and a deviation near 1: the difference of two sums of squares would have lost it."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 35, 3))
    randomize(model).to(dtype)
    with torch.no_grad():
        model[0].bias.fill_(1e6)
    split = images_and_labels(40)
    split = Split(split.inputs.to(dtype), split.targets)
    for batch_size in (1, 7, 40):  # a convolution of several images may round otherwise than one of each
        numbers = torch.stack(maps_read(model, split, {"0": ["1"]}, batch_size)["0"]).double()
        deviation, mean = torch.std_mean(numbers, 1, correction=0)
        assert deviation.min() > 0.1
        assert_same(activation_std(model, split, batch_size=batch_size), {"0": deviation})
        assert_same(activation_mean(model, split, batch_size=batch_size), {"0": mean})


def test_a_constant_map_has_no_deviation() -> None:
    model = cnn()
    with torch.no_grad():
        model.network[2].weight[1].zero_()
        model.network[2].bias[1] = 0.1
    split = images_and_labels(50)
    scores = {
        criterion: criterion(model, split, batch_size=7)["network.2"][1].item() for criterion in LOOKING_AT_IMAGES
    }
    assert scores[activation_mean] == pytest.approx(0.1)
    assert scores[activation_std] == pytest.approx(0, abs=1e-9)
    assert scores[apoz] == 1


@pytest.mark.parametrize("criterion", LOOKING_AT_IMAGES)
def test_only_a_dead_filter_scores_zero(criterion: Callable[..., Scores]) -> None:
    """ReLU lets nothing of filter 1 through, so APoZ is 1 as well."""
    model = cnn()
    with torch.no_grad():
        model.network[4].weight.abs_()
        model.network[4].bias.copy_(torch.tensor([1.0, -1.0, 2.0]))
        model.network[4].weight[1].zero_()
    scores = criterion(model, images_and_labels(), batch_size=7)["network.4"]
    assert scores[1] == 0
    assert bool((scores[[0, 2]] != 0).all())


@pytest.mark.parametrize("criterion", [c for c in LOOKING_AT_IMAGES if c not in (oracle, oracle_loss)])
def test_memory_does_not_grow_with_the_images(criterion: Callable[..., Scores]) -> None:
    """One pass; at the start of the 12th batch all tensors that live hold as many numbers as at that of the 3rd."""
    handed_out: list[int] = []
    living: dict[int, int] = {}

    class Watched(Split):
        def batches(self, *args: Any, **kwargs: Any) -> Iterator[tuple[Tensor, Tensor]]:
            for i, (images, labels) in enumerate(super().batches(*args, **kwargs)):
                handed_out.append(len(images))
                if i in (2, 11):
                    gc.collect()
                    living[i] = sum(tensor.numel() for tensor in gc.get_objects() if type(tensor) is Tensor)
                yield images, labels

    split = images_and_labels(12 * 5)
    criterion(cnn(), Watched(split.inputs, split.targets), batch_size=5)
    assert handed_out == [5] * 12
    assert living[2] == living[11] > 0


@pytest.mark.parametrize("criterion", [activation_mean, activation_std, apoz])
def test_activations_take_no_gradient(criterion: Callable[..., Scores]) -> None:
    network, seen = gated(cnn().requires_grad_(True), images_and_labels(2).inputs), []
    network.network.network[1].register_forward_hook(lambda module, inputs, out: seen.append(out.requires_grad))
    criterion(network, images_and_labels())
    assert seen == [False]


def test_taylor_reads_behind_the_activation() -> None:
    """For ReLU it makes no difference; for SiLU and sigmoid, dC/dz * z is another number before the activation."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2)]
    model = randomize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 6, 3))).double()
    split = images_and_labels()
    assert_same(taylor(model, split), by_the_paper(model, split, {"0": "1", "2": "4"}))


def plain_sum(weights: list[Tensor]) -> nn.Module:
    """Filters that copy the image, ReLU, and one output: the sum of their maps times these weights."""
    conv = nn.Conv2d(1, len(weights), 1, bias=False)
    linear = nn.Linear(sum(w.numel() for w in weights), 1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        linear.weight.copy_(torch.cat([w.flatten() for w in weights])[None])
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)


def test_opposite_signs_within_a_map_cancel() -> None:
    """The mean over positions comes before the absolute value. A checkerboard scores 0."""
    checkerboard = (torch.arange(4)[:, None] + torch.arange(4)) % 2 * 2.0 - 1
    model = plain_sum([checkerboard, torch.ones(4, 4)])
    split = Split(torch.ones(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
    scores = taylor(model, split, loss=lambda outputs, labels, reduction: outputs[:, 0])
    assert scores["0"].tolist() == [0, 1]


def test_opposite_signs_of_examples_do_not_cancel() -> None:
    """The absolute value comes before the mean over examples."""
    model = plain_sum([torch.ones(4, 4)])
    split = Split(torch.ones(2, 1, 4, 4), torch.tensor([0, 1]))
    scores = taylor(model, split, loss=lambda outputs, labels, reduction: outputs[:, 0] * (2.0 * labels - 1))
    assert scores["0"].tolist() == [1]


def test_a_score_is_per_position_of_its_map() -> None:
    for size in (2, 6):
        split = Split(torch.ones(1, 1, size, size), torch.tensor([0]))
        scores = taylor(
            plain_sum([torch.full((size, size), 3.0)]), split, loss=lambda outputs, labels, reduction: outputs[:, 0]
        )
        assert scores["0"].tolist() == [3]


@pytest.mark.parametrize("criterion", LOOKING_AT_IMAGES)
@pytest.mark.parametrize("model", [model for model, _ in READ_BEHIND], ids=["cnn", "BatchNorm, dropout", "two places"])
def test_scores_do_not_depend_on_the_batch_size(criterion: Callable[..., Scores], model: nn.Module) -> None:
    """300 images in batches of 1, 7, 256 (a short last batch) and all at once."""
    split = images_and_labels(30 if criterion in (oracle, oracle_loss) else 300)
    expected = criterion(model, split, batch_size=len(split))
    for batch_size in (1, 7, 256):
        assert_same(criterion(model, split, batch_size=batch_size), expected)


@settings(PROPERTY, max_examples=15)
@given(networks(), st.sampled_from([taylor, fisher, activation_mean, activation_std]))
def test_neither_batch_size_nor_order_matters(net: RandomNetwork, criterion: Callable[..., Scores]) -> None:
    net.double()
    if not net.prunable:
        return
    split = net.split(5)
    expected = criterion(net, split, loss=loss_over_heads)
    assert_same(criterion(net, split, loss=loss_over_heads, batch_size=2), expected)
    backwards = Split(split.inputs.flip(0), split.targets.flip(0))
    assert_same(criterion(net, backwards, loss=loss_over_heads, batch_size=3), expected)


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scores_are_those_of_eval_mode(criterion: Callable[..., Scores]) -> None:
    """In train mode dropout would draw, and BatchNorm's statistics would move."""
    model, split = with_dropout_and_norm().train(), images_and_labels()
    before = snapshot(model)
    first, second = criterion(model, split), criterion(model, split)
    assert_unchanged(model, before)
    assert_same(first, second, rtol=0)
    assert_same(first, criterion(model.eval(), split), rtol=0)


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scoring_changes_nothing(criterion: Callable[..., Scores]) -> None:
    """A gradient left behind would be applied by the next step of the optimizer."""
    model, split = with_dropout_and_norm().train(), images_and_labels()
    model[1].eval()
    F.cross_entropy(model(split.inputs), split.targets).backward()
    model[0].weight.grad = None
    before = snapshot(model)
    criterion(model, split, batch_size=8)
    assert_unchanged(model, before)


@pytest.mark.parametrize("criterion", MEASURING_THE_LOSS)
def test_a_loss_that_raises_changes_nothing(criterion: Callable[..., Scores]) -> None:
    model, split = with_dropout_and_norm().train(), images_and_labels()
    F.cross_entropy(model(split.inputs), split.targets).backward()
    before = snapshot(model)
    calls = iter([False, False, False, True])

    def loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if next(calls):
            raise KeyError("on purpose")
        return F.cross_entropy(outputs, labels, reduction=reduction)

    with pytest.raises(KeyError, match="on purpose"):
        criterion(model, split, loss=loss, batch_size=5)
    assert_unchanged(model, before)


@pytest.mark.parametrize("criterion", LOOKING_AT_IMAGES)
def test_images_that_do_not_fit_change_nothing(criterion: Callable[..., Scores]) -> None:
    model, split = with_dropout_and_norm().train(), images_and_labels()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"fails on the example .*channels"):
        criterion(model, Split(split.inputs.repeat(1, 2, 1, 1), split.targets))
    assert_unchanged(model, before)


def test_the_criteria_come_in_the_order_of_the_book() -> None:
    gradients, activations = ["taylor", "fisher"], ["activation_mean", "activation_std", "apoz"]
    assert list(CRITERIA) == [*gradients, *activations, "magnitude", "random", "oracle", "oracle_loss"]
    assert all(criterion.__name__ == name for name, criterion in CRITERIA.items())


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_all_criteria_are_called_alike(
    criterion: Callable[..., Scores],
) -> None:
    model = cnn()
    scores = criterion(model, images_and_labels(), loss=F.cross_entropy, batch_size=16)
    assert {name: tuple(score.shape) for name, score in scores.items()} == {
        layer.name: (layer.out_channels,) for layer in prunable_layers(model, images_and_labels(2).inputs)
    }
    for score in scores.values():
        assert (score.dtype, score.device.type, score.requires_grad) == (torch.float32, "cpu", False)
        assert bool((score >= 0).all()) or criterion is oracle_loss  # the one with a sign, on a network of ReLUs


@pytest.mark.parametrize("criterion", MEASURING_THE_LOSS)
def test_the_loss_that_is_given_is_the_one_that_counts(criterion: Callable[..., Scores]) -> None:
    """Filter 0 alone feeds output 0, filter 1 output 1."""
    conv, linear = nn.Conv2d(1, 2, 1), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.fill_(1)
        linear.weight.copy_(torch.eye(2))
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    split = Split(torch.ones(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64))
    for k in (0, 1):
        scores = criterion(model, split, loss=lambda outputs, labels, reduction, k=k: outputs[:, k] ** 2)["0"]
        assert scores[k] != 0
        assert scores[1 - k] == 0


@pytest.mark.parametrize("criterion", MEASURING_THE_LOSS)
def test_a_loss_of_the_wrong_shape_is_refused(criterion: Callable[..., Scores]) -> None:

    def reduced(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(outputs, labels)

    with pytest.raises(ValueError, match=r"must return one number for each example, shape \(20?,\), or several"):
        criterion(cnn(), images_and_labels(), loss=reduced)


def test_frozen_parameters_change_no_score() -> None:
    model, split = cnn(), images_and_labels()
    expected = taylor(model.requires_grad_(True), split)
    assert_same(taylor(model.requires_grad_(False), split), expected, rtol=0)


def test_a_dead_layer_ranks_without_nan() -> None:
    model, split = cnn(), images_and_labels()
    with torch.no_grad():
        model.network[2].weight.zero_()
        model.network[2].bias.fill_(-1.0)  # ReLU lets nothing through
    scores = taylor(model, split)
    assert scores["network.2"].tolist() == [0, 0, 0, 0]
    assert scores["network.0"].tolist() == [0, 0]
    assert not rank(scores).isna().any(axis=None)


def test_scores_that_are_nan_are_refused_by_rank() -> None:
    model = cnn()
    with torch.no_grad():
        model.network[7].bias[0] = torch.nan
    with pytest.raises(ValueError, match="not one finite number per filter"):
        rank(taylor(model, images_and_labels()))


def test_oracle_is_the_change_of_the_mean_loss() -> None:
    """The mean is over images, so a short last batch weighs by its images."""
    model, split = with_dropout_and_norm(), images_and_labels()
    with torch.no_grad():
        unpruned = F.cross_entropy(copy.deepcopy(model).eval()(split.inputs), split.targets)
        expected = {
            layer.name: torch.stack(
                [
                    F.cross_entropy(
                        mask(model, Plan({layer.name: (k,)}), split.inputs[:2])(split.inputs), split.targets
                    )
                    - unpruned
                    for k in range(layer.out_channels)
                ]
            )
            for layer in prunable_layers(model, images_and_labels(2).inputs)
        }
    changes = loss_changes(model, split, batch_size=7)
    assert any(bool((change < 0).any()) for change in changes.values())
    assert any(bool((change > 0).any()) for change in changes.values())
    assert_same(changes, expected, rtol=1e-9)
    assert_same(oracle(model, split, batch_size=7), {name: change.abs() for name, change in expected.items()})
    assert_same(oracle_loss(model, split, batch_size=7), expected)


def test_the_first_order_of_a_linear_loss_is_exact() -> None:
    model, split = cnn(), images_and_labels()

    def linear(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return outputs[:, 0] - outputs[:, 2]

    (slopes,) = gate_gradients(model, split, loss=linear)
    changes = loss_changes(model, split, loss=linear)
    torch.testing.assert_close(changes["network.4"], -slopes["network.4"].mean(0), rtol=1e-9, atol=1e-12)


def test_magnitude_is_the_mean_squared_weight() -> None:
    model = cnn()
    scores = magnitude(model, images_and_labels(2))
    for name, score in scores.items():
        weight = model.get_submodule(name).weight
        expected = torch.stack([sum(w**2 for w in f.flatten()) / f.numel() for f in weight]).float()
        torch.testing.assert_close(score, expected.detach())


def test_magnitude_of_filters_removed_together() -> None:
    """A mean of means would weigh a 1 x 1 shortcut as much as a 3 x 3 convolution."""
    convolutions = {"wide": nn.Conv2d(3, 2, 3, padding=1), "short": nn.Conv2d(3, 2, 1), "reader": nn.Conv2d(2, 1, 1)}
    model = Net(lambda self, x: self.reader(self.wide(x) + self.short(x)), **convolutions)
    expected = [
        (model.wide.weight[k].square().sum() + model.short.weight[k].square().sum()) / (27 + 3) for k in range(2)
    ]
    assert_same(magnitude(model), {"wide": torch.stack(expected).detach()})


def test_random_scores_repeat_with_their_seed() -> None:
    model = cnn()
    before = snapshot(model)
    first, again, other = (criteria.random(model, images_and_labels(), seed=seed) for seed in (3, 3, 4))
    assert_unchanged(model, before)
    assert_same(first, again, rtol=0)
    assert not torch.equal(first["network.2"], other["network.2"])
    assert all(bool(((score >= 0) & (score < 1)).all()) for score in first.values())


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_a_gated_network_scores_as_its_model(criterion: Callable[..., Scores]) -> None:
    split = images_and_labels()
    assert_same(criterion(gated(cnn(), split.inputs[:2]), split), criterion(cnn(), split), rtol=0)


def test_nothing_to_score_is_refused_with_reasons() -> None:
    model = Net(lambda self, x: self.conv(x).mean((2, 3)), conv=nn.Conv2d(1, 3, 1)).double()
    with pytest.raises(ValueError, match="no filter of Net can be removed: conv: its feature map is part of"):
        taylor(model, images_and_labels())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scores_on_the_gpu_agree_with_the_cpu(criterion: Callable[..., Scores]) -> None:
    model, split = cnn(), images_and_labels()
    expected = criterion(model, split)
    assert_same(criterion(copy.deepcopy(model).cuda(), split.to("cuda")), expected, rtol=1e-5)
