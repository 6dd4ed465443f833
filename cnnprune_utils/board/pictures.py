"""Pictures under closed gates: the feature maps of every filter, and the answers that change."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..batches import Batches, Split
from ..exhaustive import end_of, reading, terms
from ..gates import gated


class Pictures:
    """The outputs for ``split`` under any closed gates, fast enough to follow a switch.

    The last layer's filters add up to the outputs, so their contributions are kept for each state of the other layers:
    switching the last layer is a sum, and switching another layer is one pass, the first time.

    Args:
        model: as :func:`cnnprune_utils.exhaustive.all_subnetworks` takes it; unchanged.
        split: some hundred images, on the model's device.
    """

    def __init__(self, model: nn.Module, split: Split) -> None:
        self._network = gated(model, split.inputs[:2])
        last, self._linear = end_of(self._network)
        self._last, self._split = last.name, split
        self._structure = self._network.structure
        self._layers = {layer.name: layer.out_channels for layer in self._structure.layers.values()}
        self._kept: dict[int, Tensor] = {}
        self._bits = {name: slice(first, first + n) for name, n, first in self._places()}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, Tensor] = {}
        for name in self._layers:
            self._network.network.get_submodule(name).register_forward_hook(partial(self._note_size, name))

    def _places(self) -> list[tuple[str, int, int]]:
        first, places = 0, []
        for name, n in self._layers.items():
            places.append((name, n, first))
            first += n
        return places

    def __len__(self) -> int:
        return len(self._split)

    @torch.no_grad()
    def outputs(self, closed: int) -> Tensor:
        """Return the network's outputs with these gates closed, (n, classes); ``closed`` as in :mod:`.facts`."""
        open_ = self._open(closed)
        end = open_.pop(self._last)
        front = closed & ~sum(1 << i for i in range(*self._bits[self._last].indices(64)))
        if front not in self._kept:
            for name, values in {**open_, self._last: torch.ones_like(end)}.items():
                self._network.gates[name].values = values
            with reading(self._network, self._linear) as read:
                features = torch.cat([read(batch) for batch in Batches(self._split, 250)])
            self._kept[front] = terms(features, self._linear, len(end))
        sums = self._kept[front]
        kept = torch.cat([end.new_ones(1), end])
        return (kept @ sums.flatten(1)).view(sums.shape[1:]).T

    def answers(self, closed: int) -> NDArray[np.int64]:
        """Return the class of the highest output for each picture, (n,)."""
        answers: NDArray[np.int64] = self.outputs(closed).argmax(1).cpu().numpy()
        return answers

    @torch.no_grad()
    def maps(self, picture: int, closed: int) -> list[NDArray[np.float32]]:
        """Return the feature map of every filter for one picture, before its own gate, as (height, width)."""
        for name, values in self._open(closed).items():
            self._network.gates[name].values = values
        self._network.on_read = self._note_maps
        self._network(self._split.inputs[picture : picture + 1])
        self._network.on_read = None
        maps = []
        for name in self._layers:
            seen = self._seen[name].reshape(self._layers[name], -1).float().cpu().numpy()
            height, width = self._sizes[name]
            if height * width != seen.shape[1]:  # pooled on the way to the gate
                side = round(seen.shape[1] ** 0.5)
                height, width = (side, side) if side * side == seen.shape[1] else (1, seen.shape[1])
            maps += list(seen.reshape(-1, height, width))
        return maps

    def image(self, picture: int) -> NDArray[np.uint8]:
        """Return one picture as grey bytes, (height, width)."""
        return grey(self._split.inputs[picture].mean(0).float().cpu().numpy(), 1.0)

    def label(self, picture: int) -> int:
        return int(self._split.targets[picture])

    def _open(self, closed: int) -> dict[str, Tensor]:
        like = self._linear.weight
        every = torch.tensor([float(~closed >> i & 1) for i in range(sum(self._layers.values()))]).to(like)
        return {name: every[bits] for name, bits in self._bits.items()}

    def _note_size(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        height, width = output.shape[-2:]
        self._sizes[name] = int(height), int(width)

    def _note_maps(self, reader: tuple[str, int], x: Tensor, dim: int) -> None:
        channels = self._structure.readers[reader]
        for name, filters in self._structure.by_layer(torch.arange(self._structure.n_filters)).items():
            if bool((mine := torch.isin(channels, filters)).any()):
                self._seen[name] = x[0].movedim(dim, 0)[mine]


def grey(numbers: NDArray[np.float32], most: float) -> NDArray[np.uint8]:
    """Return the numbers, from 0 to ``most``, as bytes from 0 to 255; others are clipped."""
    return np.round(np.clip(numbers / most if most > 0 else numbers * 0, 0, 1) * 255).astype(np.uint8)
