"""One measurement for several seeds at once: on the cores of this machine, or on a cluster of Ray or Dask."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

Result = TypeVar("Result")

BACKENDS = ("loky", "ray", "dask")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--backend``."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="loky",
        help="where the seeds run: on all cores of this machine (loky), or on a cluster of Ray (at RAY_ADDRESS) or "
        "Dask (at DASK_SCHEDULER_ADDRESS), which is started here where there is no address",
    )


def for_each(measure: Callable[[int], Result], seeds: Iterable[int], backend: str = "loky") -> list[Result]:
    """Return what ``measure`` says of each seed, in their order; each runs in a process of its own, on one thread.

    Raises:
        ModuleNotFoundError: the backend is not installed.
    """
    with ExitStack() as stack:
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()  # which starts Ray here, where RAY_ADDRESS names no cluster
            stack.enter_context(parallel_config(backend="ray", n_jobs=-1))
        elif backend == "dask":
            from distributed import Client

            stack.enter_context(Client())
            stack.enter_context(parallel_config(backend="dask", n_jobs=-1))
        else:
            stack.enter_context(parallel_config(backend="loky", n_jobs=-1, inner_max_num_threads=1))
        results: list[Result] = Parallel()(delayed(_on_one_thread)(measure, seed) for seed in seeds)
    return results


def _on_one_thread(measure: Callable[[int], Result], seed: int) -> Result:
    import torch  # here: it is imported in the process that measures

    torch.set_num_threads(1)
    return measure(seed)
