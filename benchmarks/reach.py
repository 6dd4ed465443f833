"""Networks that nobody here wrote: how much of each can be removed, and whether the rest is right.

``python -m benchmarks.reach [NETWORK ...]`` prints the table for some networks; ``--write-expectation`` writes the file
that tests/test_families.py compares with: the convolutions of torchvision's networks that stay, and why.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation, video
from tqdm import tqdm

from cnnprune_utils.files import write
from cnnprune_utils.gates import mask
from cnnprune_utils.plan import Plan
from cnnprune_utils.structure import prunable_layers, skipped_layers
from cnnprune_utils.surgery import prune

EXPECTATION = Path(__file__).resolve().parents[1] / "tests" / "families.json"
N_CLASSES = 11  # no width of these networks, so that an output is known by it
SHARE = 0.25  # of the filters of each layer are removed
WRONG = 1e-6  # a larger relative difference in float64 is an error of the removal, if not of rounding
NOTHING = {"difference": math.nan, "wrong": 0.0}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED = CONVOLUTIONS[3:]


@dataclass(frozen=True)
class Network:
    """A function that makes a network, and the shape of one input."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...] = (3, 64, 64)


def _classifier(name: str) -> Callable[..., nn.Module]:
    make: Callable[..., nn.Module] = getattr(torchvision.models, name)
    return partial(make, init_weights=False) if name in ("googlenet", "inception_v3") else make


CLASSIFIERS = """
alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 googlenet inception_v3 squeezenet1_1
mobilenet_v2 mobilenet_v3_small shufflenet_v2_x1_0 mnasnet1_0 efficientnet_b0 efficientnet_v2_s regnet_y_400mf
regnet_x_400mf convnext_tiny
""".split()
SEGMENTATION = ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
VIDEO = ["r3d_18", "mc3_18", "r2plus1d_18"]
TIMM = """
tf_efficientnet_lite0 repvgg_a0 dla34 hrnet_w18_small ghostnet_100 ese_vovnet19b_dw cspresnet50 res2net50_26w_4s
skresnet18 selecsls42b mobilenetv4_conv_small eca_resnet33ts nf_regnet_b0 mixnet_s convnextv2_atto
""".split()

TORCHVISION: dict[str, Network] = {name: Network(_classifier(name)) for name in CLASSIFIERS}
TORCHVISION["inception_v3"] = Network(_classifier("inception_v3"), (3, 96, 96))
TORCHVISION |= {name: Network(partial(getattr(segmentation, name), weights_backbone=None)) for name in SEGMENTATION}
TORCHVISION |= {name: Network(getattr(video, name), (3, 8, 32, 32)) for name in VIDEO}
NETWORKS = TORCHVISION | {name: Network(partial(timm.create_model, name)) for name in TIMM}


EXPECTED = """
alexnet resnet18 densenet121 googlenet squeezenet1_1 mobilenet_v3_small shufflenet_v2_x1_0 regnet_y_400mf convnext_tiny
fcn_resnet50 lraspp_mobilenet_v3_large r2plus1d_18
""".split()
"""Of torchvision's, one of each kind: what stays in them is written down."""


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """Return the network in eval mode, with every number drawn at random, and two inputs for it.

    Linear layers with 4096 units have 64, since they hold nine in ten parameters of those networks, and no filter.
    """
    torch.manual_seed(0)
    with torch.device("cpu" if "regnet" in name else "meta"):  # a RegNet computes its widths by tensors
        model = NETWORKS[name].make(num_classes=N_CLASSES)
        for parent in model.modules():
            for child, module in parent.named_children():
                if isinstance(module, nn.Linear) and 4096 in (module.in_features, module.out_features):
                    i, o = (64 if size == 4096 else size for size in (module.in_features, module.out_features))
                    setattr(parent, child, nn.Linear(i, o))
    # On the meta device nothing is drawn, and buffers that a constructor computes are lost: all of them are below.
    model = model.to_empty(device="cpu").to(dtype).eval()
    randomise(model)
    return model, torch.randn(2, *NETWORKS[name].shape, dtype=dtype)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draw weights, norms and their statistics, so that nothing is 0 or 1 and each error shows in the outputs."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                parameter.normal_(std=math.sqrt(2 / parameter[0].numel()))
            elif name == "bias":
                parameter.normal_(std=0.2)
            else:
                parameter.uniform_(0.5, 1.5)
                parameter[::5] *= -1
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.normal_(std=0.2)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5)
            else:
                buffer.zero_()


# what both are measured by


def depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels > 1


def channels(model: nn.Module, names: Sequence[str] | None = None) -> int:
    """Return the number of output channels of these convolutions, or of all; depthwise ones do not count."""
    found = dict(model.named_modules())
    chosen = set(found if names is None else names)
    return sum(
        m.out_channels
        for name, m in found.items()
        if name in chosen and isinstance(m, CONVOLUTIONS) and not depthwise(m)
    )


def tensors_of(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [t for part in (outputs.values() if isinstance(outputs, dict) else outputs) for t in tensors_of(part)]


@torch.no_grad()
def compared(one: nn.Module, other: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the largest difference of the outputs in eval mode, and whether it is an error of the removal.

    It is relative to the largest number of each output. An error is larger than ``WRONG``, and than ten times what one
    rounding of ``x`` changes: with random weights some networks are chaotic.
    """
    first, second = tensors_of(one.eval()(x)), tensors_of(other.eval()(x))
    torch.manual_seed(0)
    rounded = tensors_of(other(x * (1 + torch.finfo(x.dtype).eps * torch.randn_like(x))))
    found, rounding = apart(first, second), apart(rounded, second)
    return {"difference": found, "wrong": float(found > max(WRONG, 10 * rounding))}


def apart(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    pairs = zip(first, second, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def some(n: int, groups: int = 1) -> list[int]:
    """Return a quarter of ``n`` filters at random, the same places in each group; at least one, and never all."""
    places = n // groups
    chosen = sorted(torch.randperm(places)[: min(max(round(SHARE * places), 1), places - 1)].tolist())
    return [g * places + k for g in range(groups) for k in chosen]


# ours


def ours(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the share that can be removed, the largest difference to closed gates, and the seconds of the removal."""
    start = time.perf_counter()
    layers = prunable_layers(model, x)
    torch.manual_seed(0)
    plan = Plan({layer.name: tuple(some(layer.out_channels)) for layer in layers if layer.out_channels > 1})
    pruned = prune(model, plan, x)
    seconds = time.perf_counter() - start
    share = channels(model, [name for layer in layers for name in layer.producers]) / channels(model)
    found = compared(pruned, mask(model, plan, x), x) if plan.n_filters else NOTHING
    return {"share": share, "seconds": seconds, **found}


# torch-pruning


def rivals(model: nn.Module, x: Tensor) -> dict[str, float]:
    """The same by torch-pruning, group by group, as its documentation has it; layers that end in the classes are
    ignored by their width. What should come out is the whole network without the columns of the weights that read the
    removed channels, by its own account of who reads them."""
    start = time.perf_counter()
    small = copy.deepcopy(model).requires_grad_(True)
    roots = _roots(small, x)
    torch.manual_seed(0)
    gone = {root: some(n, groups) for root, (n, groups, _) in roots.items() if n // groups > 1}
    graph = _graph(small, x)
    names = dict(small.named_modules())
    for root, filters in gone.items():
        group = graph.get_pruning_group(names[root], _remover(names[root]), idxs=filters)
        if not graph.check_pruning_group(group):
            raise RuntimeError(f"it would empty a layer together with {root}")
        group.prune()
    small.eval()(x)
    seconds = time.perf_counter() - start
    share = channels(model, [name for root in gone for name in roots[root][2]]) / channels(model)
    found = compared(small, _without_columns(model, x, gone), x) if gone else NOTHING
    return {"share": share, "seconds": seconds, **found}


def _graph(model: nn.Module, x: Tensor) -> Any:
    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)


def _remover(module: nn.Module) -> Any:
    if depthwise(module):
        return torch_pruning.prune_depthwise_conv_out_channels
    return torch_pruning.prune_conv_out_channels


def _roots(model: nn.Module, x: Tensor) -> dict[str, tuple[int, int, list[str]]]:
    """A convolution of each group -> its channels, the most groups of a convolution there, all that make channels."""
    names = {module: name for name, module in model.named_modules()}
    widths = {m: getattr(m, "out_channels", getattr(m, "out_features", None)) for m in names}
    ends = [m for m, width in widths.items() if width == N_CLASSES]
    roots = {}
    for group in _graph(model, x).get_all_groups(ignored_layers=ends, root_module_types=list(CONVOLUTIONS)):
        root = group[0].dep.target.module
        modules = [item.dep.target.module for item in group]
        groups = [m.groups for m in modules if isinstance(m, CONVOLUTIONS) and not depthwise(m)]
        makes = [
            item.dep.target.module
            for item in group
            if item.dep.handler.__name__ in ("prune_out_channels", "prune_depthwise_out_channels")
        ]
        if root in names:
            made = [names[m] for m in makes if m in names]
            roots[names[root]] = (root.out_channels, max(groups, default=1), sorted({names[root], *made}))
    return roots


def _without_columns(model: nn.Module, x: Tensor, gone: dict[str, list[int]]) -> nn.Module:
    """Return a copy of the whole network, with 0 in the weights that read these channels."""
    whole = copy.deepcopy(model).requires_grad_(True)
    graph, names = _graph(whole, x), dict(whole.named_modules())
    for root, filters in gone.items():
        for item in graph.get_pruning_group(names[root], _remover(names[root]), idxs=filters):
            module = item.dep.target.module
            if item.dep.handler.__name__ != "prune_in_channels" or depthwise(module):
                continue
            if isinstance(module, TRANSPOSED):
                module.weight.data[item.idxs] = 0
            elif isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                size = module.weight.shape[1]
                module.weight.data[:, sorted({i % size for i in item.idxs})] = 0
    return whole


# the table

COLUMNS = ("share", "difference", "wrong", "seconds")
WAYS: dict[str, Callable[[nn.Module, Tensor], dict[str, float]]] = {"ours": ours, "torch-pruning": rivals}


def table(names: Sequence[str] | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a row per network: share, difference and seconds of each way; and why a way failed on a network."""
    rows: dict[str, dict[tuple[str, str], float]] = {}
    failed: dict[str, str] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in tqdm(NETWORKS if names is None else names, leave=False):
            rows[name] = {}
            for way, measure in WAYS.items():
                model, x = build(name)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        found = measure(model, x)
                except Exception as error:  # of any kind: it is what the table is about
                    found = {"share": math.nan, "seconds": math.nan, **NOTHING}
                    failed[f"{name}, {way}"] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
                rows[name] |= {(way, column): value for column, value in found.items()}
    finally:
        torch.set_num_threads(threads)
    columns = [(way, column) for way in WAYS for column in COLUMNS]
    return pd.DataFrame.from_dict(rows, orient="index", columns=pd.MultiIndex.from_tuples(columns)), failed


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per way: networks that can be pruned, and rightly; the mean share over all, the largest difference, seconds.

    A network that cannot be pruned, or comes out wrong, counts with a share of 0.
    """
    found = {}
    for way in WAYS:
        part = rows[way]
        wrong = part["wrong"] == 1
        right = part["difference"].notna() & ~wrong & (part["share"] > 0)
        found[way] = {
            "networks": len(part),
            "right": int(right.sum()),
            "wrong": int(wrong.sum()),
            "mean_share": part["share"].where(right, 0.0).mean(),
            "largest_difference": part["difference"].max(),
            "seconds": part["seconds"].sum(),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def flat(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table with columns of one level, like the other tables."""
    short = {"ours": "", "torch-pruning": "tp_"}
    shown = ("share", "difference", "seconds")
    names = [f"{short[way]}{column}" for way in WAYS for column in shown]
    return rows[[(way, column) for way in WAYS for column in shown]].set_axis(names, axis=1)


# what stays in torchvision's networks


def reasons(name: str) -> dict[str, str]:
    """Return convolution that stays -> reason."""
    return skipped_layers(*build(name, torch.float32))


def write_expectation(names: Sequence[str]) -> None:
    """Write what stays in these networks, with the versions that it was found with; others keep what they have."""
    before = json.loads(EXPECTATION.read_text())["networks"] if EXPECTATION.exists() else {}
    found = before | {name: reasons(name) for name in tqdm(names, leave=False)}
    versions = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0]}
    networks = {name: found[name] for name in EXPECTED if name in found}
    write(EXPECTATION, json.dumps({"versions": versions, "networks": networks}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reach", description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--write-expectation", action="store_true", help=f"write tests/{EXPECTATION.name}")
    options = parser.parse_args(arguments)
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"there is no network {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    if options.write_expectation:
        return write_expectation([name for name in options.networks or EXPECTED if name in EXPECTED])
    rows, failed = table(options.networks or None)
    print(flat(rows).to_string(na_rep="-"), "\n\n" + summary(rows).to_string())
    print("\n".join(f"{where}: {why}" for where, why in failed.items()))


if __name__ == "__main__":
    main()
