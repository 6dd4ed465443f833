"""Sums over the processes of a ``torch.distributed`` group, each of which has a part of the data."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def summed(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return the sum of ``values`` over the processes of ``group``, the same in each; ``values`` itself without one.

    Args:
        values: float64, of the same shape in each process.
        group: a process group, such as ``torch.distributed.group.WORLD``; None: this process alone.

    Raises:
        ConnectionError: a process of the group is gone, or did not answer within the group's time limit.
    """
    return values if group is None else torch.stack(gathered(values, group)).sum(0)


def gathered(values: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Return the ``values`` of each process of ``group``, in their order. See :func:`summed`."""
    if group is None:
        return [values]
    here = values.cuda() if dist.get_backend(group) == "nccl" else values
    each = [torch.empty_like(here) for _ in range(dist.get_world_size(group))]
    try:
        dist.all_gather(each, here, group=group)
    except RuntimeError as error:
        raise ConnectionError(
            f"process {dist.get_rank(group)} of {len(each)} has its scores, and another one is gone or does not answer "
            f"({str(error).partition(chr(10))[0]}). No process has the scores of all data: start all of them again."
        ) from error
    return [x.to(values.device) for x in each]
