"""Copies, whole and cut: sizes, sharing and layout follow, and the model stays as it was."""

import pytest
import torch
from torch import nn

from cnnprune_utils.cutting import copy_of, switches, without


def test_a_shared_copy_has_the_same_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    copied = copy_of(model, shared=True)
    assert copied[0].weight is model[0].weight
    assert copied[1].running_mean is not model[1].running_mean
    assert copy_of(model)[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_a_model_that_switches_shares_nothing() -> None:
    class Merging(nn.Conv2d):
        def train(self, mode: bool = True) -> "Merging":
            return super().train(mode)

    model = nn.Sequential(Merging(1, 2, 1))
    assert switches(model)
    assert copy_of(model, shared=True)[0].weight is not model[0].weight


def test_kept_feature_maps_are_copied() -> None:
    model = nn.Conv2d(1, 2, 1)
    model.last = model(torch.rand(1, 1, 2, 2))
    model.kept = {"maps": [model.last, (model.last + 1,)]}
    copied = copy_of(model)
    assert not copied.last.requires_grad
    assert copied.kept["maps"][0] is copied.last
    assert torch.equal(copied.kept["maps"][1][0], model.last + 1)


def test_a_cut_computes_no_weights() -> None:
    """Spectral norm takes a step whenever its weight is read in train mode."""
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)), nn.Conv2d(2, 3, 1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = without(model, {"1.weight": {0: torch.tensor([0, 2])}})
    for name, tensor in small[0].state_dict().items():
        assert torch.equal(tensor, state[f"0.{name}"]), name


def test_what_is_shared_stays_shared() -> None:
    model = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
    model[1].weight = model[0].weight
    small = without(model, {"0.weight": {0: torch.tensor([0, 2])}})
    assert small[1].weight is small[0].weight
    assert torch.equal(small[0].weight, model[0].weight[[0, 2]])
    assert [layer.out_features for layer in small] == [2, 2]


@pytest.mark.parametrize(
    ("module", "dims", "sizes"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), {0: [0, 5]}, {"in_channels": 2, "out_channels": 2, "groups": 2}),
        (nn.Conv2d(3, 6, 3, groups=3), {0: [0, 1, 4, 5]}, {"in_channels": 2, "out_channels": 4, "groups": 2}),
        (nn.Conv2d(3, 6, 3, groups=3), {0: [0, 2, 5]}, {"in_channels": 3, "out_channels": 3, "groups": 3}),
        (nn.Conv2d(4, 6, 3, groups=2), {0: [0, 3], 1: [1]}, {"in_channels": 2, "out_channels": 2, "groups": 2}),
        (nn.ConvTranspose2d(4, 6, 3), {0: [1], 1: [0, 1]}, {"in_channels": 1, "out_channels": 2, "groups": 1}),
        (nn.ConvTranspose2d(3, 6, 3, groups=3), {0: [1]}, {"in_channels": 1, "out_channels": 2, "groups": 1}),
        (nn.Linear(4, 3), {1: [0, 3]}, {"in_features": 2, "out_features": 3}),
    ],
)
def test_sizes_follow_the_weight(module: nn.Module, dims: dict[int, list[int]], sizes: dict[str, int]) -> None:
    small = without(module, {"weight": {dim: torch.tensor(kept) for dim, kept in dims.items()}})
    assert {name: getattr(small, name) for name in sizes} == sizes
