"""Seeds that run at once, here or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from benchmarks import jobs


def squares() -> Callable[[int], tuple[int, int, int]]:
    """A function that no worker needs to import."""
    return lambda seed: (seed**2, torch.get_num_threads(), os.getpid())


def assert_right(found: list[tuple[int, int, int]]) -> None:
    assert [result for result, _, _ in found] == [0, 1, 4, 9]
    assert {threads for _, threads, _ in found} == {1}
    assert os.getpid() not in {process for _, _, process in found}


def test_seeds_run_in_processes_of_their_own() -> None:
    assert_right(jobs.for_each(squares(), range(4)))


def test_seeds_run_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home folder
    try:
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=100_000_000)
    except Exception as error:  # on a machine that is busy, or without shared memory
        pytest.skip(f"Ray does not start here: {error}")
    try:
        assert_right(jobs.for_each(squares(), range(4), "ray"))
    finally:
        ray.shutdown()


def test_seeds_run_on_dask() -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    assert_right(jobs.for_each(squares(), range(4), "dask"))


def test_an_error_of_a_seed_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        jobs.for_each(lambda seed: 1 // seed, range(2))
