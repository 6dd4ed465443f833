"""Wall time of calls that are compared with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import pandas as pd

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return the result of the call, and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Return the seconds of each call, a row per round and a column per call, after a round to warm up.

    Every round makes each call in turn, so that whatever slows the machine down meets all of them.
    """
    seconds = [{name: timed(call)[1] for name, call in calls.items()} for _ in range(rounds + 1)]
    return pd.DataFrame(seconds[1:])
