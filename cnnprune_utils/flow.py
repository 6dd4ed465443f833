"""How names flow through a network while it runs on an example.

Two modes of PyTorch watch the run: a ``TorchFunctionMode`` sees the layers (convolutions, linear layers, BatchNorm), a
``TorchDispatchMode`` every other operation, under its ATen name. Labels lie beside the numbers, in the same order in
memory, so views, and writes through them, need no rule: they move and write the names as well. Each other kind of
operation has a short rule in :mod:`.rules`; one that has none freezes the names that it reads, and is the reason.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .calls import Read, layer_name, read_of, tensor_names
from .names import ANYBODY, NOBODY, Names, Stays
from .rules import Call, apply, inferred_dim

_NORMS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training"),
    F.instance_norm: ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats"),
    torch.instance_norm: ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats"),
}
"""Normalisations channel by channel, with the names of their arguments."""
_ADDRESSES = {"data_ptr", "untyped_storage", "storage"}
_LEAVING = {"numpy", "tolist", "__array__", "__dlpack__", *_ADDRESSES}
"""Methods behind which PyTorch does not see what happens to the numbers."""
_LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, sys.modules[__package__]))


class Undecided(ValueError):
    """The branch that forward takes depends on the numbers that pass, so one run does not show the whole network."""


class Flow:
    """What one network does to names, in all of its runs so far.

    Attributes:
        names: all names that were met, merged and frozen.
        producers: weight of a convolution -> the names on its output channels, in the order of the first calls in eval
            mode; depthwise convolutions are not among them.
        written: the same of linear layers, too.
        outputs: weight -> its dimension of output channels.
        readings: (weight, its dimension for what it reads) -> the labels of the input channels, in eval mode.
        depthwise: weights of depthwise convolutions.
        computed: layers whose weight is computed from other tensors, with the reason why their filters stay.
        batch_statistics: layers that normalise with the statistics of the batch in eval mode.
        overwritten: the readings whose input forward writes to afterwards, in place.
        output: the weight whose layer gives the network's whole output, or an empty text.
        inferred: the dimension whose size the present view, reshape or unflatten leaves open.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = Names()
        self.producers: dict[str, Tensor] = {}
        self.written: dict[str, Tensor] = {}
        self.outputs: dict[str, int] = {}
        self.depthwise: list[str] = []
        self.readings: dict[tuple[str, int], Tensor] = {}
        self.batch_statistics: list[str] = []
        self.computed: dict[str, str] = {}
        self.overwritten: set[tuple[str, int]] = set()
        self.output = ""
        self.busy = False
        self.inferred: int | None = None

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the model, follow the names through it, and return its outputs.

        Raises:
            Undecided: a branch depends on the numbers.
        """
        self._paths: dict[int, str] = {id(module): name for name, module in reversed([*self.model.named_modules()])}
        self._tensors = tensor_names(self.model)
        self._labels: dict[int, tuple[Tensor, int]] = {}  # of each storage, with the bytes of one of its numbers
        self._named: set[int] = set()  # storages that hold names
        self._fitting: set[int] = set()  # storages of constants that fit every name, such as zeros
        self._fed: set[int] = set()  # storages that depend on the input
        self._matrices: dict[int, str] = {}  # storages of parameters of several dimensions
        self._state: set[int] = set()
        self._reads: dict[int, set[tuple[str, int]]] = {}  # who has read a storage, in eval mode
        self._made: dict[int, str] = {}  # storages that hold what a layer wrote, and nothing else
        self._alive: list[Tensor] = []  # else another tensor could get the same place in memory
        self.undecided = ""
        self._place_state()
        for tensor in tensors_in((args, kwargs)):
            self._put(tensor, torch.full(tensor.shape, NOBODY))
            self._fed.add(storage_of(tensor))
        with _Layers(self), _Operations(self):
            outputs = self.model(*args, **kwargs)
        if self.undecided:  # forward may have caught the error
            raise Undecided(self.undecided)
        found = [tensor for tensor in tensors_in(outputs) if tensor.numel()]
        if not self.model.training:
            self.output = self._made.get(storage_of(found[0]), "") if len(found) == 1 else ""
        for tensor in found:
            self.names.freeze(self.labels(tensor), "its feature map is part of the network's output")
        self._alive.clear()
        return outputs

    # What lies where

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of ``tensor``, in its shape; they are views where the tensors are."""
        flat, size = self._labels.get(storage_of(tensor), (None, 0))
        if flat is None or tensor.numel() == 0:
            return torch.full(tensor.shape, NOBODY)
        if size != tensor.element_size():
            self.names.freeze(flat, f"its bytes are read as other numbers in {self.where()}")
            return torch.full(tensor.shape, NOBODY)
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def is_matrix(self, tensor: Tensor) -> str:
        """Return the name of the parameter of several dimensions whose numbers ``tensor`` has, or an empty text."""
        return self._matrices.get(storage_of(tensor), "")

    def is_whole(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a parameter as it stands in the network, and not a view of it."""
        return any(x is tensor for x in self._state_tensors()) or any(
            x.data_ptr() == tensor.data_ptr() and x.shape == tensor.shape and x.stride() == tensor.stride()
            for x in self._state_tensors()
        )

    def is_state(self, tensor: Tensor) -> bool:
        """Whether the numbers of ``tensor`` are those of a parameter or a buffer."""
        return storage_of(tensor) in self._state

    def where(self) -> str:
        """Return the innermost module that runs, by its name in the network, such as ``stage2.norm``."""
        for frame in _frames():
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and (path := self._paths.get(id(module))):
                return path
        return f"{type(self.model).__name__}.forward"

    def _put(self, tensor: Tensor, labels: Tensor) -> None:
        key, size = storage_of(tensor), tensor.element_size()
        if tensor.layout is not torch.strided:
            self._alive.append(tensor)
            self.names.freeze(labels, f"a sparse tensor is made of it in {self.where()}")
            return
        if tensor.numel() == 0:
            return
        if key not in self._labels:
            count = tensor.untyped_storage().nbytes() // size
            self._labels[key] = torch.full((count,), ANYBODY), size
        self._alive.append(tensor)
        self.labels(tensor).copy_(labels)
        if bool((labels > 0).any()):
            self._named.add(key)

    def _place_state(self) -> None:
        """A vector of parameters carries its own names; a matrix has names along each dimension, and none by itself."""
        storages = Counter(storage_of(tensor) for tensor in self._state_tensors() if tensor.numel())
        for tensor in self._state_tensors():
            name = self._tensors[id(tensor)]
            if not tensor.numel() or tensor.layout is not torch.strided:
                continue
            key, long = storage_of(tensor), [dim for dim, size in enumerate(tensor.shape) if size > 1]
            self._state.add(key)
            if storages[key] > 1:
                self.freeze_matrix(name, f"{name} shares its memory with another parameter")
            if len(long) == 1:
                shape = [size if dim == long[0] else 1 for dim, size in enumerate(tensor.shape)]
                self._put(tensor, self.names.of(name, long[0], tensor.shape[long[0]]).view(shape))
            elif len(long) > 1:
                self._matrices[key] = name

    def _state_tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def freeze_matrix(self, name: str, why: str) -> None:
        """Nothing along any dimension of the parameter ``name`` can be removed."""
        whole = next(tensor for tensor in self._state_tensors() if self._tensors[id(tensor)] == name)
        for dim, size in enumerate(whole.shape):
            self.names.freeze(self.names.of(name, dim, size), why)

    # Layers

    def layer(self, read: Read, out: Tensor) -> None:
        """A convolution or a linear layer: it reads names along its input, and writes its own."""
        x, fed = self.labels(read.input), storage_of(read.input) in self._fed
        weight = self._tensors.get(id(read.weight))
        try:
            channels = self.names.along(x, read.channel_dim)
        except Stays as reason:
            self.names.freeze(x, f"{reason} in {self.where()}")
            channels = torch.full((read.in_channels,), NOBODY)
        if weight is None:
            why = f"the weight of {self.where()} is computed from other tensors"
            self.names.freeze(channels, why)
            self.computed.setdefault(self.where(), why)
            self._finish(out, torch.full(out.shape, NOBODY), fed)
            return
        written = self._write(read, weight, channels)
        if read.bias is not None:
            self._hold(read.bias, written)
        shape = [1] * out.ndim
        shape[read.channel_dim] = len(written)
        self._finish(out, written.view(shape).expand(out.shape), fed)
        self._made[storage_of(out)] = weight

    def _write(self, read: Read, weight: str, channels: Tensor) -> Tensor:
        """The names on the output channels of a layer that reads ``channels``."""
        shape, groups, name = read.weight.shape, read.groups, layer_name(weight)
        if read.is_depthwise:  # weight: (channels * multiplier, 1, ...), or (channels, multiplier, ...)
            self.depthwise.append(weight)
            own = self.names.of(weight, 0, shape[0])
            rows = channels if read.transposed else channels.repeat_interleave(shape[0] // groups)
            self.names.merge(own, rows, f"{name} is depthwise, and reads numbers that no filter makes")
            return own.repeat_interleave(shape[1]) if read.transposed else own
        ins, outs = read.in_dim, 1 - read.in_dim
        why = f"{name} also reads numbers that no filter makes"
        self._same_place_of_each_group(channels, groups, why)
        columns = self.names.of(weight, ins, shape[ins])
        for part in channels.view(-1, shape[ins]):
            self.names.merge(columns, part, why)
        own = self.names.of(weight, outs, shape[outs])
        written = own.repeat(groups) if read.transposed else own
        self._same_place_of_each_group(written, groups, why)
        if not self.model.training:  # what only trains can be removed with others, but is not scored
            self._reads.setdefault(storage_of(read.input), set()).add((weight, read.in_dim))
            self.readings[weight, read.in_dim] = columns.repeat(read.in_channels // len(columns))
            self.written.setdefault(weight, written)
            self.outputs.setdefault(weight, outs)
            if read.spatial:
                self.producers.setdefault(weight, written)
        return written

    def _same_place_of_each_group(self, channels: Tensor, groups: int, why: str) -> None:
        first, *others = channels.view(groups, -1)
        for group in others:
            self.names.merge(first, group, why)

    def norm(self, given: Mapping[str, Any], out: Tensor) -> None:
        """A normalisation channel by channel, which holds numbers for each."""
        x = given["input"]
        labels = self.labels(x)
        parts = [given.get(part) for part in ("weight", "bias", "running_mean", "running_var")]
        try:
            channels = self.names.along(labels, 1)
        except Stays as reason:
            self.names.freeze(labels, f"{reason} in {self.where()}")
            channels = torch.full((x.shape[1],), NOBODY)
        for part in parts:
            if part is not None:
                self._hold(part, channels)
        if not self.model.training and "training" in given and (given["training"] or parts[2] is None):
            self.batch_statistics.append(self.where())
        self._finish(out, labels, storage_of(x) in self._fed)

    def unchanged(self, x: Tensor, out: Tensor) -> None:
        """The result has the names of ``x``: dropout."""
        if storage_of(out) != storage_of(x):
            self._finish(out, self.labels(x), storage_of(x) in self._fed)

    def gone(self, x: Tensor, how: str) -> None:
        """The numbers go where no mode sees them."""
        if storage_of(x) in self._fed and how not in _ADDRESSES:
            self._decides()
        self.names.freeze(self.labels(x), f"its numbers leave PyTorch by {how} in {self.where()}")
        if name := self.is_matrix(x):
            self.freeze_matrix(name, f"{layer_name(name)} leaves PyTorch by {how} in {self.where()}")

    def _hold(self, tensor: Tensor, labels: Tensor) -> None:
        """``tensor`` has a number for each of ``labels``."""
        name = self._tensors.get(id(tensor))
        if name is None:
            why = f"parameters of {self.where()} are computed from other tensors"
            self.names.freeze(labels, why)
            self.names.freeze(self.labels(tensor), why)
            return
        why = f"{layer_name(name)} also belongs to numbers that no filter makes"
        self.names.merge(self.names.of(name, 0, tensor.shape[0]), labels, why)

    def _finish(self, out: Tensor, labels: Tensor, fed: bool) -> None:
        self._put(out, labels)
        self._made.pop(storage_of(out), None)
        if fed:
            self._fed.add(storage_of(out))

    # Operations

    def operation(self, call: Call) -> None:
        """An operation that is no layer: its results have the names that its rule gives them."""
        storages = {storage_of(x) for x in call.ins}
        fed = bool(storages & self._fed)
        self._alive += call.outs
        asked = tensors_in(call["indices"]) if call.name == "index" else call.ins
        if call.depends_on_numbers and any(storage_of(x) in self._fed for x in asked):
            self._decides()
        written = call.func._schema.is_mutable
        constant = not fed and not written and all(bool((self.labels(x) == ANYBODY).all()) for x in call.ins)
        followed = (self._named, self._matrices.keys(), self._fitting)
        if constant and (call.draws or not any(map(_varies, call.outs))):
            results = [torch.full(y.shape, ANYBODY) for y in call.outs]
            self._fitting.update(map(storage_of, call.outs))
        elif any(not storages.isdisjoint(kind) for kind in followed):
            try:
                results = apply(self, call)
            except Stays as reason:
                for x in call.ins:
                    self.names.freeze(self.labels(x), f"{reason} in {self.where()}")
                results = [torch.full(y.shape, NOBODY) for y in call.outs]
        else:
            results = [torch.full(y.shape, NOBODY) for y in call.outs]
        for y, labels in zip(call.outs, results, strict=True):
            if written:
                self.overwritten |= self._reads.get(storage_of(y), set())
            if written or storage_of(y) not in storages:
                self._finish(y, labels, fed)

    def _decides(self) -> NoReturn:
        self.undecided = (
            f"forward decides by the numbers that pass, at {user_line()}. Pruning needs the same graph for every "
            "input: move that branch out of forward, or prune the part without it."
        )
        raise Undecided(self.undecided)


class _Layers(TorchFunctionMode):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flow, kwargs = self.flow, kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("view", "reshape", "unflatten") and not flow.busy:
            flow.inferred = inferred_dim(name, args, kwargs)
            try:
                return func(*args, **kwargs)
            finally:
                flow.inferred = None
        if flow.busy or (name not in _LEAVING and not (known := _knows(func, name, args, kwargs))):
            return func(*args, **kwargs)
        if name in _LEAVING:
            if args and isinstance(args[0], Tensor):
                flow.gone(args[0], name)
            return func(*args, **kwargs)
        if any(map(is_functorch_wrapped_tensor, tensors_in((args, kwargs)))):
            raise ValueError(
                "a layer runs inside torch.vmap or another transform of torch.func. Call it on the whole batch"
            )
        with _busy(flow), _disable_current_modes():
            out = func(*args, **kwargs)
            if known is None:
                pass
            elif isinstance(known, Read):
                flow.layer(known, out)
            elif func in _NORMS:
                flow.norm(known, out)
            else:
                flow.unchanged(known["input"], out)
        return out


def _knows(func: Any, name: str, args: Any, kwargs: Any) -> Read | dict[str, Any] | None:
    """The arguments of a function that is followed as a whole."""
    if (read := read_of(func, args, kwargs)) is not None:
        return read
    if func in _NORMS:
        return {**dict(zip(_NORMS[func], args, strict=False)), **kwargs}
    is_dropout = name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    return {"input": kwargs.get("input", args[0] if args else None)} if is_dropout else None


class _Operations(TorchDispatchMode):
    def __init__(self, flow: Flow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = flow

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler for the first operation, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.flow.busy:
            with _busy(self.flow):
                ins, outs = [*tensors_in((args, kwargs))], [*tensors_in(out)]
                self.flow.operation(Call(func, args, kwargs, ins, outs))
        return out


@contextmanager
def _busy(flow: Flow) -> Iterator[None]:
    """What runs inside is not part of the network."""
    flow.busy = True
    try:
        yield
    finally:
        flow.busy = False


def _varies(constant: Tensor) -> bool:
    return (
        constant.numel() > 1
        and constant.layout is torch.strided
        and not bool((constant == constant.flatten()[0]).all())
    )


def storage_of(tensor: Tensor) -> int:
    """Return a number that tensors share if they share their memory; a sparse tensor has memory of its own."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else -id(tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, mappings, dataclasses and plain objects, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif not isinstance(value, (type, nn.Module)) and hasattr(value, "__dict__"):
        for part in vars(value).values():
            if isinstance(part, (Tensor, Mapping, tuple, list)):
                yield from tensors_in(part)


def user_line() -> str:
    """Return the file and the line of the user's code that runs, such as ``net.py, line 17``."""
    return _named_line((frame.f_code.co_filename, frame.f_lineno) for frame in _frames())


def user_frame(error: BaseException) -> str:
    """Return the innermost line of the user's code that raised ``error``, as :func:`user_line` does."""
    frames = traceback.extract_tb(error.__traceback__)
    return _named_line((frame.filename, frame.lineno or 0) for frame in reversed(frames))


def _named_line(lines: Iterable[tuple[str, int]]) -> str:
    for file, number in lines:
        if not file.startswith((*_LIBRARIES, "<frozen")):
            code = linecache.getline(file, number).strip()
            return f"{Path(file).name}, line {number}" + (f" ({code})" if code else "")
    return "a line that is not known"


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
