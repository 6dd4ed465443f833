"""A gate on every filter: a number that multiplies its feature map, where a layer reads it.

Open (1), it changes nothing. Closed (0), the filter is gone, for every layer that reads it. The slope of the loss at 1
says, to first order, what closing the gate would cost: ``C(0) - C(1) ~ -dC/dg``.

The network's own forward runs; a ``TorchFunctionMode`` multiplies the inputs of convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from .batches import Batch, Batches, Data
from .calls import Read, layer_name, read_of, with_input
from .cutting import copy_of
from .example import untouched
from .losses import Loss, of_each
from .plan import Plan
from .structure import Structure, analyse
from .training import fastest_layout


class Gate:
    """One number for each filter of a layer.

    Attributes:
        values: shape (out_channels,), or (n, out_channels) for gates of their own for each example. Starts at ones.
        positions: M, how many numbers of one filter a layer reads for one example: the positions of its feature map,
            behind whatever pooling stands between. Those of the last pass of slopes; where several layers read the
            filter, the largest counts.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.positions = 0


class GatedNetwork(nn.Module):
    """A network with a :class:`Gate` on every prunable layer: ``gates[layer].values`` opens and closes them.

    It shares its parameters with the model that it was made from, and it stays in eval mode: it measures, and never
    trains. With open gates it computes what the model does, bit for bit.

    Attributes:
        network: a copy of the model, with the same parameters.
        structure: which filters the gates stand for.
        on_read: called with each reader (a key of ``structure.readers``), its input before the gates, and the
            dimension of its channels, in every forward pass; None for nobody.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        if not structure.layers:
            why = "; ".join(f"{name}: {why}" for name, why in structure.skipped.items()) or "it has no convolution"
            raise ValueError(f"no filter of {type(model).__name__} can be removed: {why}.")
        self.network = copy_of(model, shared=True)
        self.structure = structure
        self.on_read: Callable[[tuple[str, int], Tensor, int], None] | None = None
        like = next(p for p in self.network.parameters() if p.is_floating_point()).detach()
        self.gates = {name: Gate(like.new_ones(layer.out_channels)) for name, layer in structure.layers.items()}
        self._find_readers()
        n = structure.n_filters  # the number of the gate that is always open
        self._filters = {
            reader: torch.where(filters < 0, n, filters).to(like.device)
            for reader, filters in structure.readers.items()
        }
        self._runs = {reader: _run_of(filters) for reader, filters in self._filters.items()}
        self._columns = {reader: self._columns_of(filters) for reader, filters in structure.readers.items()}
        self.eval()

    def _find_readers(self) -> None:
        """Readers are known by their weights, which are others in a copy."""
        tensors: dict[str, Tensor] = {
            **dict(self.network.named_parameters(remove_duplicate=False)),
            **dict(self.network.named_buffers(remove_duplicate=False)),
        }
        self._readers = {(id(tensors[weight]), dim): (weight, dim) for weight, dim in self.structure.readers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._find_readers()

    def _columns_of(self, filters: Tensor) -> dict[str, int]:
        """Layer -> how many channels of a reader belong to one of its filters, at most."""
        counts = torch.bincount(filters[filters >= 0], minlength=self.structure.n_filters)
        most = {name: int(n.max()) for name, n in self.structure.by_layer(counts).items() if n.numel()}
        return {name: n for name, n in most.items() if n}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        gating = _Gating(self)
        if gating.open and not gating.values.requires_grad and self.on_read is None:
            return self.network(*args, **kwargs)
        with gating:
            return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> GatedNetwork:
        if mode:
            raise RuntimeError("a gated network only measures; train the model itself, or the one that prune returns.")
        super().train(False)
        return self


class _Gating(TorchFunctionMode):
    """Multiplies what the layers of one forward pass read by the gates."""

    def __init__(self, gated: GatedNetwork) -> None:
        super().__init__()
        self.gated = gated
        values = [gate.values for gate in gated.gates.values()]
        rows = max((len(v) for v in values if v.ndim == 2), default=0)
        if rows:
            values = [v if v.ndim == 2 else v.expand(rows, -1) for v in values]
        always = values[0].new_ones(*values[0].shape[:-1], 1)
        self.values = torch.cat([*values, always], -1)  # the last one is for channels that no gate closes
        self.open = bool((self.values == 1).all())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = read_of(func, args, kwargs)
        reader = self.gated._readers.get((id(read.weight), read.in_dim)) if read is not None else None
        if read is None or reader is None:
            return func(*_in_order(func, args, self.values.requires_grad), **kwargs)
        if self.gated.on_read is not None:
            self.gated.on_read(reader, read.input, read.channel_dim)
        if self.open and not self.values.requires_grad:
            return func(*args, **kwargs)
        if self.values.requires_grad and not torch.is_grad_enabled():
            raise ValueError(
                f"{layer_name(reader[0])} is read without gradients, under torch.no_grad or in a reentrant checkpoint, "
                "so there are no slopes behind it: leave these out of forward while it is scored."
            )
        self._count(read, reader)
        x = read.input  # which the slopes need as it is now
        x = x.clone() if reader in self.gated.structure.overwritten else x
        filters, run = self.gated._filters[reader], self.gated._runs[reader]
        x = _multiply(x, read.channel_dim, self.values, filters, run, self.open)
        args, kwargs = with_input(read, x, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, read: Read, reader: tuple[str, int]) -> None:
        examples = len(self.values) if self.values.ndim == 2 else len(read.input)
        each = read.input.numel() // (read.in_channels * max(1, examples))
        for name, columns in self.gated._columns[reader].items():
            gate = self.gated.gates[name]
            gate.positions = max(gate.positions, columns * each)


def _run_of(filters: Tensor) -> int:
    """How many channels of one filter lie side by side, the same number for all; 1 if they lie otherwise.

    A linear layer behind a flatten reads all positions of one filter in a row: 784 numbers that add up fast, where to
    place each by its index takes longer than the layer itself.
    """
    _, counts = torch.unique_consecutive(filters, return_counts=True)
    return int(np.gcd.reduce(counts.cpu().numpy())) if counts.numel() else 1


def _multiply(x: Tensor, dim: int, values: Tensor, filters: Tensor, run: int, is_open: bool) -> Tensor:
    gated: Tensor = _Multiply.apply(x, values, filters, dim, run, is_open)
    return gated


class _Multiply(torch.autograd.Function):
    """``x * g``, channel by channel. Where all gates are open it only passes ``x`` on, and still knows the slopes.

    The slope along a gate is the sum of ``x * dC/dx`` over the filter's numbers: nothing needs to be kept for it but
    ``x``, which the layer keeps as well. Each reader has a node of its own in the graph, so what reaches ``x`` along
    other ways is not counted twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, filters: Tensor, dim: int, run: int, is_open: bool) -> Tensor:
        ctx.save_for_backward(x, values, filters)
        ctx.dim, ctx.run, ctx.is_open = dim, run, is_open
        return x.view_as(x) if is_open else x * _shaped(values[..., filters], x, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (x, values, filters) = gradients, ctx.saved_tensors
        to_x = to_values = None
        if ctx.needs_input_grad[0]:
            to_x = gradient if ctx.is_open else gradient * _shaped(values[..., filters], x, ctx.dim)
        if ctx.needs_input_grad[1]:
            dim = ctx.dim % x.ndim
            others = [d for d in range(x.ndim) if d not in (0, dim)] if dim else []
            slopes = (x * gradient).sum(others) if others else x * gradient  # (rows, channels)
            if values.ndim == 2 and len(values) == 1:
                slopes = slopes.sum(0, keepdim=True)
            if values.ndim == 1:
                slopes = slopes.sum(0)
            elif len(slopes) != len(values):
                raise _RowsAreNotExamples
            if ctx.run > 1:
                slopes, filters = slopes.unflatten(-1, (-1, ctx.run)).sum(-1), filters[:: ctx.run]
            to_values = torch.zeros_like(values).index_add_(-1, filters, slopes.to(values.dtype))
        return to_x, to_values, None, None, None, None


_FLATTENING = {torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape}


def _in_order(func: Any, args: Any, slopes: bool) -> Any:
    """The arguments of a call; a map that a flatten copies gets its gradient back in its own order of memory.

    Else the layers before it work on two orders at once, for which PyTorch has only slow kernels: 11 ms for the
    gradient of a ReLU that takes 1. The numbers are the same.
    """
    if not slopes or func not in _FLATTENING or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return args
    if args[0].is_contiguous() or not args[0].is_contiguous(memory_format=torch.channels_last):
        return args
    return (_GradientInOrder.apply(args[0]), *args[1:])


class _GradientInOrder(torch.autograd.Function):
    """``x``, whose gradient comes with channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].contiguous(memory_format=torch.channels_last)


class _RowsAreNotExamples(RuntimeError):
    """A layer reads another number of rows than there are examples: frames, pairs, patches."""


def _shaped(gates: Tensor, x: Tensor, dim: int) -> Tensor:
    """Gates (channels,) or (n, channels) in a shape that multiplies ``x``, whose channels lie along ``dim``."""
    shape = [1] * x.ndim
    shape[dim] = gates.shape[-1]
    if gates.ndim == 2:
        if len(gates) not in (1, len(x)):
            raise _RowsAreNotExamples
        shape[0] = len(gates)
    return gates.view(shape).to(x.dtype)


def gated(model: nn.Module, example: Any = None) -> GatedNetwork:
    """Return a network that computes what ``model`` does in eval mode, with an open gate on every prunable filter.

    Each gate multiplies at the input of every layer that reads the filter. ``model`` is unchanged.

    Args:
        model: any network.
        example: inputs that it takes: see :func:`.structure.prunable_layers`.

    Raises:
        ValueError: the network cannot be followed, or no filter can be removed.
    """
    return GatedNetwork(model, analyse(model, example))


def mask(model: nn.Module, plan: Plan, example: Any = None) -> GatedNetwork:
    """Return ``model`` with the plan's gates closed: the pruned network, simulated. A plan may empty a layer here.

    Raises:
        ValueError: the plan does not fit the model.
    """
    structure = analyse(model, example)
    structure.check(plan)
    network = GatedNetwork(model, structure)
    for name, filters in plan.remove.items():
        network.gates[name].values[list(filters)] = 0.0
    return network


@contextmanager
def closed(network: GatedNetwork, filters: Iterable[tuple[str, int]]) -> Iterator[None]:
    """The gates of these filters, (layer, number) each, are closed inside, and open afterwards, also after an error."""
    filters = list(filters)
    try:
        for name, k in filters:
            network.gates[name].values[k] = 0.0
        yield
    finally:
        for name, k in filters:
            network.gates[name].values[k] = 1.0


def gate_gradients(
    model: nn.Module, data: Data, *, loss: Loss = F.cross_entropy, batch_size: int = 256
) -> Iterator[dict[str, Tensor]]:
    """The slope of each example's loss along each gate, batch by batch.

    Every example gets gates of its own, so one backward pass of the summed loss gives all slopes, and no example sees
    another. Only gates are differentiated: no weight gradient is computed, and no ``.grad`` is touched. A network that
    folds something else into the rows of its batch (frames, pairs) is run example by example.

    Args:
        model: any model, or a :class:`GatedNetwork`: then the slopes are taken where its gates stand.
        data: the examples: :data:`.batches.Data`.
        loss: one number, or several, for each example: :data:`.losses.Loss`.
        batch_size: how many examples of a split at once; the result does not depend on it.

    Yields:
        Layer name -> dC_i/dg_k, shape (n, out_channels), for the n examples of a batch.

    Raises:
        ValueError: the loss does not return a number for each example, no gradient comes with it, or a layer
            normalises with the statistics of the batch.
    """
    batches = Batches.of(data, batch_size, model)
    network = gated_for(model, batches)
    with untouched(network):
        rows = _rows_are_examples(network, batches.first, loss)
        layout = fastest_layout(network, batches.first)
    for batch in batches:
        for some in [batch] if rows else batch.one_by_one():
            with untouched(network):  # and not while the caller works with the slopes
                slopes = _slopes(network, some.laid_out(layout), loss)
            yield slopes


def gated_for(model: nn.Module, batches: Batches) -> GatedNetwork:
    """Return the gated network to measure on ``batches``: ``model`` itself, if it is one.

    Raises:
        ValueError: a layer normalises with the statistics of the batch.
    """
    network = model if isinstance(model, GatedNetwork) else gated(model, batches.first.first(2).inputs)
    if network.structure.batch_statistics:
        raise ValueError(
            f"{', '.join(network.structure.batch_statistics)} normalises with the statistics of each batch, also in "
            "eval mode, so scores would depend on which examples come together: give it running statistics "
            "(track_running_stats=True), and train a little."
        )
    return network


def _slopes(network: GatedNetwork, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    standing = {name: gate.values for name, gate in network.gates.items()}
    own = {name: v.repeat(len(batch), 1).requires_grad_() for name, v in standing.items()}
    try:
        for name, values in own.items():
            network.gates[name].values, network.gates[name].positions = values, 0
        with torch.enable_grad():
            with (gating := _Gating(network)):
                outputs = batch.through(network.network)
            losses = of_each(loss, outputs, batch.targets, len(batch))
            if not losses.requires_grad:
                raise ValueError(
                    "the losses carry no gradient: compute them from the outputs by differentiable operations, "
                    "without detach, and outside torch.inference_mode()."
                )
            # A checkpoint runs a part of forward again, in the mode. Given tensors and not edges, grad would leave it.
            total, *gates = map(get_gradient_edge, (losses.sum(), *own.values()))
            with gating:
                found = torch.autograd.grad(total, gates, allow_unused=True)
    finally:
        for name, values in standing.items():
            network.gates[name].values = values
    # Copies: a caller who keeps the slopes would else keep large buffers of the backward pass from being freed.
    slopes = zip(own.items(), found, strict=True)
    return {name: torch.zeros_like(v) if slope is None else slope.clone() for (name, v), slope in slopes}


def _rows_are_examples(network: GatedNetwork, batch: Batch, loss: Loss) -> bool:
    """Whether two examples together have the slopes that one of them has alone."""
    if len(batch) < 2:
        return True
    try:
        both = _slopes(network, batch.first(2), loss)
        alone = _slopes(network, batch.first(1), loss)
    except _RowsAreNotExamples:
        return False
    except Exception:  # the first batch raises it again, and then it speaks of that batch
        return True
    return all(
        torch.allclose(
            both[n][0], alone[n][0], rtol=1e-3, atol=1e-3 * float(both[n].nan_to_num().abs().max()), equal_nan=True
        )
        for n in both
    )
