"""The specification of a run: its steps, its folder, and what an observer hears."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cnnprune_utils.batches import Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.command import folder as folder_module
from cnnprune_utils.command import work
from cnnprune_utils.command.figures import FIGURES, table
from cnnprune_utils.command.folder import STEPS, RunError, RunFolder, git_commit
from cnnprune_utils.command.observer import Observer, Observers
from cnnprune_utils.command.parsing import SettingsError, from_mapping, merged
from cnnprune_utils.command.steps import STEP_FUNCTIONS
from cnnprune_utils.command.work import Run, check, load_data
from cnnprune_utils.criteria import taylor
from cnnprune_utils.metrics import macs, parameters
from cnnprune_utils.plan import Plan, lowest, rank
from cnnprune_utils.saving import load_model, save_model
from cnnprune_utils.surgery import prune
from cnnprune_utils.training import evaluate

SMALL: dict[str, Any] = {
    "training": {"epochs": 4, "batch_size": 50},
    "finetuning": {"epochs": 3, "batch_size": 50},
    "loop": {"updates": 2, "batch_size": 50, "images": 100},
}
LOOP: dict[str, Any] = {"pruning": {"way": "loop", "remove": 4}}


class Interrupted(BaseException):
    """As if the process ended: nothing in the package catches it."""


class Recorder(Observer):
    """Records the calls of an observer, and ends the process at ``fatal``."""

    def __init__(self, fatal: tuple[Any, ...] | None = None) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.fatal = fatal

    def hear(self, *event: Any) -> None:
        self.heard.append(event)
        if event == self.fatal:
            raise Interrupted

    def step(self, name: str, done: bool) -> None:
        self.hear("step", name, done)

    def epoch(self, stage: str, row: Mapping[str, float]) -> None:
        self.hear("epoch", stage, row["epoch"])

    def table(self, name: str, table: pd.DataFrame) -> None:
        self.hear("table", name)

    def model(self, name: str, file: Path, model: nn.Module, images: Tensor) -> None:
        assert model(images).shape == (4, 10)
        self.hear("model", name, file.name)

    def file(self, path: Path) -> None:
        assert path.is_file()
        self.hear("file", path.name)


@pytest.fixture(scope="module")
def small(splits: Splits) -> Splits:
    return Splits(splits.train.subset(300), splits.validation.subset(100), splits.test.subset(100))


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of runs as small as these."""
    if "figures" not in request.node.name:
        monkeypatch.setattr(work, "draw", lambda folder, step: None)


Go = Callable[..., RunFolder]


def carry_out(
    path: Path,
    splits: Splits,
    *changes: Mapping[str, Any],
    steps: tuple[str, ...] = tuple(STEPS),
    observer: Observer | None = None,
    redo: bool = False,
) -> RunFolder:
    """Do these steps, with SMALL settings but for these changes."""
    folder, values = RunFolder(path), SMALL
    for change in changes:
        values = merged(values, change)
    settings = from_mapping(values)
    folder.refuse(settings, step=steps[0], redo=redo)
    with folder.locked():
        folder.begin(settings, step=steps[0], redo=redo)
        for step in steps:
            STEP_FUNCTIONS[step](Run(folder, settings, splits, observer or Observer()))
    return folder


@pytest.fixture
def go(small: Splits, tmp_path: Path) -> Go:
    """Do it in the folder "run" of this test."""
    return partial(carry_out, tmp_path / "run", small)


@pytest.fixture(scope="module")
def in_one_go(small: Splits, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """Return the folder of an uninterrupted run, with these changes."""

    @cache
    def of(values: str) -> dict[str, bytes]:
        return contents(carry_out(tmp_path_factory.mktemp("runs") / "whole", small, json.loads(values)))

    return lambda changes={}: of(json.dumps(changes))


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Every file, without the seconds, which differ."""
    found = {str(path.relative_to(folder.path)): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    for name in ("train.csv", "finetune.csv", "loop.csv"):
        if name in found:
            found[name] = table(folder, name.removesuffix(".csv")).drop(columns="seconds").to_csv().encode()
    return {name: content for name, content in found.items() if name != ".lock" and not name.startswith("figures")}


# what the steps do


def test_each_step_does_what_the_package_does(go: Go, small: Splits) -> None:
    folder = go()
    baseline = load_model(folder.file("baseline.safetensors"))
    ranks = rank(taylor(baseline, small.validation))
    pd.testing.assert_frame_equal(table(folder, "ranks"), ranks, rtol=0, atol=0)
    plan = Plan.from_json(folder.file("plan.json").read_text())
    assert plan == lowest(ranks, 8)
    pruned = load_model(folder.file("pruned.safetensors"))
    images = small.test.inputs
    assert torch.equal(pruned(images), prune(baseline, plan)(images))
    rows = table(folder, "comparison").set_index("model")
    tuned = load_model(folder.file("finetuned.safetensors"))
    for name, model in {"original": baseline, "pruned": pruned, "fine-tuned": tuned}.items():
        assert rows.loc[name, "accuracy"] == evaluate(model, small.test).accuracy
        assert rows.loc[name, "parameters"] == parameters(model)
    assert table(folder, "train")["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert table(folder, "finetune")["epoch"].tolist() == [0, 1, 2, 3]
    last = evaluate(tuned, small.validation).accuracy
    assert table(folder, "finetune")["validation_accuracy"].iloc[-1] == last
    assert set(contents(folder)) == {
        "settings.yaml",
        "versions.json",
        *(name for names in STEPS.values() for name in names),
    }


def test_the_usual_plan_gives_the_usual_tables(go: Go) -> None:
    folder = go(
        {"pruning": {"remove": {"network.0": 1, "network.2": 2, "network.4": 5}}}, steps=("train", "score", "prune")
    )
    removed = table(folder, "removed")
    assert removed["percent"].tolist() == [50.0, 50.0, 62.5]
    assert removed[["removed", "of"]].to_numpy().tolist() == [[1, 2], [2, 4], [5, 8]]
    for name, total, linear in (("before", "63,122", "62,730"), ("after", "23,617", "23,530")):
        text = folder.file(f"summary_{name}.txt").read_text()
        assert f"Total params: {total}" in text
        assert f"Linear: 2-8                       {linear}" in text


@pytest.mark.parametrize("size", ["parameters", "macs"])
def test_one_shot_to_a_size_removes_the_fewest(size: str, go: Go, small: Splits) -> None:
    def of(model: nn.Module) -> int:
        return parameters(model) if size == "parameters" else macs(model, small.test.inputs)

    limit = {"parameters": 40_000, "macs": 200_000}[size]
    folder = go({"pruning": {"remove": None, size: limit}}, steps=("train", "score", "prune"))
    baseline, plan = (
        load_model(folder.file("baseline.safetensors")),
        Plan.from_json(folder.file("plan.json").read_text()),
    )
    assert of(load_model(folder.file("pruned.safetensors"))) <= limit
    assert plan == lowest(table(folder, "ranks"), plan.n_filters)
    assert of(prune(baseline, lowest(table(folder, "ranks"), plan.n_filters - 1))) > limit


def test_the_loop_keeps_its_history(go: Go) -> None:
    folder = go(LOOP, steps=("train", "score", "prune"))
    assert table(folder, "loop")["removed"].tolist() == [0, 1, 2, 3, 4]
    assert table(folder, "removed")["removed"].sum() == 4
    assert not folder.unfinished("prune").exists()


def test_a_missed_target_says_how_close_it_came(go: Go) -> None:
    with pytest.raises(ValueError, match=r"the closest is .* which loses .*Allow more points, or more updates$"):
        go(
            LOOP,
            {
                "training": {"epochs": 20},
                "pruning": {"remove": 11, "points": 0.0},
                "loop": {"updates": 0, "patience": 1},
            },
        )


@pytest.mark.parametrize(("size", "smallest"), [("parameters", 7880), ("macs", 29008)])
def test_an_impossible_size_is_refused_at_once(size: str, smallest: int) -> None:
    def settings(limit: int) -> Any:
        return from_mapping({"pruning": {"remove": None, size: limit}})

    check(settings(smallest))
    with pytest.raises(SettingsError, match=f"pruning.{size}={smallest - 1} is out of reach.* {smallest} remain"):
        check(settings(smallest - 1))


def test_settings_choose_the_images(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "load_fashion_mnist", lambda root, validation: splits)
    loaded = load_data(from_mapping({"data": {"train": 70}}).data, seed=4)
    assert torch.equal(loaded.train.inputs.cpu(), splits.train.subset(70, 4).inputs)
    assert len(loaded.validation) == len(splits.validation)


# done, interrupted, redone


def test_a_done_step_is_only_reported(go: Go) -> None:
    first, second = Recorder(), Recorder()
    folder = go(observer=first)
    before = {path: path.stat().st_mtime_ns for name in STEPS for path in folder.files(name)}
    go(observer=second)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [event for event in first.heard if event[0] == "step"] == [("step", name, False) for name in STEPS]
    assert [event for event in second.heard if event[0] == "step"] == [("step", name, True) for name in STEPS]
    told = [[event for event in recorder.heard if event[0] != "step"] for recorder in (first, second)]
    assert told[0] == told[1]
    assert {("epoch", "original", 0), ("epoch", "pruned", 3), ("model", "finetuned", "finetuned.safetensors")} < set(
        told[0]
    )
    assert [event[1] for event in told[0] if event[0] == "table"] == ["ranks", "removed", "comparison"]


@pytest.mark.parametrize(
    ("fatal", "changes"),
    [
        (("epoch", "original", 0), {}),
        (("epoch", "original", 2), {}),
        (("epoch", "original", 4), {}),
        (("step", "score", False), {}),
        (("table", "ranks"), {}),
        (("epoch", "pruned", 1), {}),
        (("model", "finetuned", "finetuned.safetensors"), {}),
        (("epoch", "pruned", 2), LOOP),
    ],
    ids=str,
)
def test_a_resumed_run_gives_the_same_bits(fatal: Any, changes: Any, go: Go, in_one_go: Any) -> None:
    with pytest.raises(Interrupted):
        go(changes, observer=Recorder(fatal))
    torch.manual_seed(99)  # another process: its generators stand elsewhere
    assert contents(go(changes)) == in_one_go(changes)


@pytest.mark.parametrize("step", ["baseline", "pruned", "finetuned"])
def test_a_run_resumes_between_two_files(step: str, go: Go, in_one_go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is written, and what belongs to it is not."""

    def save_and_end(model: nn.Module, path: Path) -> None:
        save_model(model, path)
        if path.stem == step:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("cnnprune_utils.command.steps.save_model", save_and_end)
        with pytest.raises(Interrupted):
            go()
    assert contents(go()) == in_one_go()


def test_what_a_killed_write_left_is_cleared_away(go: Go) -> None:
    folder = go(steps=("train",))
    folder.file(".train.state.4711.part").write_bytes(b"half")
    go(steps=("score",))
    assert list(folder.path.rglob("*.part")) == []


def test_settings_of_begun_steps_are_fixed(go: Go) -> None:
    folder = go(steps=("train",))
    before = contents(folder)
    with pytest.raises(RunError, match=r"training.epochs was 4, is 5\. Choose another folder, .* train .* --redo"):
        go({"training": {"epochs": 5}}, steps=("train",))
    assert contents(folder) == before
    go({"scoring": {"criterion": "magnitude"}}, steps=("score",))
    assert folder.settings().scoring.criterion == "magnitude"


def test_settings_of_interrupted_steps_are_fixed(go: Go) -> None:
    with pytest.raises(Interrupted):
        go(observer=Recorder(("epoch", "pruned", 1)))
    with pytest.raises(RunError, match=r"finetuning.epochs was 3, is 9"):
        go({"finetuning": {"epochs": 9}})


def test_redo_deletes_this_and_later_steps(go: Go, in_one_go: Any) -> None:
    folder = go()
    change = {"scoring": {"criterion": "random"}}
    go(change, steps=("score",), redo=True)
    assert [name for name in STEPS if folder.done(name)] == ["train", "score"]
    go(change)
    assert contents(folder) == in_one_go(change)
    with pytest.raises(RunError, match=r"training\.epochs"):
        go({"training": {"epochs": 5}}, steps=("score",), redo=True)
    assert folder.done("compare")


def test_the_first_missing_step_is_named(go: Go, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run in .*`cnnprune train` begins one"):
        go(steps=("score",))
    assert not (tmp_path / "run").exists()
    go(steps=("train",))
    with pytest.raises(RunError, match=r"lacks the results of score\. Run first: cnnprune score"):
        go(steps=("finetune",))


def test_a_folder_of_something_else_is_left_alone(go: Go, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"is no run: it holds files, but no settings.yaml"):
        go()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_one_process_per_folder(go: Go) -> None:
    with go(steps=("train",)).locked(), pytest.raises(RunError, match="another process works in"):
        go()
    go(steps=("score",))


# damage


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint_is_named(content: bytes, go: Go) -> None:
    folder = go(steps=("train",))
    folder.file("baseline.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"baseline.safetensors is"):
        go(steps=("score",))


def test_another_networks_checkpoint_is_refused(go: Go) -> None:
    folder = go(steps=("train", "score", "prune"))
    save_model(CNN((3, 4, 8)), folder.file("baseline.safetensors"))
    with pytest.raises(RunError, match=r"baseline.safetensors holds another network: \(3, 4, 8\), .* \(2, 4, 8\)"):
        go(steps=("train",))
    save_model(CNN((2, 4, 8)), folder.file("pruned.safetensors"))
    with pytest.raises(RunError, match=r"pruned.safetensors holds another network"):
        go(steps=("finetune",))


def test_a_damaged_state_says_what_to_delete(go: Go, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(observer=Recorder(("epoch", "original", 2)))
    state = RunFolder(tmp_path / "run").unfinished("train")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train.state is damaged.* Delete train.state"):
        go()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for half a megabyte."""
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_no_partial_files(go: Go, in_one_go: Any, full: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(full / "run")
    (full / "run").mkdir()
    with pytest.raises(OSError, match="No space left") as caught:
        go()  # the state of a training takes 0.8 MB
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in (full / "run").iterdir()) == [".lock", "settings.yaml", "versions.json"]
    (tmp_path / "run").unlink()
    shutil.copytree(full / "run", tmp_path / "run")
    assert contents(go()) == in_one_go()


@pytest.mark.parametrize("failing", ["baseline.safetensors", "ranks.csv", "pruned.safetensors", "finetune.state"])
def test_a_run_survives_a_full_disk_anywhere(
    failing: str, go: Go, in_one_go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no small disk can be mounted, too: the write itself fails, in the middle."""
    write_bytes = Path.write_bytes

    def fill(self: Path, data: bytes) -> int:
        if failing in self.name:
            write_bytes(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write_bytes(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match="No space left"):
            go()
    assert not any(failing in path.name for path in (tmp_path / "run").iterdir())
    assert contents(go()) == in_one_go()


# what surrounds a result


def test_missing_figures_are_drawn_again(go: Go) -> None:
    folder = go()
    drawn = {file: file.read_bytes() for file in sorted(folder.file("figures").iterdir())}
    assert {file.stem for file in drawn} == {name for name, _ in FIGURES.values()}
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    first = next(iter(drawn))
    first.unlink()
    go()
    assert first.read_bytes() == drawn[first]


def test_a_run_says_what_its_result_depends_on(go: Go) -> None:
    said = json.loads(go({"seed": 7}, steps=("train",)).file("versions.json").read_text())
    assert said["seed"] == 7
    assert said["torch"] == torch.__version__.partition("+")[0] or said["torch"] == torch.__version__
    assert {"git_commit", "python", "cnnprune-utils", "numpy"} <= said.keys()


def test_the_commit_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        options = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    file = tmp_path / "package" / "command" / "folder.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    monkeypatch.setattr(folder_module, "__file__", str(file))
    assert git_commit() is None  # no checkout
    git("init")
    assert git_commit() is None  # a checkout of something else
    git("add", ".")
    git("commit", "-m", "one")
    assert git_commit() == git("rev-parse", "HEAD")
    file.write_text("two")
    assert git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_observers_hear_the_same_in_order() -> None:
    order: list[str] = []

    class Named(Recorder):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def hear(self, *event: Any) -> None:
            order.append(self.name)
            super().hear(*event)

    both = Named("first"), Named("second")
    together = Observers(both)
    together.step("train", False)
    together.epoch("original", {"epoch": 1})
    together.table("ranks", pd.DataFrame())
    together.file(Path(__file__))
    assert both[0].heard == both[1].heard
    assert order == ["first", "second"] * 4
    overridden = {name for name, value in vars(Observer).items() if callable(value) and not name.startswith("_")}
    assert overridden <= set(vars(Observers))
