"""Every kind of data in every function that takes data; the table of the API page is made from this list.

``python tests/test_any_data.py`` writes the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnprune_utils import CRITERIA, Split, Splits, Target, choose, compress, evaluate, fit, lowest, mask, prune, rank
from cnnprune_utils.batches import Batches, Data
from cnnprune_utils.losses import Loss
from cnnprune_utils.metrics import compare, macs_per_filter
from cnnprune_utils.surgery import same_outputs
from cnnprune_utils.training import predict

N, PAGE = 12, Path(__file__).parents[1] / "site" / "api" / "index.md"
BEGIN, END = "<!-- tests/test_any_data.py writes this table -->\n\n", "<!-- end -->"


@dataclass
class Job:
    """A network, and data and a loss that it takes."""

    model: nn.Module
    data: Data
    loss: Loss = F.cross_entropy
    classes: bool = True


def images(n: int = N, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(N) % 3


def features() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()]


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(*features(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, outputs))


class Wrapped(nn.Module):
    """Takes keyword arguments, and wraps its outputs."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = network(), wrap

    def forward(self, pixel_values: Tensor, scale: Tensor | None = None) -> Any:
        x = self.network(pixel_values)
        return self.wrap(x if scale is None else x * scale)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.end = nn.Sequential(*features()), nn.Sequential(*features()), nn.Linear(10, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        maps = [part(x).mean((2, 3)) for part, x in ((self.left, left), (self.right, right))]
        outputs: Tensor = self.end(torch.cat(maps, 1))
        return outputs


def memory_mapped(folder: Path) -> Job:
    np.save(folder / "images.npy", images().numpy())
    inputs = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="r+"))
    return Job(network(), Split(inputs, LABELS))


def per_pixel(folder: Path) -> Job:
    model = nn.Sequential(*features(), nn.Conv2d(5, 3, 1), nn.Upsample((8, 8)))
    return Job(model, DataLoader(TensorDataset(images(), (images()[:, 0] * 3).long()), batch_size=5))


def as_dicts(loader: DataLoader[Any]) -> list[dict[str, Tensor]]:
    return [{"pixel_values": x, "labels": y, "scale": torch.ones(())} for x, y in loader]


LOADER = DataLoader(TensorDataset(images(), LABELS), batch_size=5)
KINDS: dict[str, Callable[[Path], Job]] = {
    "tensors in memory": lambda folder: Job(network(), Split(images(), LABELS)),
    "a `DataLoader`": lambda folder: Job(network(), LOADER),
    "a list of batches": lambda folder: Job(network(), [*LOADER]),
    "batches of NumPy arrays": lambda folder: Job(network(), [(x.numpy(), y.numpy()) for x, y in LOADER]),
    "a memory-mapped file": memory_mapped,
    "batches that are dicts": lambda folder: Job(Wrapped(lambda x: x), as_dicts(LOADER)),
    "two inputs": lambda folder: Job(TwoInputs(), [((x, x.flip(3)), y) for x, y in LOADER]),
    "a target for each pixel": per_pixel,
    "targets that are numbers": lambda folder: Job(
        network(1), Split(images(), images().mean((2, 3))), F.mse_loss, False
    ),
    "several labels at once": lambda folder: Job(
        network(), Split(images(), F.one_hot(LABELS).float()), nn.BCEWithLogitsLoss(), False
    ),
    "soft labels": lambda folder: Job(network(), Split(images(), F.one_hot(LABELS) * 0.8 + 0.1), classes=False),
    "a loss of your own": lambda folder: Job(
        network(), LOADER, lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none")
    ),
    "outputs in a dict": lambda folder: Job(Wrapped(lambda x: {"logits": x, "twice": 2 * x}), as_dicts(LOADER)),
    "outputs in an object": lambda folder: Job(Wrapped(lambda x: SimpleNamespace(logits=x)), as_dicts(LOADER)),
    "outputs in a tuple": lambda folder: Job(Wrapped(lambda x: (x, x.detach())), as_dicts(LOADER)),
    "bfloat16": lambda folder: Job(network().bfloat16(), Split(images().bfloat16(), LABELS)),
    "one audio channel": lambda folder: Job(
        nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)),
        Split(torch.rand(N, 1, 20), LABELS),
    ),
    "video": lambda folder: Job(
        nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)),
        Split(torch.rand(N, 1, 4, 6, 6), LABELS),
    ),
    "CUDA": lambda folder: Job(network().cuda(), LOADER),
}


def scores(job: Job) -> None:
    for name, criterion in CRITERIA.items():
        found = criterion(job.model, job.data, loss=job.loss, batch_size=5)
        assert all(s.isfinite().all() and s.dtype == torch.float32 for s in found.values()), name
        rank(found)
    assert all(0 < share < 1 for share in macs_per_filter(job.model, Batches(job.data, 5).first.inputs).values())


def pruning(job: Job) -> None:
    plan = lowest(rank(CRITERIA["taylor"](job.model, job.data, loss=job.loss)), 2)
    example = Batches(job.data, 5).first.inputs
    small, closed = prune(job.model, plan, example), mask(job.model, plan, example)
    assert same_outputs(small, closed, job.data) < (0.1 if next(small.parameters()).dtype == torch.bfloat16 else 1e-5)


def measuring(job: Job) -> None:
    result = evaluate(job.model, job.data, loss=job.loss, batch_size=5)
    assert result.n == N
    assert math.isfinite(result.loss)
    assert math.isnan(result.accuracy) is not job.classes
    table = compare({"model": job.model}, job.data, loss=job.loss)
    assert table.loc["model", "macs"] > 0
    if job.classes:
        assert table.loc["model", "accuracy"] == pytest.approx(result.accuracy)
        assert len(predict(job.model, job.data)) == N


def training(job: Job) -> None:
    before = evaluate(job.model, job.data, loss=job.loss).loss
    log = fit(job.model, Splits(job.data, job.data), epochs=3, learning_rate=1e-2, loss=job.loss, batch_size=5)
    assert log["validation_loss"].iloc[0] == pytest.approx(before)
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[1]


def the_loop(job: Job) -> None:
    settings: dict[str, Any] = {"target": Target(filters=3), "batch_size": 5, "update": 2}
    found = compress(job.model, Splits(job.data, job.data), loss=job.loss, **settings)
    assert found.plan.n_filters == 3
    assert found.history["loss_after"].map(math.isfinite).all()


def choosing(job: Job) -> None:
    assert choose(job.model, job.data, 2, loss=job.loss, shortlist=2, batch_size=5).n_filters == 2


FUNCTIONS: dict[str, Callable[[Job], None]] = {
    "the criteria": scores,
    "`prune`, `mask`, `same_outputs`": pruning,
    "`evaluate`, `compare`": measuring,
    "`fit`": training,
    "`compress`": the_loop,
    "`choose`": choosing,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=[check.__name__ for check in FUNCTIONS.values()])
@pytest.mark.parametrize("kind", KINDS)
def test_every_function_takes_every_kind(kind: str, function: Callable[[Job], None], tmp_path: Path) -> None:
    if kind == "CUDA" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    function(KINDS[kind](tmp_path))


@pytest.mark.parametrize("use", [lambda *a: CRITERIA["taylor"](*a), lambda *a: evaluate(*a), lambda *a: choose(*a, 1)])
def test_bytes_say_what_to_pass(use: Callable[..., object]) -> None:
    split = Split((255 * images()).byte(), LABELS)
    with pytest.raises((TypeError, ValueError), match=r"They are bytes .*: pass what it was trained on"):
        use(network(), split)


def table() -> str:
    """The table of the API page: what the tests above try; CUDA they try where there is such a device."""
    rows = [["data", *FUNCTIONS], ["---"] * (1 + len(FUNCTIONS))]
    rows += [[kind, *["where there is one" if kind == "CUDA" else "yes"] * len(FUNCTIONS)] for kind in KINDS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_page_shows_what_is_tested() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown.rstrip() == table(), "python tests/test_any_data.py writes it"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + "\n\n" + END + rest.partition(END)[2])
