"""Data that do not fit into memory: a process with a limit scores and measures what it could not hold."""

from __future__ import annotations

import subprocess
import sys

JOB = """
import resource, sys
import torch
from torch import nn
from cnnprune_utils import CRITERIA, Split, evaluate, fit, Splits
from cnnprune_utils.surgery import same_outputs

class Stream:
    def __iter__(self):
        for i in range(60):
            yield torch.rand(128, 3, 64, 64), torch.arange(128) % 3  # 6.3 MB, and 377 MB in all
    def __len__(self):
        return 60

class Few(Stream):
    def __iter__(self):
        yield next(super().__iter__())

model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
for criterion in CRITERIA.values():  # what PyTorch and the package load at the first pass
    criterion(model, Few())
fit(model, Splits(Few(), Few()), epochs=1, learning_rate=1e-3)
data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + 250_000_000,) * 2)
if sys.argv[1] == "held":
    batches = list(Stream())
    Split(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
else:
    for name in ("taylor", "fisher", "activation_mean", "activation_std", "apoz", "magnitude", "random"):
        CRITERIA[name](model, Stream())
    assert evaluate(model, Stream()).n == 60 * 128
    assert same_outputs(model, model, Stream()) == 0
    fit(model, Splits(Stream(), Few()), epochs=1, learning_rate=1e-3)
print("done")
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", JOB, how], capture_output=True, text=True, check=False, timeout=300)


def test_more_than_fits_is_scored_batch_by_batch() -> None:
    done = run("streamed")
    assert done.stdout.endswith("done\n"), done.stderr


def test_the_limit_is_one() -> None:
    """The control: the process cannot hold what it streams."""
    held = run("held")
    assert held.returncode != 0
    assert "memory" in held.stderr.lower()
