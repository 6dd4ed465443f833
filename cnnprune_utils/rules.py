"""What each kind of operation does to names: a rule takes a call and returns the labels of its results.

An entry of :data:`RULES` names operations as ATen does; :data:`KINDS` has patterns for families. Operations that
PyTorch itself tags as pointwise need no entry, nor does one that is seen to act on each number by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from .calls import layer_name
from .names import ANYBODY, NOBODY, Stays

if TYPE_CHECKING:
    from .flow import Flow

Labels: TypeAlias = Tensor | list[Tensor]
Rule: TypeAlias = Callable[["Flow", "Call"], Labels]
"""Returns labels that expand to the shape of each result, or a list with those of each result; raises Stays."""


@dataclass(frozen=True)
class Call:
    """One call of an ATen operation, with the tensors that it reads and returns."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    ins: list[Tensor]
    outs: list[Tensor]

    @property
    def name(self) -> str:
        """The operation without namespace, overload and the underscore of writing in place: ``add``."""
        return self.func._schema.name.rpartition("::")[2].rstrip("_")

    @property
    def draws(self) -> bool:
        """Whether the numbers that it returns say nothing: random ones, or memory that is not written yet."""
        return torch.Tag.nondeterministic_seeded in self.func.tags or self.name.startswith("empty")

    @property
    def depends_on_numbers(self) -> bool:
        """Whether Python, or the shape of the result, learns of the numbers themselves."""
        if self.name == "index":
            return any(map(_is_mask, self["indices"]))
        tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
        return self.name in ("_local_scalar_dense", "equal", "nonzero") or not tags.isdisjoint(self.func.tags)

    def __getitem__(self, argument: str) -> Any:
        """The argument of this name, its default where none was given, None where there is no such argument."""
        for i, known in enumerate(self.func._schema.arguments):
            if known.name == argument:
                if i < len(self.args):
                    return self.args[i]
                return self.kwargs.get(argument, known.default_value if known.has_default_value() else None)
        return None


_SAYS = {
    "native_layer_norm": "norm over channels",
    "native_group_norm": "norm over channels",
    "mm": "matrix product",
    "bmm": "matrix product",
    "addmm": "matrix product",
    "baddbmm": "matrix product",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
}


def apply(flow: Flow, call: Call) -> list[Tensor]:
    """Return the labels of each result of ``call``.

    Raises:
        Stays: the names that it reads cannot be followed; with what it does, in words.
    """
    pointwise_tag = torch.Tag.pointwise in call.func.tags
    rule = RULES.get(call.name) or next((rule for kind, rule in KINDS if kind.fullmatch(call.name)), None)
    if rule is None and (pointwise_tag or _acts_on_each_number(call)):
        rule = pointwise
    if rule is not pointwise:
        for x in call.ins:
            if name := flow.is_matrix(x):
                flow.freeze_matrix(name, f"{layer_name(name)} is read by {call.name} in {flow.where()}")
    if rule is None:
        raise Stays(_SAYS.get(call.name, f"{call.name.strip('_')}, which is not known to keep channels apart,"))
    found = rule(flow, call)
    found = found if isinstance(found, list) else [found] * len(call.outs)
    return [labels.expand(y.shape) for y, labels in zip(call.outs, found, strict=True)]


def pointwise(flow: Flow, call: Call) -> Labels:
    """Numbers meet element by element, so their names are merged; parameters belong to the names that they meet."""
    names, matrices = flow.names, [x for x in call.ins if flow.is_matrix(x)]
    shape = torch.Size(torch.broadcast_shapes(*(x.shape for x in call.ins)))
    result = torch.full([1] * len(shape), ANYBODY)
    for x in call.ins:
        if x.numel() != 1 and not flow.is_matrix(x):
            labels = flow.labels(x)
            result = _meet(flow, call, result, labels.view([1] * (len(shape) - x.ndim) + list(x.shape)))
        elif not flow.is_matrix(x):
            names.freeze(flow.labels(x), f"one number of it meets several channels, by {call.name},")
    for x in matrices:
        whole, held = flow.is_matrix(x), False
        in_place = call.func._schema.is_mutable and x is call.ins[0]
        for dim in range(-x.ndim, 0):
            if result.shape[dim] == x.shape[dim] > 1 and names.varies(result, dim):
                if in_place or not flow.is_whole(x):
                    raise Stays(f"{call.name} with {whole} in another shape")
                own = names.of(whole, dim + x.ndim, x.shape[dim])
                names.merge(own, names.along(result, dim), f"{whole} also meets numbers that no filter makes")
                held = True
        if not held:
            flow.freeze_matrix(whole, f"{layer_name(whole)} is read by {call.name} in {flow.where()}")
    return result.expand(shape)


def _meet(flow: Flow, call: Call, a: Tensor, b: Tensor) -> Tensor:
    a, b = _spread(flow, call, a, b), _spread(flow, call, b, a)
    shape = torch.Size(torch.broadcast_shapes(a.shape, b.shape))
    a, b = flow.names.core(a), flow.names.core(b)
    flow.names.merge(a, b, f"{call.name} in {flow.where()} joins it with numbers that no filter makes")
    return torch.where(a > 0, a, torch.where(b > 0, b, torch.maximum(a, b))).expand(shape)


def _spread(flow: Flow, call: Call, one: Tensor, several: Tensor) -> Tensor:
    """The labels of ``one`` for a meeting with ``several``: each of its numbers may meet many channels."""
    names = flow.names
    varied = [dim for dim in range(one.ndim) if names.varies(several, dim)]
    if not varied or any(one.shape[dim] > 1 for dim in varied):
        return one
    names.freeze(one, f"one number of it meets several channels, by {call.name} in {flow.where()}")
    return torch.full_like(one, ANYBODY)


def _moved(flow: Flow, call: Call) -> Labels:
    """A view that leaves each dimension whole: its labels are there already."""
    return [flow.labels(y) for y in call.outs]


def _executed(flow: Flow, call: Call) -> Labels:
    """The operation is done on the labels."""
    (x,) = call.ins
    found: Tensor = call.func(flow.labels(x), *call.args[1:], **call.kwargs)
    return found


def _kept(flow: Flow, call: Call) -> Labels:
    """The result follows the shape of its input, and so its names."""
    return flow.labels(call.ins[0])


def _reshaped(flow: Flow, call: Call) -> Labels:
    """Dimensions are merged or split. Where one that has names is split, only one of the parts may have them.

    That is the part whose size forward leaves open (-1): the others are fixed. Where all sizes are given, the first
    ones are taken for fixed, as in ``view(b, groups, c // groups, h, w)``.
    """
    (x,), (y,) = call.ins, call.outs
    labels, names = flow.labels(x), flow.names
    if x.element_size() != y.element_size():
        return flow.labels(y)  # which freezes them
    for old, new in _blocks(x.shape, y.shape):
        wide = [dim for dim in new if y.shape[dim] > 1]
        if len(wide) < 2 or not any(names.varies(labels, dim) for dim in old):
            continue
        others = [dim for dim in range(x.ndim) if dim not in old]
        together = labels.permute(*old, *others).reshape(*(y.shape[dim] for dim in wide), -1)
        varied = [dim for dim in range(len(wide)) if names.varies(together, dim)]
        free = flow.inferred if flow.inferred is not None else _inferred(call["size"])
        left = wide.index(free) if free in wide else max(varied, default=0)
        for dim in varied:
            if dim != left:
                names.merge(together.narrow(dim, 0, 1), names.core(together), "splits channels into parts")
    return labels.reshape(y.shape)


def _inferred(sizes: Sequence[int] | None) -> int | None:
    """Which of the sizes is -1."""
    return list(sizes).index(-1) if sizes and -1 in sizes else None


def inferred_dim(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the dimension of the result whose size a call of view, reshape or unflatten leaves open, or None."""
    given = [*args[1:], *(value for key, value in kwargs.items() if key != "dim")]
    start = 0
    if name == "unflatten":
        start = kwargs["dim"] if "dim" in kwargs else given.pop(0)
        start = start % args[0].ndim if args and isinstance(start, int) else 0
    sizes = [size for part in given for size in (part if isinstance(part, (tuple, list)) else [part])]
    return start + sizes.index(-1) if -1 in sizes else None


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which dimensions of ``old`` become which of ``new``: the shortest runs with the same product."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        a, b = i + 1, j + 1
        while prod(old[i:a]) != prod(new[j:b]):
            if prod(old[i:a]) < prod(new[j:b]) and a < len(old):
                a += 1
            elif b < len(new):
                b += 1
            else:
                a += 1
        blocks.append(([*range(i, min(a, len(old)))], [*range(j, min(b, len(new)))]))
        i, j = a, b
    return blocks


def _slice(flow: Flow, call: Call) -> Labels:
    """A part of the positions; of the channels, only all of them."""
    x, dim = call.ins[0], call["dim"] or 0
    if flow.names.varies(flow.labels(x), dim) and call.outs[0].shape != x.shape:
        raise Stays("cut at fixed channels")
    return _moved(flow, call)


def _split(flow: Flow, call: Call) -> Labels:
    """Equal parts of the channels: the same place of each is removed together."""
    (x,), dim = call.ins, call["dim"] or 0
    if flow.names.varies(flow.labels(x), dim):
        if len({y.shape for y in call.outs}) > 1 or call.outs[0].ndim < x.ndim:
            raise Stays("cut at fixed channels")
        parts = [flow.names.along(flow.labels(y), dim) for y in call.outs]
        for part in parts[1:]:
            flow.names.merge(parts[0], part, "cut into parts of different kinds")
    return _moved(flow, call)


def _glu(flow: Flow, call: Call) -> Labels:
    (x,), dim = call.ins, call["dim"]
    halves = flow.labels(x).chunk(2, dim)
    return _meet(flow, call, halves[0], halves[1])


def _cat(flow: Flow, call: Call) -> Labels:
    """Beside each other along one dimension; along the others, names that lie at the same place are merged."""
    dim, names = (call["dim"] or 0), flow.names
    parts = [flow.labels(x) for x in call.ins if x.shape != (0,)]
    if call.name == "stack":
        parts = [part.unsqueeze(dim) for part in parts]
    for other in range(parts[0].ndim):
        if other != dim % parts[0].ndim and any(names.varies(part, other) for part in parts):
            first, *rest = (names.along(part, other) for part in parts)
            for part in rest:
                names.merge(first, part, "cat joins it with numbers that no filter makes")
    return torch.cat(parts, dim)


def _padded(flow: Flow, call: Call) -> Labels:
    """Padding fits every name; but a fixed number of channels beside those of filters is nobody's."""
    (x,), pad = call.ins, call["pad"]
    dims = [x.ndim - 1 - i // 2 for i, width in enumerate(pad) if width]
    channels = any(flow.names.varies(flow.labels(x), dim) for dim in dims)
    if channels and min(pad) < 0:
        raise Stays("cut at fixed channels")
    found: Tensor = torch.constant_pad_nd(flow.labels(x), pad, NOBODY if channels else ANYBODY)
    return found


def _indexed(flow: Flow, call: Call) -> Labels:
    """Positions in another order; not channels."""
    x, index = call.args[0], call.args[1] if call.name == "index" else None
    dims = [call["dim"]] if index is None else _picked(index)
    if any(flow.names.varies(flow.labels(x), dim) for dim in dims):
        raise Stays("channels picked by their numbers")
    return call.func(flow.labels(x), *call.args[1:], **call.kwargs)  # type: ignore[no-any-return]


def _picked(index: Sequence[Tensor | None]) -> list[int]:
    """The dimensions along which the tensors of an index pick; a mask picks along as many as it has."""
    dims: list[int] = []
    for dim, i in enumerate(index):
        first = dim + sum(j.ndim - 1 for j in index[:dim] if _is_mask(j))
        if i is not None:
            dims += range(first, first + (i.ndim if _is_mask(i) else 1))
    return dims


def _is_mask(index: Tensor | None) -> TypeGuard[Tensor]:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _rolled(flow: Flow, call: Call) -> Labels:
    (x,), dims = call.ins, call["dims"] or range(call.ins[0].ndim)
    if any(flow.names.varies(flow.labels(x), dim) for dim in dims):
        raise Stays("channels rolled by a fixed number")
    return _executed(flow, call)


def _pixel_shuffled(flow: Flow, call: Call) -> Labels:
    """The channels that become the positions of one are removed together."""
    (x,), factor = call.ins, call["upscale_factor"]
    channels = flow.names.along(flow.labels(x), -3).view(-1, factor**2)
    flow.names.merge(channels[:, :1].expand_as(channels), channels, "pixel shuffle of different kinds")
    return flow.names.roots(_executed(flow, call))  # type: ignore[arg-type]


def _channels_shuffled(flow: Flow, call: Call) -> Labels:
    """The same place of each group is removed together."""
    (x,), groups = call.ins, call["groups"]
    channels = flow.names.along(flow.labels(x), 1).view(groups, -1)
    flow.names.merge(channels[:1].expand_as(channels), channels, "channel shuffle of different kinds")
    return _executed(flow, call)


def _over_positions(flow: Flow, call: Call) -> Labels:
    """Pooling, up- and downsampling, reflection: each channel by itself, whatever it does to the positions."""
    spatial = int((re.findall(r"(\d)d", call.name) or ["2"])[0])
    tops: list[Tensor] = []
    for x in call.ins:
        if x.ndim > spatial and (not tops or x.shape[:-spatial] == call.ins[0].shape[:-spatial]):
            flat = flow.names.roots(flow.labels(x).flatten(-spatial))
            top = flat.amax(-1, keepdim=True)
            if not bool(((flat == top) | (flat == ANYBODY)).all()):
                raise Stays(f"{call.name.strip('_')} over channels")
            tops.append(top)
    for other in tops[1:]:
        flow.names.merge(flow.names.core(tops[0]), flow.names.core(other), "two kinds of channels meet")
    return tops[0].view(*tops[0].shape[:-1], *[1] * spatial)


def _reduced(flow: Flow, call: Call) -> Labels:
    """A sum, a mean, a largest number over positions; not over channels."""
    if len(call.ins) > 1:
        return pointwise(flow, call)
    (x,), dims = call.ins, call["dim"]
    dims = range(x.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    labels = flow.labels(x)
    for dim in dims:
        if flow.names.varies(labels, dim):
            raise Stays(f"{call.name.removeprefix('linalg_vector_')} over channels")
        labels = labels.amax(dim, keepdim=True)
    return labels if call["keepdim"] else labels.squeeze([dim % x.ndim for dim in dims])


def _along_one(flow: Flow, call: Call) -> Labels:
    """The numbers along one dimension are mixed; it must not be that of the channels."""
    if flow.names.varies(flow.labels(call.ins[0]), call["dim"]):
        raise Stays(f"{call.name.strip('_')} over channels")
    return flow.labels(call.ins[0])


def _copied(flow: Flow, call: Call) -> Labels:
    """The names come with the numbers; those that a parameter or a buffer had before stay, too."""
    target, source = call.ins[:2]
    return pointwise(flow, call) if flow.is_state(target) else flow.labels(source)


def _acts_on_each_number(call: Call) -> bool:
    """Whether an operation on one tensor is seen to change each of its numbers by itself."""
    if len(call.ins) != 1 or not call.ins[0].is_floating_point():
        return False
    func: Callable[..., Any] | None = call.func
    if call.func._schema.is_mutable:  # try what does the same, without writing in place
        func = getattr(getattr(torch.ops.aten, call.name, None), call.func._overloadname, None)
    if func is None:
        return False
    x, y = call.ins[0], call.outs[0] if call.outs else None
    if y is None or y.shape != x.shape or x.numel() < 2 or call.args[0] is not x:
        return False
    generator = torch.Generator().manual_seed(0)
    scale = 10 ** torch.empty(x.shape).uniform_(-3, 3, generator=generator)
    one = (scale * torch.randn(x.shape, generator=generator)).to(x)
    changed = (torch.rand(x.shape, generator=generator) < 0.5).to(x.device)
    other = torch.where(changed, 1000 * torch.randn(x.shape, generator=generator).to(x), one)
    try:
        before, after = (next(iter(_tensors(func(z, *call.args[1:], **call.kwargs)))) for z in (one, other))
        again = next(iter(_tensors(func(one.flatten().flip(0).view(x.shape), *call.args[1:], **call.kwargs))))
    except (RuntimeError, TypeError, ValueError):
        return False
    alike = torch.equal(before[~changed], after[~changed])
    return alike and torch.equal(before.flatten().flip(0).view(x.shape), again)


def _tensors(value: object) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [v for v in value if isinstance(v, Tensor)]  # type: ignore[attr-defined]


def _entries(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_entries(_moved, "alias detach expand lift_fresh movedim permute squeeze t transpose unsqueeze view_as"),
    **_entries(_reshaped, "view reshape unflatten _unsafe_view _reshape_alias"),
    **_entries(_slice, "slice select narrow"),
    **_entries(_split, "split split_with_sizes chunk unbind"),
    **_entries(_executed, "flip repeat pixel_unshuffle rot90"),
    **_entries(
        _kept, "fill zero bernoulli uniform normal exponential random empty_like zeros_like ones_like full_like"
    ),
    **_entries(_kept, "rand_like randn_like _to_copy contiguous"),
    **_entries(_cat, "cat stack"),
    **_entries(_indexed, "index index_select"),
    **_entries(_along_one, "_softmax _log_softmax cumsum cumprod cummax cummin logcumsumexp sort"),
    "constant_pad_nd": _padded,
    "roll": _rolled,
    "pixel_shuffle": _pixel_shuffled,
    "channel_shuffle": _channels_shuffled,
    "native_channel_shuffle": _channels_shuffled,
    "glu": _glu,
    "copy": _copied,
    "_prelu_kernel": pointwise,
}
KINDS: list[tuple[re.Pattern[str], Rule]] = [
    (re.compile(r"_?\w*pool\dd\w*|_?upsample_\w+|(reflection|replication)_pad\dd"), _over_positions),
    (re.compile(r"mean|sum|amax|amin|max|min|var|std|prod|logsumexp|linalg_vector_norm|(var|std)_mean"), _reduced),
]
