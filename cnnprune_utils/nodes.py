"""What a node of a traced graph does to the channels of a feature map: the tables and questions of :mod:`.structure`.

Whatever stands in no table is unknown, and unknown is never taken for harmless.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import stochastic_depth

# A gate has to sit behind these: they may turn 0 into something else, or the paper reads the map after them.
_ACTIVATIONS = (
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish hardswish hardsigmoid "
    "hardtanh hardtanh_ sigmoid sigmoid_ tanh tanh_ softplus softsign logsigmoid tanhshrink softshrink hardshrink"
).split()
# A gate may sit before these: they keep channels apart and map a map of zeros to zeros.
_CARRIERS = (
    "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d dropout dropout2d interpolate contiguous"
).split()
ACTIVATION_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(
        nn.Hardsigmoid,
        nn.Hardtanh,
        nn.Sigmoid,
        nn.Tanh,
        nn.Softplus,
        nn.Softsign,
        nn.LogSigmoid,
        nn.Tanhshrink,
    ),
    *(nn.Softshrink, nn.Hardshrink),
)
CARRIER_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Dropout),
    *(nn.Dropout2d, nn.Identity, nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm2d)


def _functions(names: Sequence[str]) -> set[Any]:
    """The names as they stand in a graph: functions of torch and torch.nn.functional, and names of tensor methods."""
    return {getattr(space, name) for space in (torch, F) for name in names if hasattr(space, name)} | set(names)


ACTIVATION_CALLS = _functions(_ACTIVATIONS)
CARRIER_CALLS = _functions(_CARRIERS) | {stochastic_depth}
JOINS = {torch.cat, torch.concat, torch.stack}
# They combine maps number by number, so channel k of one meets channel k of the other.
ELEMENTWISE = {
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
}
_FLATTENS = {torch.flatten, "flatten"}
_VIEWS = {torch.reshape, "view", "reshape"}
_MEANS = {torch.mean, torch.amax, "mean", "amax"}


def is_depthwise(module: nn.Module) -> bool:
    """Whether the module is a convolution with one filter for each input channel."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def is_activation(module: nn.Module | None) -> bool:
    """Whether the module maps each number by itself, and holds nothing for a channel."""
    one_slope = isinstance(module, nn.PReLU) and module.num_parameters == 1
    return one_slope or isinstance(module, ACTIVATION_MODULES)


def inputs_of(module: nn.Module) -> int:
    """How many channels or features the module reads."""
    for attribute in ("in_channels", "in_features", "num_features", "num_parameters"):
        if isinstance(width := getattr(module, attribute, None), int):
            return width
    raise TypeError(f"{type(module).__name__} does not say how many inputs it reads")


def name_of(node: fx.Node) -> str:
    """What the node calls, for a message."""
    if isinstance(node.target, str):
        return node.target
    return getattr(node.target, "__name__", str(node.target))


def _is_shape(node: fx.Node) -> bool:
    """All sizes of a tensor: ``x.shape`` or ``x.size()``."""
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 1 and not node.kwargs
    return node.target is getattr and bool(node.args[1] == "shape")


def is_size(node: fx.Node) -> bool:
    """Sizes picked by an index, ``args[1]``: ``x.size(0)``, ``x.shape[0]``, ``x.shape[2:]``."""
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 2
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and _is_shape(source)


def reads_only_size(node: fx.Node, flat: bool) -> bool:
    """Whether the node reads the size of the batch or of the map, which pruning leaves as it is."""
    if _is_shape(node):
        return all(is_size(user) and (not user.users or _spares_channels(user.args[1], flat)) for user in node.users)
    return is_size(node) and _spares_channels(node.args[1], flat)


def _spares_channels(index: Any, flat: bool) -> bool:
    """Whether the index picks no channel count (dimension 1) from the sizes of a map, or of a flattened one."""
    picked = list(range(2 if flat else 4))[index] if isinstance(index, (int, slice)) else 1
    return picked != 1 if isinstance(picked, int) else 1 not in picked


def flattens(node: fx.Node) -> str:
    """``"flat"`` if the node makes (n, features) of (n, C, H, W), ``"map"`` if it keeps four dimensions, else empty."""
    arguments = (*node.args[1:], *node.kwargs.values())
    if node.target in _FLATTENS:
        return "flat" if arguments in ((1,), (1, -1)) else ""
    if node.target in _VIEWS:
        shape = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)) else arguments
        batch = shape[0] if len(shape) == 2 and shape[1] == -1 else None
        return "flat" if isinstance(batch, fx.Node) and is_size(batch) and batch.args[1] == 0 else ""
    if node.target in _MEANS and arguments:
        dims = arguments[0] if isinstance(arguments[0], (tuple, list)) else ()
        over_map = sorted(d % 4 for d in dims if isinstance(d, int)) == [2, 3]
        keepdim = node.kwargs.get("keepdim", arguments[1] if len(arguments) > 1 else False)
        return ("map" if keepdim is True else "flat") if over_map else ""
    return ""
