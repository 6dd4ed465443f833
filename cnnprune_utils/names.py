"""Names: which numbers of a network belong to the same filter.

Every place of a parameter or a buffer (tensor, dimension, index) has a name, a positive number. A convolution writes
the names of its filters on its outputs (see :mod:`.flow`); where names meet, they are *merged*: what they name is
removed together. Names that nothing may remove are *frozen*, with the reason.

A feature map's names are an integer tensor of its shape, its *labels*: a name, or 0 for a number that no filter makes,
or -1 for a number that fits every name, such as the zeros of a padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOBODY, ANYBODY = 0, -1


class Stays(Exception):
    """Why the names that are being followed cannot be removed."""


class Names:
    """A union of names, and the places that each of them stands for."""

    def __init__(self) -> None:
        self._parent = torch.arange(1024)
        self.count = 1  # 0 is nobody
        self._why: dict[int, str] = {}
        self.ids: dict[tuple[str, int], Tensor] = {}

    def of(self, tensor: str, dim: int, size: int) -> Tensor:
        """Return the names of ``tensor`` along ``dim``, shape (size,); the same ones in every call."""
        if (tensor, dim) not in self.ids:
            first, self.count = self.count, self.count + size
            while self.count > len(self._parent):
                self._parent = torch.cat([self._parent, torch.arange(len(self._parent), 2 * len(self._parent))])
            self.ids[tensor, dim] = torch.arange(first, self.count)
        return self.ids[tensor, dim]

    def roots(self, labels: Tensor) -> Tensor:
        """Return ``labels`` with each name replaced by the one that stands for all that it was merged with."""
        found = self._parent[labels.clamp(min=0)]
        while not torch.equal(after := self._parent[found], found):
            found = after
        return torch.where(labels > 0, found, labels)

    def merge(self, a: Tensor, b: Tensor, why: str) -> None:
        """Merge the names of ``a`` and ``b``, place by place; where one meets a number that nobody makes, freeze it."""
        a, b = (self.roots(x).flatten() for x in torch.broadcast_tensors(a, b))
        if bool((nobody := (a * b == 0) & (a + b > 0)).any()):
            self.freeze(torch.maximum(a, b)[nobody], why)
        apart = (a != b) & (a > 0) & (b > 0)
        if not bool(apart.any()):
            return
        low, high = torch.minimum(a, b)[apart], torch.maximum(a, b)[apart]
        if len(set(high.tolist())) == len(high) and not bool(torch.isin(high, low).any()):
            self._parent[high] = low  # all at once: no name is merged twice
            for one, other in zip(low.tolist(), high.tolist(), strict=True) if self._why else ():
                self._pass_on(one, other)
        else:
            for one, other in set(zip(low.tolist(), high.tolist(), strict=True)):
                self._unite(one, other)

    def freeze(self, labels: Tensor, why: str) -> None:
        """Nothing that ``labels`` name may be removed; the first reason is kept."""
        for name in set(self.roots(labels).flatten().tolist()):
            if name > 0:
                self._why.setdefault(name, why)

    def why(self, root: int) -> str:
        """Return the reason why what ``root`` stands for may not be removed, or an empty text."""
        return self._why.get(root, "")

    def _unite(self, a: int, b: int) -> None:
        a, b = sorted(self.roots(torch.tensor([a, b])).tolist())
        if a != b:
            self._parent[b] = a
            self._pass_on(a, b)

    def _pass_on(self, to: int, name: int) -> None:
        if name in self._why:
            self._why.setdefault(to, self._why.pop(name))

    # Labels of a whole feature map

    def core(self, labels: Tensor) -> Tensor:
        """Return ``labels`` with each dimension along which they do not vary cut to size 1."""
        for dim in reversed(range(labels.ndim)):
            if labels.shape[dim] > 1:
                first = labels.narrow(dim, 0, 1)
                if bool((labels == first).all()):
                    labels = first
        return labels

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Whether different names lie along ``dim``; what fits every name does not count."""
        if labels.shape[dim] < 2 or bool((labels == labels.narrow(dim, 0, 1)).all()):
            return False
        labels = self.roots(self.core(labels))
        top = labels.amax(dim, keepdim=True)
        return not bool(((labels == top) | (labels == ANYBODY)).all())

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Return the names along ``dim``, which must be the same at all other positions.

        Raises:
            Stays: they are not.
        """
        core = self.core(labels)
        size, dim = labels.shape[dim], dim % labels.ndim
        if core.shape[dim] == core.numel():
            return core.flatten().expand(size)
        rows = self.roots(core.movedim(dim, 0).flatten(1))
        top = rows.amax(1)
        if not bool(((rows == top[:, None]) | (rows == ANYBODY)).all()):
            raise Stays("positions of one input belong to different filters")
        return top.expand(size)
