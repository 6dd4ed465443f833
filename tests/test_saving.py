"""The specification of cnnprune_utils.saving."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from cnnprune_utils import saving
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.plan import Plan
from cnnprune_utils.saving import load_model, save_model, to_bytes
from cnnprune_utils.surgery import prune

PLAN = Plan({"network.0": (1,), "network.2": (0, 3), "network.4": (0, 1, 2, 5, 6)})  # 1 of 2, 2 of 4, 5 of 8


def small_net() -> nn.Sequential:
    """Not a CNN of ours: it has a BatchNorm, with statistics that are not where they started."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    net(torch.rand(5, 1, 8, 8))
    return net


SMALL_PLAN = Plan({"0": (1, 2)})


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def rewrite_header(path: Path, **changes: Any) -> None:
    """Change our JSON in the file's header; None takes the entry out."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["cnnprune_utils"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    header = {key: value for key, value in (header | changes).items() if value is not None}
    safetensors.torch.save_file(tensors, path, metadata={"cnnprune_utils": json.dumps(header)})


# save and load


@pytest.mark.parametrize(
    "make",
    [CNN, lambda: CNN((3,), in_channels=2, image_size=(4, 5), n_classes=2), lambda: prune(CNN(), PLAN)],
    ids=["default", "other", "pruned"],
)
def test_a_cnn_of_any_widths_loads_alone(make: Callable[[], CNN], tmp_path: Path) -> None:
    model = make()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is CNN
    assert repr(loaded) == repr(model)
    assert loaded.image_size == model.image_size
    assert same(state(loaded), state(model))
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert all(module.training for module in loaded.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(CNN().to(dtype), tmp_path / "cnn")
    assert {p.dtype for p in load_model(tmp_path / "cnn").parameters()} == {dtype}
    pruned = prune(small_net(), SMALL_PLAN)
    pruned[0].to(dtype)
    save_model(pruned, tmp_path / "net", plan=SMALL_PLAN)
    assert same(state(load_model(tmp_path / "net", base=small_net())), state(pruned))


@pytest.mark.parametrize("plan", [SMALL_PLAN, Plan({})])
def test_any_other_network_loads_into_its_unpruned_model(plan: Plan, tmp_path: Path) -> None:
    pruned = prune(small_net(), plan)
    save_model(pruned, tmp_path / "net", plan=plan)
    base = small_net().eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(1)
    before = state(base)
    loaded = load_model(tmp_path / "net", base=base)
    assert same(state(loaded), state(pruned))
    assert same(state(base), before)
    assert not {p.data_ptr() for p in loaded.parameters()} & {p.data_ptr() for p in base.parameters()}
    assert not loaded.training


def test_parameters_that_two_layers_share_stay_shared(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 8))
        net[3].weight = net[2].weight
        return net

    net = tied()
    save_model(net, tmp_path / "net", plan=Plan({}))
    loaded = load_model(tmp_path / "net", base=tied())
    assert same(state(loaded), state(net))
    assert loaded[2].weight is loaded[3].weight


def test_a_network_that_cannot_be_traced_travels_when_nothing_was_pruned(tmp_path: Path) -> None:
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    net = Branching(2, 2)
    save_model(net, tmp_path / "net", plan=Plan({}))
    assert same(state(load_model(tmp_path / "net", base=Branching(2, 2))), state(net))


def test_loading_draws_no_random_number_and_runs_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alarm(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle was asked")

    save_model(CNN(), tmp_path / "cnn")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, alarm)
    monkeypatch.setattr(torch, "load", alarm)
    before = torch.get_rng_state()
    load_model(tmp_path / "cnn")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_hang_on_its_file(tmp_path: Path) -> None:
    model = CNN()
    save_model(model, tmp_path / "cnn")
    loaded = load_model(tmp_path / "cnn")
    with (tmp_path / "cnn").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\xff" * 1000)
    assert same(state(loaded), state(model))


def test_the_same_model_gives_the_same_bytes() -> None:
    model = CNN()
    assert to_bytes(model) == to_bytes(copy.deepcopy(model))


def test_the_file_is_small_and_says_what_it_holds(tmp_path: Path) -> None:
    save_model(CNN((1, 2, 3)), tmp_path / "cnn")
    assert 0 < (tmp_path / "cnn").stat().st_size - 4 * 23_617 < 1000
    with safetensors.safe_open(tmp_path / "cnn", framework="pt") as file:
        header = json.loads(file.metadata()["cnnprune_utils"])
    built = {"widths": [1, 2, 3], "in_channels": 1, "image_size": 28, "n_classes": 10}
    assert header == {"format": 1, "model": "CNN", "architecture": built}


@pytest.mark.skipif(os.name == "nt", reason="file modes")
def test_others_may_read_the_file_as_any_other_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_model(CNN((1,)), tmp_path / "cnn")
    assert (tmp_path / "cnn").stat().st_mode == (tmp_path / "plain").stat().st_mode


FRESH = """
import sys, torch, torchvision
from cnnprune_utils.saving import load_model
folder = sys.argv[1]
cnn = load_model(f"{folder}/cnn").eval()
resnet = load_model(f"{folder}/resnet", base=torchvision.models.resnet18(num_classes=10)).eval()
inputs = torch.load(f"{folder}/inputs.pt")
torch.save([cnn(inputs[0]).detach(), resnet(inputs[1]).detach()], f"{folder}/outputs.pt")
"""


def test_a_fresh_process_computes_the_same_outputs_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = Plan({"layer1.0.conv1": (0, 5, 63), "layer2.1.conv1": tuple(range(100)), "layer4.1.conv1": (3,)})
    cnn = prune(CNN(), PLAN).eval()
    resnet = torchvision.models.resnet18(num_classes=10)
    resnet(torch.rand(4, 3, 64, 64))  # move the statistics of the BatchNorms
    resnet = prune(resnet, plan).eval()
    save_model(cnn, tmp_path / "cnn")
    save_model(resnet, tmp_path / "resnet", plan=plan)
    inputs = [torch.rand(7, 1, 28, 28), torch.rand(2, 3, 64, 64)]
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, env=environment, timeout=300)
    outputs = torch.load(tmp_path / "outputs.pt")
    assert torch.equal(outputs[0], cnn(inputs[0]))
    assert torch.equal(outputs[1], resnet(inputs[1]))


# refusals


def test_saving_another_network_without_its_plan_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Sequential .* needs the plan.*plan=plan.*Plan\(\{\}\) if nothing"):
        save_model(small_net(), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_cnn_that_was_changed_by_hand_is_not_taken_for_one_of_ours(tmp_path: Path) -> None:
    class Child(CNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flip(-1))

    Child.__name__ = "CNN"
    other_activation, more_tensors = CNN(), CNN()
    other_activation.network[1] = nn.Sigmoid()
    more_tensors.register_buffer("mean", torch.zeros(1))
    for model in (other_activation, more_tensors, Child()):
        with pytest.raises(ValueError, match="needs the plan"):
            save_model(model, tmp_path / "cnn")


@pytest.mark.parametrize(
    "broken",
    [lambda half, _: (Path, "write_bytes", half), lambda _, no_replace: (os, "replace", no_replace)],
    ids=["while writing", "before the file takes its place"],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    broken: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(CNN((1,)), tmp_path / "cnn")
    before = (tmp_path / "cnn").read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left")

    def no_replace(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*broken(half, no_replace))
    with pytest.raises(OSError, match="no space"):
        save_model(CNN((2,)), tmp_path / "cnn")
    assert [p.name for p in tmp_path.iterdir()] == ["cnn"]
    assert (tmp_path / "cnn").read_bytes() == before


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        save_model(CNN((1,)), tmp_path / "nowhere" / "cnn")


def test_a_missing_file_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_model(tmp_path / "absent")


def test_a_folder_is_not_called_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 100, 700, -1])
def test_a_truncated_file_is_refused_by_name(kept: int, tmp_path: Path) -> None:
    save_model(CNN(), tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:kept])
    with pytest.raises(ValueError, match="cut is damaged"):
        load_model(tmp_path / "cut")


@pytest.mark.parametrize("content", [b"Weights, please.\n" * 50, bytes(range(256)) * 4, pickle.dumps({"a": 1})])
def test_a_file_of_another_kind_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(ValueError, match="foreign is damaged, or not a safetensors file"):
        load_model(tmp_path / "foreign")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"cnnprune_utils": "{"}, {"cnnprune_utils": "[1]"}, {"cnnprune_utils": "{}"}]
)
def test_a_safetensors_file_of_others_is_refused_by_name(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    safetensors.torch.save_file(CNN().state_dict(), tmp_path / "foreign", metadata=metadata)
    with pytest.raises(ValueError, match="foreign is a safetensors file, but save_model did not write it"):
        load_model(tmp_path / "foreign")


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    save_model(CNN(), tmp_path / "new")
    rewrite_header(tmp_path / "new", format=saving.FORMAT + 1, architecture=None)  # who knows what it will hold
    with pytest.raises(ValueError, match=r"new has format 2, .* reads up to 1: update"):
        load_model(tmp_path / "new")


@pytest.mark.parametrize(
    "architecture",
    [
        {"widths": [2, 4, 9], "in_channels": 1, "image_size": 28, "n_classes": 10},
        {"widths": [2, 4], "in_channels": 1, "image_size": 28, "n_classes": 10},
        {"widths": [2, 4, 8], "in_channels": 1, "image_size": 27, "n_classes": 10},
        {"widths": [2, 4, 10**12], "in_channels": 1, "image_size": 28, "n_classes": 10},
        {"widths": [], "in_channels": 1, "image_size": 28, "n_classes": 10},
        {"depth": 3},
        [1],
        7,
    ],
)
def test_a_header_that_does_not_fit_the_tensors_is_refused_by_name(architecture: Any, tmp_path: Path) -> None:
    save_model(CNN(), tmp_path / "odd")
    rewrite_header(tmp_path / "odd", architecture=architecture)
    with pytest.raises(ValueError, match="odd do not fit its own header"):
        load_model(tmp_path / "odd")


def test_a_file_with_a_plan_asks_for_the_base(tmp_path: Path) -> None:
    save_model(prune(small_net(), SMALL_PLAN), tmp_path / "net", plan=SMALL_PLAN)
    with pytest.raises(ValueError, match=r"net holds a Sequential .*base=model.* unpruned"):
        load_model(tmp_path / "net")


def test_a_wrong_base_is_refused_by_name_and_stays_as_it_was(tmp_path: Path) -> None:
    save_model(prune(small_net(), SMALL_PLAN), tmp_path / "net", plan=SMALL_PLAN)
    wider, deeper = small_net(), small_net()
    wider[4] = nn.Linear(4 * 36, 5)
    deeper.append(nn.Linear(3, 3))
    for base in (CNN(), wider, deeper, prune(small_net(), SMALL_PLAN), nn.Linear(1, 1)):
        before = state(base)
        with pytest.raises(ValueError, match=f"net do not fit this {type(base).__name__} as base"):
            load_model(tmp_path / "net", base=base)
        assert same(state(base), before)


def test_a_wrong_plan_is_refused_when_the_file_is_loaded(tmp_path: Path) -> None:
    save_model(prune(small_net(), SMALL_PLAN), tmp_path / "net", plan=Plan({"0": (1,)}))
    with pytest.raises(ValueError, match="net do not fit this Sequential as base"):
        load_model(tmp_path / "net", base=small_net())
