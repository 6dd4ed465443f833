"""Scores of data that several processes hold parts of: two on this machine, which talk through gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from cnnprune_utils.criteria import CRITERIA
from cnnprune_utils.shards import gathered, summed

JOB = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from cnnprune_utils import CRITERIA, Split

CRITERIA = {name: CRITERIA[name] for name in os.environ.get("ONLY", " ".join(CRITERIA)).split()}

def data():  # 23 examples, with a mean far from 0, where sums of squares would cancel
    generator = torch.Generator().manual_seed(0)
    return torch.randn(23, 1, 8, 8, generator=generator) + 30, torch.arange(23) % 3

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))

def scores(rows, group):
    inputs, targets = data()
    part = Split(inputs[rows], targets[rows])
    return {name: each(network(), part, batch_size=4, group=group) for name, each in CRITERIA.items()}

if __name__ == "__main__":
    rank, file, result, dies = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "dies"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    if dies and rank == 1:
        os.kill(os.getpid(), 9)
    torch.save(scores(slice(0, 16) if rank == 0 else slice(16, 23), dist.group.WORLD), f"{result}{rank}")
    dist.destroy_process_group()
"""


def run_two(folder: Path, dies: bool, **environment: str) -> list[tuple[int | None, str]]:
    """Exit code and errors of the two processes."""
    script = folder / "job.py"
    script.write_text(JOB)
    arguments = [str(folder / "meet"), str(folder / "scores"), "dies" if dies else "lives"]
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        for rank in range(2)
    ]
    return [(process.returncode, errors) for process in both for _, errors in [process.communicate(timeout=120)]]


def test_each_process_gets_the_scores_of_all_data(tmp_path: Path) -> None:
    assert [code for code, _ in run_two(tmp_path, dies=False)] == [0, 0]
    space: dict[str, object] = {"__name__": "job"}
    exec(JOB, space)  # the same network and data, in this process
    alone: dict[str, dict[str, Tensor]] = space["scores"](slice(0, 23), None)
    assert alone.keys() == CRITERIA.keys()
    for rank in range(2):
        together = torch.load(tmp_path / f"scores{rank}")
        for name, by_layer in alone.items():
            for layer, scores in by_layer.items():
                torch.testing.assert_close(together[name][layer], scores, rtol=1e-6, atol=1e-9, msg=f"{name} {layer}")


def test_a_dead_process_is_named(tmp_path: Path) -> None:
    (code, errors), (killed, _) = run_two(tmp_path, dies=True, ONLY="taylor")
    assert killed == -9
    assert code == 1
    assert "ConnectionError: process 0 of 2 has its scores, and another one is gone" in errors
    assert not (tmp_path / "scores0").exists()


def test_without_a_group_nothing_is_sent() -> None:
    values = torch.arange(3.0)
    assert summed(values, None) is values
    assert gathered(values, None)[0] is values
