"""Scoring larger networks: time and memory against training.

``python -m benchmarks.large NETWORK WORK N_IMAGES`` prints the megabytes that a work takes beyond the network.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, vgg16_bn

from cnnprune_utils.batches import Split
from cnnprune_utils.criteria import taylor
from cnnprune_utils.gates import gated
from cnnprune_utils.structure import analyse
from cnnprune_utils.training import seed_everything

from . import scoring
from .timing import interleaved

ROOT = Path(__file__).resolve().parents[1]
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {"resnet18": (resnet18, 64), "vgg16_bn": (vgg16_bn, 64)}
BATCH_SIZE = 32


def example(network: str, n_images: int) -> tuple[nn.Module, Split]:
    """Return the network with random weights, and random colour images of its size."""
    seed_everything(0)
    make, size = NETWORKS[network]
    images = torch.rand(n_images, 3, size, size)
    return make(num_classes=10), Split(images, torch.randint(10, (n_images,)))


def train(model: nn.Module, split: Split) -> None:
    """Run one epoch of plain training, with Adam as in :func:`cnnprune_utils.training.fit`."""
    optimizer = torch.optim.Adam(model.parameters())
    for images, labels in split.batches(BATCH_SIZE):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def score(model: nn.Module, split: Split) -> None:
    taylor(model, split, batch_size=BATCH_SIZE)


WORK = {"train": train, "score": score}


def peak_mb(network: str, work: str, n_images: int) -> float:
    """Return the peak MB by which the work raises the memory of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large", network, work, str(n_images)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def table(*, n_images: int, rounds: int) -> pd.DataFrame:
    """Return a row per network: seconds of forward + backward, of taylor and of its analysis, MB, and ratios.

    ``gates_ratio`` is a forward pass with an open gate on every filter, as slopes need it, over a plain one.
    """
    rows = {}
    for network in NETWORKS:
        model, split = example(network, n_images)
        gates = gated(model, split.inputs[:2])
        for name, layer in gates.structure.layers.items():
            gates.gates[name].values = torch.ones(layer.out_channels, requires_grad=True)
        scored, batch = gated(model, split.inputs[:2]), split.inputs[:BATCH_SIZE]
        model.eval()
        calls = {
            "forward_backward_s": lambda m=model, s=split: scoring.forward_backward(m, s, BATCH_SIZE),
            "taylor_s": lambda m=scored, s=split: score(m, s),
            "analysis_s": lambda m=model, s=split: analyse(m, s.inputs[:2]),
            "plain": lambda m=model, b=batch: m(b),
            "gates": lambda m=gates, b=batch: m(b),
        }
        seconds = interleaved(calls, rounds)
        row = seconds.median().drop(["plain", "gates"]).to_dict()
        row["time_ratio"] = (seconds["taylor_s"] / seconds["forward_backward_s"]).median()
        row["gates_ratio"] = (seconds["gates"] / seconds["plain"]).median()
        row |= {f"{work}_mb": peak_mb(network, work, n_images) for work in WORK}
        rows[f"{network} at {NETWORKS[network][1]} x {NETWORKS[network][1]}"] = row
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.assign(memory_ratio=found["score_mb"] / found["train_mb"])


def main(network: str, work: str, n_images: str) -> None:
    """In a process of its own, since one that has had memory before takes less. The system's own peak is of no use
    here: importing PyTorch and building the network may have gone higher."""
    model, split = example(network, int(n_images))
    with torch.no_grad():
        model.eval()(split.inputs[:1])  # what PyTorch loads at the first pass is in every process
    model.train()
    process, done = psutil.Process(), threading.Event()
    held = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.002):  # seconds
            held.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    WORK[work](model, split)
    done.set()
    watcher.join()
    print((max(held) - held[0]) / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
