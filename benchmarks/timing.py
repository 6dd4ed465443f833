"""Wall time of calls that are compared with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import pandas as pd

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What the call returns, and how many seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Seconds of each call: a row per round, a column per call; one more round before them warms up and is dropped.

    Every round makes each call in turn, so that whatever slows the machine down meets all of them.
    """
    seconds = [{name: timed(call)[1] for name, call in calls.items()} for _ in range(rounds + 1)]
    return pd.DataFrame(seconds[1:])
