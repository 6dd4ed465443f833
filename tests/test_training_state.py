"""The specification of cnnprune_utils.training_state: a training that ends early goes on to the same result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from cnnprune_utils.batches import Split, Splits
from cnnprune_utils.files import fingerprint
from cnnprune_utils.training import SCHEDULES, fit, seed_everything

EPOCHS = 5


def noise(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4)


SPLITS = Splits(noise(50, 0), noise(30, 1), noise(30, 2))


def network() -> nn.Sequential:
    """With everything that has a state of its own: statistics, and dropout, which draws from the global generator."""
    seed_everything(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(192, 4)
    )


class Killed(BaseException):
    """As if the process ended: nothing in the package catches it."""


def kill_after(epoch: int) -> Any:
    def on_epoch(row: Mapping[str, float]) -> None:
        if row["epoch"] == epoch:
            raise Killed

    return on_epoch


def trained(state_file: Path | None = None, **changes: Any) -> tuple[nn.Module, pd.DataFrame]:
    model = network()
    call: dict[str, Any] = {
        "epochs": EPOCHS,
        "learning_rate": 0.01,
        "batch_size": 16,
        "seed": 3,
        "state_file": state_file,
    }
    history = fit(model, SPLITS, **call | changes)
    return model, history.drop(columns="seconds")


def assert_same(a: tuple[nn.Module, pd.DataFrame], b: tuple[nn.Module, pd.DataFrame]) -> None:
    for (name, tensor), other in zip(a[0].state_dict().items(), b[0].state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    pd.testing.assert_frame_equal(a[1], b[1], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("last", range(EPOCHS + 1))
def test_ended_after_any_epoch_it_goes_on_to_the_same_result_bit_for_bit(
    last: int, schedule: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with pytest.raises(Killed):
        trained(state, on_epoch=kill_after(last), schedule=schedule)
    torch.manual_seed(99)  # another process: its generators stand elsewhere
    assert_same(trained(state, schedule=schedule), trained(schedule=schedule))


def test_with_a_teacher_it_goes_on_to_the_same_result_too(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(tmp_path / "state", on_epoch=kill_after(2), teacher=network())
    whole = trained(teacher=network())
    assert_same(trained(tmp_path / "state", teacher=network()), whole)
    assert fingerprint(whole[0].state_dict().values()) != fingerprint(trained()[0].state_dict().values())


def test_an_epoch_that_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    state, model = tmp_path / "state", network()
    updates = 0

    def kill_in_the_third_epoch(*_: Any) -> None:
        nonlocal updates
        updates += model.training
        if updates == 10:  # of 4 in an epoch
            raise Killed

    model.register_forward_hook(kill_in_the_third_epoch)
    with pytest.raises(Killed):
        fit(model, SPLITS, epochs=EPOCHS, learning_rate=1e-2, batch_size=16, seed=3, state_file=state)
    assert_same(trained(state), trained())


def test_on_epoch_hears_of_every_row_also_of_those_before(tmp_path: Path) -> None:
    heard: list[Mapping[str, float]] = []
    with pytest.raises(Killed):
        trained(tmp_path / "state", on_epoch=kill_after(2))
    _, history = trained(tmp_path / "state", on_epoch=heard.append)
    pd.testing.assert_frame_equal(pd.DataFrame(heard).drop(columns="seconds"), history, rtol=0, atol=0)


def test_a_training_that_is_finished_is_not_done_again(tmp_path: Path) -> None:
    first, times = trained(tmp_path / "state"), []
    model = network()
    model.register_forward_hook(lambda *_: times.append(model.training))
    fit(model, SPLITS, epochs=EPOCHS, learning_rate=1e-2, batch_size=16, seed=3, state_file=tmp_path / "state")
    assert True not in times
    assert torch.equal(model[0].weight, first[0].get_parameter("0.weight"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 6}, "epochs was 5, is 6"),
        ({"learning_rate": 0.02}, "learning_rate was 0.01, is 0.02"),
        ({"batch_size": 8}, "batch_size was 16, is 8"),
        ({"seed": 4}, "seed was 3, is 4"),
        ({"schedule": SCHEDULES["constant"]}, "schedule was one_cycle, is constant"),
        ({"teacher": network()}, r"teacher was None, is \w+"),
    ],
)
def test_another_call_is_refused_and_says_what_differs(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    trained(tmp_path / "state")
    with pytest.raises(ValueError, match=said):
        trained(tmp_path / "state", **change)


def test_another_network_and_other_images_are_refused(tmp_path: Path) -> None:
    trained(tmp_path / "state")
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"model was .*, is "):
        fit(other, SPLITS, epochs=EPOCHS, learning_rate=1e-2, batch_size=16, seed=3, state_file=tmp_path / "state")
    others = Splits(noise(50, 5), SPLITS.validation, SPLITS.test)
    with pytest.raises(ValueError, match=r"train was .*, is "):
        fit(network(), others, epochs=EPOCHS, learning_rate=1e-2, batch_size=16, seed=3, state_file=tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"something else", b"PK\x03\x04 half an archive"])
def test_a_damaged_state_is_refused_and_the_model_stays_as_it_came(content: bytes, tmp_path: Path) -> None:
    state, model = tmp_path / "state", network()
    state.write_bytes(content)
    before = fingerprint(model.state_dict().values())
    with pytest.raises(ValueError, match=r"state is damaged, or not the state of a training .* Delete state"):
        fit(model, SPLITS, epochs=EPOCHS, learning_rate=1e-2, state_file=state)
    assert fingerprint(model.state_dict().values()) == before
    assert state.read_bytes() == content


def test_a_state_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "state")
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        trained(tmp_path / "state")


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"call": Evil()}, tmp_path / "state")
    with pytest.raises(ValueError, match="damaged, or not the state"):
        trained(tmp_path / "state")
    assert not (tmp_path / "ran").exists()
