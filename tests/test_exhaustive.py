"""Every sub-network, measured at once, is what closing the gates of one after the other gives."""

import copy
import re
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
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

from cnnprune_utils import exhaustive
from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.exhaustive import all_subnetworks, best_of_each_size, percentile, plan_of, row_of
from cnnprune_utils.gates import mask
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import prunable_layers
from cnnprune_utils.training import evaluate


def cnn() -> nn.Module:
    return randomize(CNN((2, 3), image_size=(5, 7), n_classes=3)).double()


def with_norms_pools_and_dropout() -> nn.Module:
    """A linear layer without bias: with its layer emptied, all outputs are equal."""
    first = [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5)]
    second = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d((1, 2))]
    return randomize(
        nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3, bias=False))
    ).double()


def with_functions_and_a_shortcut() -> nn.Module:
    """One layer, read by two others that are read together; its linear layer has a name with a dot."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).sigmoid()
        x = torch.nn.functional.silu(self.c(self.b(x).relu()))
        return self.head.linear(self.norm(x).mean((2, 3)))

    convolutions = {"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(2, 2, 3, padding=1), "c": nn.Conv2d(2, 3, 3, padding=1)}
    head = nn.Module()
    head.linear = nn.Linear(3, 4)
    return randomize(Net(forward, **convolutions, norm=nn.BatchNorm2d(3), head=head)).double()


NETWORKS = [cnn, with_norms_pools_and_dropout, with_functions_and_a_shortcut]


def small_split(n: int = 25) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 5, 7, generator=generator, dtype=torch.float64)
    return Split(images, torch.randint(3, (n,), generator=generator))


def assert_rows_are_what_closed_gates_give(model: nn.Module, split: Split, rows: pd.DataFrame, within: float) -> None:
    for _, row in rows.iterrows():
        result = evaluate(mask(model, plan_of(row), split.inputs[:2]), split)
        assert row["loss"] == pytest.approx(result.loss, rel=within, abs=within)
        assert row["accuracy"] == result.accuracy


def hand_made() -> pd.DataFrame:
    """Layers a (2 filters) and b (1 filter)."""
    rows = [
        (0, (), (), 0.1, 0.9, False),
        (1, (), (0,), 2.0, 0.95, True),
        (1, (0,), (), 0.4, 0.7, False),
        (1, (1,), (), 0.3, 0.7, False),
        (2, (0, 1), (), 2.0, 0.5, True),
    ]
    return pd.DataFrame(rows, columns=["removed", "a", "b", "loss", "accuracy", "emptied"])


@pytest.mark.parametrize("make", NETWORKS)
def test_every_row_is_what_closed_gates_give(make: Any) -> None:
    """Emptied layers too: outputs that are all equal count as the first class, as ``evaluate`` counts them."""
    model, split = make(), small_split()
    assert_rows_are_what_closed_gates_give(model, split, all_subnetworks(model, split), within=1e-10)


@settings(PROPERTY, max_examples=15)
@given(networks())
def test_random_networks_are_measured_right_or_refused(net: RandomNetwork) -> None:
    net.double()
    try:
        table = all_subnetworks(net, net.split(5), at_most=2**12)
    except ValueError as error:
        if re.match(r"no (layer|filter) of RandomNetwork|RandomNetwork has 2\*\*", str(error)):
            return
        raise
    assert_rows_are_what_closed_gates_give(net, net.split(5), table[:: len(table) // 4 + 1], within=1e-10)


def test_the_books_network_in_single_precision(splits: Splits) -> None:
    model, split = checkpoint("baseline"), splits.validation.subset(200)
    table = all_subnetworks(model, split)
    assert len(table) == 2**14
    assert_rows_are_what_closed_gates_give(model, split, table.sample(8, random_state=0), within=1e-5)
    assert row_of(table, Plan({}))["accuracy"] == evaluate(model, split).accuracy
    assert best_of_each_size(table)["removed"].tolist() == list(range(12))


@pytest.mark.parametrize("make", NETWORKS)
def test_there_is_one_row_for_every_subset(make: Any) -> None:
    model = make()
    table = all_subnetworks(model, small_split(3))
    layers = prunable_layers(model, small_split(2).inputs)
    names = [layer.name for layer in layers]
    assert list(table.columns) == ["removed", *names, "loss", "accuracy", "emptied"]
    keys = list(table[["removed", *names]].itertuples(index=False, name=None))
    assert (
        len(set(keys))
        == len(table)
        == 2 ** sum(layer.out_channels for layer in prunable_layers(model, small_split(2).inputs))
    )
    assert keys == sorted(keys)
    assert all(removed == sum(map(len, filters)) for removed, *filters in keys)


def test_emptied_says_whether_a_layer_is_empty() -> None:
    table = all_subnetworks(cnn(), small_split(3))
    expected = [a == (0, 1) or b == (0, 1, 2) for a, b in zip(table["network.0"], table["network.2"], strict=True)]
    assert table["emptied"].tolist() == expected


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_neither_batch_size_nor_chunk_size_matters(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_subnetworks(cnn(), small_split())
    monkeypatch.setattr(exhaustive, "_AT_ONCE", 100)
    table = all_subnetworks(cnn(), small_split(), batch_size=batch_size)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-12)


def test_large_outputs_give_a_finite_loss() -> None:
    model = cnn()
    with torch.no_grad():
        model.network[-1].weight *= 1e6
    rows = all_subnetworks(model, small_split())
    assert rows["loss"].max() > 1e4
    assert_rows_are_what_closed_gates_give(model, small_split(), rows.sample(5, random_state=0), within=1e-10)


def test_measuring_changes_nothing_of_the_model() -> None:
    """Eval mode, and no gradient."""
    model, split = with_norms_pools_and_dropout().train(), small_split()
    model[1].eval()
    model(split.inputs).sum().backward()
    before = snapshot(model)
    all_subnetworks(model, split)
    assert_unchanged(model, before)


def test_no_gradient_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold the maps of all batches in memory."""
    seen: list[bool] = []

    def sums(terms: Tensor, kept: Tensor, labels: Tensor) -> Tensor:
        seen.append(terms.requires_grad)
        return torch.zeros(2, len(kept))

    monkeypatch.setattr(exhaustive, "_sums", sums)
    all_subnetworks(cnn().requires_grad_(True), small_split())
    assert set(seen) == {False}


def test_an_error_leaves_the_model_as_it_was() -> None:
    model, split = with_norms_pools_and_dropout().train(), small_split()
    split.targets[-1] = 99
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="99"):
        all_subnetworks(model, split, batch_size=20)
    assert_unchanged(model, before)


def test_too_many_sub_networks_are_refused() -> None:
    message = r"CNN has 2\*\*5 sub-networks, for the 5 filters .* and at_most=31\. .* raise at_most .* gates\.mask"
    with pytest.raises(ValueError, match=message):
        all_subnetworks(cnn(), small_split(), at_most=31)
    assert len(all_subnetworks(cnn(), small_split(), at_most=32)) == 32
    with pytest.raises(ValueError, match=r"has 2\*\*32768 sub-networks"):
        all_subnetworks(
            CNN((2**15,), image_size=1).double(), Split(torch.zeros(3, 1, 1, 1).double(), torch.zeros(3).long())
        )


def conv_relu() -> list[nn.Module]:
    return [nn.Conv2d(1, 2, 3), nn.ReLU()]


@pytest.mark.parametrize(
    ("model", "reads", "output"),
    [
        (nn.Sequential(*conv_relu(), nn.Flatten(), nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 3)), "0 by 3", "5"),
        (nn.Sequential(*conv_relu(), nn.Flatten(), nn.Linear(30, 3), nn.LogSoftmax(1)), "0 by 3", "no single layer"),
        (nn.Sequential(*conv_relu(), nn.Conv2d(2, 3, (3, 5)), nn.Flatten()), "0 by 2", "2"),
        (nn.Sequential(*conv_relu(), nn.Conv2d(2, 3, (3, 5))), "0 by 2", "2"),
        (
            Net(
                lambda self, x: (self.linear(self.conv(x).flatten(1)), x),
                conv=nn.Conv2d(1, 2, 3),
                linear=nn.Linear(30, 3),
            ),
            "conv by linear",
            "no single layer",
        ),
        (
            Net(
                lambda self, x: self.two((x := self.conv(x)).flatten(1)) + self.linear(x.flatten(1)),
                conv=nn.Conv2d(1, 2, 3),
                linear=nn.Linear(30, 3),
                two=nn.Linear(30, 3),
            ),
            "conv by two and linear",
            "no single layer",
        ),
    ],
    ids=["two linear layers", "softmax", "flattened convolution", "convolution", "two outputs", "two readers"],
)
def test_outputs_that_are_no_sums_are_refused(model: nn.Module, reads: str, output: str) -> None:
    message = rf"no layer of \w+ is read by one nn\.Linear alone .* this: {reads}; .* of {output}\. Measure the"
    with pytest.raises(ValueError, match=message):
        all_subnetworks(model.double(), small_split())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no filter of Linear can be removed"):
        all_subnetworks(nn.Linear(7, 2).double(), small_split())


def test_a_row_gives_its_plan_and_a_plan_its_row() -> None:
    table = all_subnetworks(cnn(), small_split(3))
    for i in range(len(table)):
        assert row_of(table, plan_of(table.loc[i])).equals(table.loc[i])
    assert plan_of(table.loc[0]) == Plan({})
    assert plan_of(hand_made().loc[4]) == Plan({"a": (0, 1)})


@pytest.mark.parametrize("remove", [{"a": (2,)}, {"c": (0,)}, {"a": (1,), "b": (0,)}, {"a": (0,), "c": (0,)}])
def test_a_plan_that_is_not_in_the_table_is_refused(remove: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"Plan\(.* is not in this table of 5 sub-networks; its layers are a, b\. Was"):
        row_of(hand_made(), Plan(remove))
    with pytest.raises(ValueError, match="is not in this table"):
        percentile(hand_made(), Plan(remove))


def test_the_best_of_each_size() -> None:
    best = best_of_each_size(hand_made())
    assert best["removed"].tolist() == [0, 1]
    assert plan_of(best.loc[1]) == Plan({"a": (1,)})


def test_the_order_of_the_rows_does_not_matter() -> None:
    table, plan = all_subnetworks(cnn(), small_split()), Plan({"network.2": (1,)})
    backwards = table[::-1]
    assert best_of_each_size(backwards).equals(best_of_each_size(table))
    assert percentile(backwards, plan) == percentile(table, plan)


def test_a_percentile_is_a_share_of_the_same_size() -> None:
    accuracies = [0.5, 0.6, 0.6, 0.8]
    rows = [(1, (k,), 0.0, accuracy, False) for k, accuracy in enumerate(accuracies)]
    others = [(1, (4,), 0.0, 0.99, True), (0, (), 0.0, 0.99, False), (2, (0, 1), 0.0, 0.1, False)]
    table = pd.DataFrame(rows + others, columns=["removed", "a", "loss", "accuracy", "emptied"])
    assert [percentile(table, Plan({"a": (k,)})) for k in range(4)] == [25, 75, 75, 100]
    assert percentile(table, Plan({})) == percentile(table, Plan({"a": (0, 1)})) == 100


def test_a_plan_that_empties_a_layer_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="leaves a layer without filters"):
        percentile(hand_made(), Plan({"b": (0,)}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    expected = all_subnetworks(cnn(), small_split())
    table = all_subnetworks(copy.deepcopy(cnn()).cuda(), small_split().to("cuda"))
    pd.testing.assert_frame_equal(table, expected, rtol=1e-10)
