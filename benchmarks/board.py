"""The data of the gate board on the web: ``python -m benchmarks.board`` makes cnnprune_utils/board/baseline.json.

Every sub-network of the committed baseline on the validation images, the scores and costs of its filters; and twenty of
those images with the answer of every sub-network, and the convolutions, so that a page can draw the feature maps.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnprune_utils.board
from cnnprune_utils.batches import Split
from cnnprune_utils.board.facts import Facts, measure, packed
from cnnprune_utils.board.pictures import Pictures
from cnnprune_utils.book.fashion_mnist import CLASS_NAMES, load_fashion_mnist
from cnnprune_utils.book.shipped import checkpoint
from cnnprune_utils.files import write

FILE = Path(cnnprune_utils.board.__file__).with_name("baseline.json")
PER_CLASS = 2
SETTINGS = """cnnprune_utils/book/checkpoints/baseline.safetensors, the network of chapter 1
correct, loss: cnnprune_utils.exhaustive.all_subnetworks on the 5,000 validation images, no update after closing
scores: cnnprune_utils.criteria.taylor on the same images, normalised and ranked by plan.rank
costs: metrics.parameters and metrics.macs of networks pruned to these widths
pictures: the first two validation images of each class, as the classes come"""

MEASURED = (
    "Measured, not estimated: each of the 16,384 sub-networks of chapter 1's network (the committed baseline) on the "
    "5,000 validation images of Fashion-MNIST. Gates are closed, and nothing is trained after. Taylor: the score of "
    "chapter 2 on the same images, divided by the norm of its layer. Percentile: the share of the networks of this "
    "size, with a filter in every layer, that are no more accurate. MACs: multiply-accumulates per image."
)


def pictures(split: Split) -> Split:
    """Return the first images of each class, so that neighbours are of different classes."""
    places = [(split.targets == label).nonzero().flatten()[:PER_CLASS] for label in range(len(CLASS_NAMES))]
    chosen = torch.stack(places, 1).flatten()
    return Split(split.inputs[chosen], split.targets[chosen])


def page(model: nn.Module, split: Split, facts: Facts) -> dict[str, Any]:
    """Return the data that a page needs to show pictures without a kernel."""
    shown = pictures(split)
    eyes = Pictures(model, shown)
    answers = np.stack([eyes.answers(closed) for closed in range(len(facts.correct))], 1)  # (pictures, sub-networks)
    pixels = (shown.inputs * 255).round().to(torch.uint8).numpy()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return {
        "classes": CLASS_NAMES,
        "measured": MEASURED,
        "pictures": {
            "labels": shown.targets.tolist(),
            "size": list(pixels.shape[2:]),
            "pixels": packed(pixels),
            "answers": packed(answers.astype(np.uint8)),
        },
        "convolutions": [
            {
                "shape": list(conv.weight.shape),
                "weight": packed(conv.weight.detach().numpy()),
                "bias": packed(conv.bias.detach().numpy()),
            }
            for conv in convolutions
            if conv.bias is not None
        ],
    }


def main(path: Path = FILE) -> None:
    split = load_fashion_mnist().validation
    model = checkpoint("baseline")
    facts = measure(model, split)
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    facts = replace(facts, made=["python -m benchmarks.board", versions, *SETTINGS.splitlines()])
    write(path, f"{facts.to_json(**page(model, split, facts))}\n".encode())
    print(f"{path.name}: {len(facts.correct):,} sub-networks, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
