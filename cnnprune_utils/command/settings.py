"""All settings of a run, and the checks between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..book.fashion_mnist import N_TRAINING_IMAGES
from .groups import (
    Data,
    Finetuning,
    Loop,
    Network,
    Pruning,
    Scoring,
    Tracking,
    Training,
)


@dataclass(frozen=True)
class Settings:
    """All settings of a run

    Args:
        seed: draws the first weights, the images of subsets, and their order; from 0 to 4294967295
    """

    seed: int = 0
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)
    scoring: Scoring = field(default_factory=Scoring)
    pruning: Pruning = field(default_factory=Pruning)
    loop: Loop = field(default_factory=Loop)
    finetuning: Finetuning = field(default_factory=Finetuning)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie between 0 and {2**32 - 1}")
        floor = self.pruning.keep_at_least
        free = {name: max(0, width - floor) for name, width in self.network.layers.items()}
        remove = self.pruning.remove
        if isinstance(remove, int) and remove > sum(free.values()):
            raise ValueError(
                f"pruning.remove={remove}: at most {sum(free.values())} of the {sum(self.network.widths)} filters can "
                f"be removed, with pruning.keep_at_least={floor} in each of {len(free)} layers"
            )
        for name, count in (remove if isinstance(remove, dict) else {}).items():
            if name not in free:
                raise ValueError(f"pruning.remove: there is no layer {name}. The layers are {', '.join(free)}")
            if count > free[name]:
                raise ValueError(
                    f"pruning.remove: {count} filters of {name}, which has {self.network.layers[name]} and keeps at "
                    f"least {floor}: at most {free[name]} can be removed"
                )
        split, n = self.scoring.split, self.n_images(self.scoring.split)
        if self.scoring.images is not None and self.scoring.images > n:
            raise ValueError(f"scoring.images={self.scoring.images}: there are {n} {split} images")

    def n_images(self, split: Literal["train", "validation"]) -> int:
        """Return the number of training or validation images of the run."""
        left = N_TRAINING_IMAGES - self.data.validation
        return self.data.validation if split == "validation" else self.data.train or left


def differences(before: Settings, now: Settings, sections: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ in these sections (or single settings): name -> (before, now)."""
    old, new = asdict(before), asdict(now)
    found: dict[str, tuple[Any, Any]] = {}
    for section in sections:
        was, now_is = flat(section, old[section]), flat(section, new[section])
        found |= {name: (value, now_is[name]) for name, value in was.items() if value != now_is[name]}
    found.pop("data.root", None)  # the same images, wherever they are
    return found


def flat(section: str, values: Any) -> dict[str, Any]:
    """Return the settings of a section by their full names."""
    return {f"{section}.{k}": v for k, v in values.items()} if isinstance(values, dict) else {section: values}
