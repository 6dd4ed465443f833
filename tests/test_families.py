"""The layers that stay in torchvision's networks, and why: an upgrade of PyTorch must not freeze a layer in silence.

After a change that is meant, ``python -m benchmarks.reach --write-expectation`` writes the file that is compared with.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from random_networks import one_thread  # noqa: F401

from benchmarks import reach

ANEW = "If that is right: python -m benchmarks.reach --write-expectation"
QUICK = ["alexnet", "resnet18", "squeezenet1_1", "shufflenet_v2_x1_0"]


def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reach.EXPECTATION.read_text())
    return found


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in reach.EXPECTED]
)
def test_layers_and_reasons_stay_the_same(name: str) -> None:
    file = expected()
    before, now = file["networks"][name], reach.reasons(name)
    frozen = {layer: why for layer, why in now.items() if layer not in before}
    freed = {layer: why for layer, why in before.items() if layer not in now}
    assert not frozen, f"stay now, and did not with {file['versions']}. {ANEW}"
    assert not freed, f"do not stay now, and did with {file['versions']}. {ANEW}"
    assert now == before, f"the reasons are others than with {file['versions']}. {ANEW}"


def test_every_network_has_an_expectation() -> None:
    assert expected()["networks"].keys() == set(reach.EXPECTED)
