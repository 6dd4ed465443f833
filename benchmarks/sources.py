"""What it costs that data come from a loader, or lie in parts in several processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnprune_utils.batches import Split
from cnnprune_utils.book.fashion_mnist import load_fashion_mnist
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.criteria import taylor

from .scoring import BATCH_SIZE
from .timing import interleaved

ROOT = Path(__file__).resolve().parents[1]


def through_a_loader(model: nn.Module, split: Split, *, rounds: int) -> pd.Series:
    """Return medians over the rounds: seconds of the loader alone, of tensors, of both, and what both take more."""
    loader = DataLoader(TensorDataset(split.inputs, split.targets), BATCH_SIZE)
    seconds = interleaved(
        {
            "loader_s": lambda: [None for _ in loader],
            "tensors_s": lambda: taylor(model, split, batch_size=BATCH_SIZE),
            "through_loader_s": lambda: taylor(model, loader),
        },
        rounds,
    )
    seconds["ratio"] = seconds["through_loader_s"] / (seconds["loader_s"] + seconds["tensors_s"])
    return seconds.median()


def in_parts(n_images: int, *, rounds: int, processes: int = 2) -> pd.Series:
    """Return medians over the rounds, of processes on one thread each: seconds of one with all images, and of several.

    ``message_ms`` is what the processes wait for each other and for the sum of their scores.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.sources", str(n_images), str(rounds), str(processes)]
    running = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    shown = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process with a part of the images failed; its error is above")
    return pd.Series(json.loads(shown[0].splitlines()[-1]))


def main(n_images: int, rounds: int, processes: int, rank: int) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    model, split = checkpoint("baseline"), load_fashion_mnist().train.subset(n_images)
    part = Split(split.inputs[rank::processes], split.targets[rank::processes])
    nothing = torch.zeros(1, dtype=torch.float64)
    seconds = interleaved(
        {
            "meet": lambda: dist.all_reduce(nothing),
            "one_s": lambda: taylor(model, split) if rank == 0 else None,
            "meet again": lambda: dist.all_reduce(nothing),
            "parts_s": lambda: taylor(model, part, group=dist.group.WORLD),
            "part_alone_s": lambda: taylor(model, part),
        },
        rounds,
    )
    dist.destroy_process_group()
    median = seconds.median()
    median["message_ms"] = 1000 * (median["parts_s"] - median["part_alone_s"])
    print(median[["one_s", "parts_s", "message_ms"]].to_json())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
