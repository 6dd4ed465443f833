"""The specification of the command line: what it prints, its exit codes, and that a run outlives its process."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchvision.transforms.functional import to_pil_image

from cnnprune_utils.batches import Splits
from cnnprune_utils.book.cnn import CNN
from cnnprune_utils.book.fashion_mnist import CLASS_NAMES
from cnnprune_utils.book.shipped import CHECKPOINTS
from cnnprune_utils.command import __main__ as entry
from cnnprune_utils.command import cli, work
from cnnprune_utils.command.cli import main
from cnnprune_utils.command.folder import STEPS, RunFolder
from cnnprune_utils.command.parsing import from_mapping
from cnnprune_utils.command.steps import STEP_FUNCTIONS
from cnnprune_utils.saving import save_model

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["run", *STEPS, "predict", "data", "ui"]
UNTRACKED = ["--tracking.enabled", "false"]
SMALL = ["--training.epochs", "2", "--finetuning.epochs", "1", "--training.batch_size", "100", *UNTRACKED]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_images(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no figures: they take most of the time of a run as small as this."""
    few = Splits(splits.train.subset(300), splits.validation.subset(100), splits.test.subset(100))
    monkeypatch.setattr(work, "load_data", lambda data, seed: few)
    monkeypatch.setattr(work, "draw", lambda folder, step: None)


def called(*arguments: str) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


# for a newcomer


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--help") == 0
    said = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in said
    assert "cnnprune run --config quick" in said
    assert "exit codes: 0" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_something_of_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(command, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: cnnprune {command}")
    lines = said.splitlines()
    for flag, below in zip(lines, [*lines[1:], ""], strict=True):
        if flag.startswith("  --"):
            _, *text = re.split(r"\s{2,}", flag.strip(), maxsplit=1)
            assert re.match(r"\w", (text or [below.strip()])[0]), f"nothing, or only a type: {flag}"


def test_print_config_prints_what_config_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("run", "--config", "paper", "--print-config", "--seed", "3") == 0
    printed = capsys.readouterr().out
    assert from_mapping(yaml.safe_load(printed)).pruning.way == "loop"
    Path("mine.yaml").write_text(printed)
    assert called("train", "--config", "mine.yaml", "--print-config") == 0
    assert capsys.readouterr().out == printed
    assert not Path("runs").exists()


def test_flags_win_over_the_file_over_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    called("run", "--config", "seed", "--training.epochs", "7", "--pruning.remove", "{network.4: 3}", "--print-config")
    settings = from_mapping(yaml.safe_load(capsys.readouterr().out))
    assert (settings.training.epochs, settings.training.batch_size, settings.scoring.images) == (7, 32, None)
    assert settings.pruning.remove == {"network.4": 3}


def test_the_installed_command_is_the_one_tested_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"cnnprune": f"{entry.__name__}:{entry.main.__name__}"}
    monkeypatch.setattr(sys, "argv", ["cnnprune", "predict", "nothing.safetensors", "--index", "0"])
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the notebooks, which are tested after this, draw
    monkeypatch.setattr(entry.signal, "signal", lambda *_: None)
    assert entry.main() == cli.FAILED
    assert os.environ["MPLBACKEND"] == "agg"
    assert capsys.readouterr().err == "error: there is no run folder and no file nothing.safetensors\n"


def test_without_its_packages_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_group = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["command"]
    assert sorted([*entry.NEEDS.values(), "mlflow"]) == sorted(name.partition(">")[0] for name in of_group)
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name in ("jsonargparse", "yaml") else find_spec(name))
    assert entry.main() == cli.FAILED
    errors = capsys.readouterr().err
    assert errors == "error: cnnprune needs what is not installed; pip install jsonargparse pyyaml brings it\n"


def test_where_packages_lack_it_ends_first() -> None:
    """As the installed command does: a process that cannot import jsonargparse."""
    code = "import sys; sys.modules['jsonargparse'] = None; import cnnprune_utils.command.__main__ as entry; "
    code += "entry.find_spec = lambda name: None; sys.exit(entry.main())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (cli.FAILED, 1)


# used wrongly


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "command"),
        ("prun", "invalid choice: 'prun'"),
        ("run --trainng.epochs 3", "unrecognized arguments: --trainng.epochs"),
        ("run --training.epochs many", "training.epochs"),
        ("run --training.epochs 1.5", "training.epochs"),
        ("run --training.epochs 0", "error: training.epochs=0 must be at least 1"),
        ("run --pruning.remove 12", "at most 11 of the 14 filters can be removed"),
        ("run --pruning.remove -1", "pruning.remove=-1 must be at least 0"),
        ("run --pruning.remove null --pruning.parameters 100", "out of reach"),
        ("run --scoring.criterion tailor", "tailor"),
        ("run --tracking.uri localhost:5000", "tracking.uri=localhost:5000 is no address: it looks like http://"),
        ("run --tracking.uri http://me:secret@localhost", "must not hold a password: set MLFLOW_TRACKING_USERNAME"),
        ("run --config nope", "there are paper, quick, seed"),
        ("run --config broken.yaml", "broken.yaml"),
        ("run --config unknown.yaml", "trainig"),
        ("score runs/none", "no run in runs/none"),
        ("score", "folder"),
        ("score runs/none --training.epochs 3", "training.epochs"),
        ("train .", "is no run"),
        ("train broken.yaml", "broken.yaml is a file, and a run is a folder"),
        ("score .", "`cnnprune train` begins one in a new folder"),
        ("run --training.epoch 3", "--training.epoch"),
        ("run --seed 4294967296", "seed=4294967296 must lie between 0 and 4294967295"),
        ("run --config date.yaml", "date.yaml: day is out of range"),
        ("predict model.safetensors", "nothing to predict"),
        ("predict model.safetensors --index 10000", "numbered from 0 to 9999"),
    ],
)
def test_used_wrongly_it_says_how_and_ends_with_2(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("seed: [1")
    Path("date.yaml").write_text("tracking: {experiment: 2026-02-30}")
    Path("unknown.yaml").write_text("trainig: {epochs: 3}")
    save_model(CNN(), "model.safetensors")
    assert called(*shlex.split(line)) == cli.USAGE
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"run {300 * 'a'}", "File name too long"),
        ("run huge --network.widths [3000000,3000000]", "allocate memory"),
        ("data ~nobody-of-this-name/x", "~nobody-of-this-name/x is not a folder"),
        ("data model.safetensors/x", "model.safetensors"),
        ("ui --tracking.uri http://[::1", "Invalid IPv6 URL"),
        ("ui --tracking.uri sqlite:////proc/none/mlflow.db", "/proc/none"),
        ("ui --port 0", "--port 0 must lie between 1 and 65535"),
    ],
)
@pytest.mark.usefixtures("few_images")
def test_what_the_system_refuses_is_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(CNN(), "model.safetensors")
    assert called(*shlex.split(line)) == cli.FAILED
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error


def test_a_network_of_double_precision_answers_too(capsys: pytest.CaptureFixture[str]) -> None:
    save_model(CNN().double(), "double.safetensors")
    assert called("predict", "double.safetensors", "--index", "0") == 0
    assert capsys.readouterr().out.startswith("test image 0: ")


@pytest.mark.usefixtures("few_images")
def test_random_scores_differ_from_seed_to_seed() -> None:
    for seed in ("0", "1"):
        assert called("train", seed, *SMALL, "--seed", seed, "--scoring.criterion", "random") == 0
        assert called("score", seed) == 0
    assert Path("0", "ranks.csv").read_text() != Path("1", "ranks.csv").read_text()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command("run", "x", "--print-config"),
            env=environment() | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (cli.FAILED, "error: [Errno 28] No space left on device\n")


# a run


@pytest.mark.usefixtures("few_images")
def test_a_run_prints_the_tables_and_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("run", "--config", "seed", *SMALL) == 0
    said = capsys.readouterr().out
    for text in (
        "epoch 2/2: train loss ",
        "Total params: 63,122",
        "network.0: 50.0 %  (1 out of 2)",
        "network.2: 50.0 %  (2 out of 4)",
        "network.4: 62.5 %  (5 out of 8)",
        "Total params: 23,617",
        "epoch 1/1: train loss ",
        "fine-tuned       23617  87024",
        f"Everything is in {Path('runs', 'seed')}",
    ):
        assert text in said
    assert said.index("63,122") < said.index("62.5 %") < said.index("23,617") < said.index("fine-tuned  ")
    ranks, comparison = said.index("normalized: the score, divided"), said.index("accuracy: share of right answers")
    assert said.index("Ranks (rank 0 leaves first):") < ranks < said.index("62.5 %")
    assert said.index("fine-tuned  ") < comparison


@pytest.mark.usefixtures("few_images")
def test_step_by_step_is_the_same_as_in_one_go() -> None:
    assert called("run", "one", *SMALL) == 0
    assert called("train", "two", *SMALL) == 0
    for step in ("score", "prune", "finetune", "compare"):
        assert called(step, "two") == 0
    for name in ("finetuned.safetensors", "comparison.csv", "plan.json"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.usefixtures("few_images")
def test_a_step_takes_settings_of_its_own() -> None:
    assert called("train", "mine", *SMALL) == 0
    assert called("score", "mine", "--scoring.criterion", "magnitude") == 0
    settings = RunFolder(Path("mine")).settings()
    assert (settings.scoring.criterion, settings.training.epochs) == ("magnitude", 2)


@pytest.mark.usefixtures("few_images")
def test_a_run_begun_changes_only_with_redo(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("train", "mine", *SMALL) == 0
    assert called("run", "mine", "--training.epochs", "1") == cli.USAGE
    assert "training.epochs was 2, is 1" in capsys.readouterr().err
    assert called("run", "mine", "--training.epochs", "1", "--redo") == 0
    assert RunFolder(Path("mine")).settings().training.epochs == 1


@pytest.mark.usefixtures("few_images")
def test_what_it_advises_when_settings_differ_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("run", "my run", *SMALL) == 0
    for flags in (["--pruning.remove", "{network.4: 3}"], ["--finetuning.epochs", "2"], ["--data.train", "200"]):
        capsys.readouterr()
        assert called("run", "my run", *flags) == cli.USAGE
        (advice,) = re.findall("`(cnnprune .*?)`", capsys.readouterr().err)
        assert called(*shlex.split(advice)[1:]) == 0
        assert called("run", "my run", *flags) == 0


@pytest.mark.usefixtures("few_images")
def test_a_damaged_checkpoint_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    called("train", "mine", *SMALL)
    Path("mine", "baseline.safetensors").write_bytes(b"something else")
    assert called("score", "mine") == cli.FAILED
    said = capsys.readouterr().err
    assert "baseline.safetensors is damaged" in said
    assert said.endswith("Or `cnnprune train mine --redo` makes it again\n")


@pytest.mark.usefixtures("few_images")
def test_a_learning_that_diverges_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("train", "mine", *SMALL, "--training.learning_rate", "1e30") == cli.FAILED
    assert "error: the loss is not finite in epoch" in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_a_damaged_table_says_how_to_make_it_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("run", "mine", *SMALL) == 0
    Path("mine/pruned.safetensors").unlink()
    for content in ("garbage", ""):
        Path("mine/ranks.csv").write_text(content)
        assert called("run", "mine") == cli.FAILED
        said = capsys.readouterr().err
        assert said.startswith("error: mine/ranks.csv is damaged: ")
        assert said.endswith("`cnnprune score mine --redo` makes it again\n")
    assert called("score", "mine", "--redo") == called("run", "mine") == 0


# the end of its process


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", entry.__package__, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# So many epochs that a busy machine, too, sends the signal in the middle of them.
LONG = ["--data.train", "1000", "--data.validation", "200", "--training.epochs", "40", "--finetuning.epochs", "40"]
LONG += UNTRACKED


def ended(arguments: list[str], once_written: Path, how: signal.Signals) -> tuple[int, str]:
    """The exit code and the errors of a command that is sent a signal as soon as it has written a file."""

    def written() -> int:
        return once_written.stat().st_mtime_ns if once_written.exists() else 0

    before = written()
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while written() == before:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(how)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def assert_says_how_to_go_on(code: int, errors: str, run: Path) -> list[str]:
    """It was interrupted, and says so in one line; the arguments that it says to go on with."""
    assert code == cli.INTERRUPTED
    (line,) = errors.splitlines()
    start = f"interrupted; what was finished is kept in {run}. To go on: cnnprune "
    assert line.startswith(start)
    return shlex.split(line.removeprefix(start))


def test_killed_a_run_goes_on_to_the_same_result() -> None:
    """kill -9 gives the process no chance to clean up; where in an epoch it comes is left to chance."""
    run = Path("a run")  # a shell would split it
    folder, train, finetune = RunFolder(run), run / "train.state", run / "finetune.state"
    assert ended(["run", str(run), *LONG], train, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not folder.done("train")
    again = assert_says_how_to_go_on(*ended(["run", str(run)], train, signal.SIGINT), run)
    assert again == ["run", str(run)]
    assert not folder.done("train")
    assert ended(again, finetune, signal.SIGKILL)[0] == -signal.SIGKILL
    assert [name for name in STEPS if folder.done(name)] == ["train", "score", "prune"]
    for path, arguments in ((run, again), (Path("whole"), ["run", "whole", *LONG])):
        subprocess.run(command(*arguments), env=environment(), check=True, capture_output=True)
        assert all(RunFolder(path).done(name) for name in STEPS)
    for name in ("baseline.safetensors", "ranks.csv", "plan.json", "finetuned.safetensors", "comparison.csv"):
        assert (run / name).read_bytes() == Path("whole", name).read_bytes(), name


@pytest.mark.usefixtures("few_images")
def test_a_polite_kill_is_an_interruption_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(STEP_FUNCTIONS, "score", lambda run: signal.raise_signal(signal.SIGTERM))
    assert called("run", "mine", *SMALL) == cli.INTERRUPTED
    assert capsys.readouterr().err.startswith("interrupted; what was finished is kept in mine.")
    assert RunFolder(Path("mine")).done("train")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("few_images")
def test_interrupted_before_its_begin_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    assert called("train", "begun", *SMALL) == 0
    monkeypatch.setattr(work, "load_data", interrupt)
    capsys.readouterr()
    for folder in ("mine", "begun"):  # of the second nothing was changed, and the flag is not kept either
        assert called("score", "begun", "--scoring.criterion", "magnitude") == cli.INTERRUPTED
        assert called("run", folder) == cli.INTERRUPTED
        assert capsys.readouterr().err == 2 * "interrupted; nothing was begun\n"


@pytest.mark.usefixtures("few_images")
def test_what_another_process_did_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called("train", "mine", *SMALL) == 0
    load = work.load_data

    def meanwhile(data: Any, seed: int) -> Splits:
        monkeypatch.setattr(work, "load_data", load)
        assert called("score", "mine") == 0
        return load(data, seed)

    monkeypatch.setattr(work, "load_data", meanwhile)
    assert called("score", "mine", "--scoring.criterion", "magnitude") == cli.USAGE
    assert "scoring.criterion was taylor, is magnitude" in capsys.readouterr().err
    assert RunFolder(Path("mine")).settings().scoring.criterion == "taylor"


def test_on_a_full_disk_it_says_how_to_go_on() -> None:
    """No file may become larger than half a megabyte, and the state of a training takes 0.8."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    ended = subprocess.run(
        command("run", "run", *LONG), env=environment(), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert ended.returncode == cli.FAILED
    assert "File too large" in ended.stderr
    assert "make room on the disk; what was finished is kept in run. To go on: cnnprune run run" in ended.stderr
    assert sorted(path.name for path in Path("run").iterdir()) == [".lock", "settings.yaml", "versions.json"]


# predict and data


@pytest.fixture
def pictures(splits: Splits) -> Path:
    folder = Path("pictures")
    folder.mkdir()
    for n in (0, 1):
        to_pil_image(splits.test.inputs[n]).save(folder / f"{n}.png")
    return folder


BASELINE = str(CHECKPOINTS / "baseline.safetensors")


def test_predict_takes_pictures_and_test_images(
    pictures: Path, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("predict", BASELINE, str(pictures), "--index", "0", "1") == 0
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    for line, n in ((first, 0), (second, 1), (third, 0), (fourth, 1)):
        assert f": {CLASS_NAMES[int(splits.test.targets[n])]} " in line
    assert first.partition(": ")[2] == third.partition(": ")[2]
    assert third.startswith("test image 0: ")


def test_predict_prints_json_with_every_class(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("predict", BASELINE, str(pictures / "0.png"), "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)
    assert list(record["probabilities"]) == list(CLASS_NAMES)


def test_a_broken_picture_is_one_line(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The good ones are predicted, and the exit code is 1."""
    (pictures / "0a.png").write_bytes(b"no picture")
    assert called("predict", BASELINE, str(pictures), "nowhere.png") == cli.FAILED
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    broken, missing = captured.err.splitlines()
    assert "0a.png: " in broken
    assert missing.startswith("nowhere.png: ")


def test_predict_takes_the_last_network_of_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And says so where it is not fine-tuned."""
    Path("run").mkdir()
    assert called("predict", "run", "--index", "0") == cli.FAILED
    assert "holds no network of a run; `cnnprune train` makes one" in capsys.readouterr().err
    said = []
    for name, seed_widths in (("baseline", (2, 4, 8)), ("pruned", (1, 2, 3)), ("finetuned", (1, 2, 2))):
        save_model(CNN(seed_widths), Path("run", f"{name}.safetensors"))
        assert called("predict", "run", "--index", "0", "--json") == 0
        in_run, note = capsys.readouterr()
        assert (f"the {name} network answers" in note) == (name != "finetuned")
        assert called("predict", f"run/{name}.safetensors", "--index", "0", "--json") == 0
        assert capsys.readouterr().out == in_run
        said.append(in_run)
    assert len(set(said)) == 3


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "nowhere",
            "there is no run folder and no file nowhere; and there is no sqlite:///runs/mlflow.db to ask for it",
        ),
        ("runs/nowhere", "there is no run folder and no file runs/nowhere"),
        ("nowhere.safetensors", "there is no run folder and no file nowhere.safetensors"),
        ("text.safetensors", "text.safetensors is damaged, or not a safetensors file"),
        ("colour.safetensors", "holds a network for other images than Fashion-MNIST's"),
    ],
)
def test_predict_names_a_model_that_it_cannot_use(model: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.safetensors").write_text("a text")
    save_model(CNN(in_channels=3), "colour.safetensors")
    assert called("predict", model, "shoe.png") == cli.FAILED
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_data_says_where_the_images_are(capsys: pytest.CaptureFixture[str], splits: Splits) -> None:
    assert called("data") == 0
    assert capsys.readouterr().out.count("SHA-256 ok") == 4


def test_missing_data_is_fetched_aloud(tmp_path: Path) -> None:
    """Where it cannot be had there is no traceback."""
    code = "import sys; from cnnprune_utils.book import fetch; from cnnprune_utils.command import __main__ as entry\n"
    code += "def fail(wanted, scratch): raise fetch.FetchError('not here')\n"
    code += "fetch.sources = lambda: [fetch.Source('a place', fail)]\nsys.exit(entry.main())"
    ended = subprocess.run(
        [sys.executable, "-c", code, "predict", BASELINE, "--index", "0"],
        env=environment() | {"CNNPRUNE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    raw = tmp_path / "FashionMNIST" / "raw"
    said = f"{raw} lacks 4 of 4 files\ntrying a place\n  no: not here\nerror: Fashion-MNIST is not complete in {raw}"
    assert ended.returncode == cli.FAILED
    assert ended.stderr.startswith(said)
    assert "Traceback" not in ended.stderr


# signs and signals


def test_signs_that_the_output_cannot_show_end_no_run() -> None:
    code = "import sys; from cnnprune_utils.command import __main__ as entry, cli\n"
    code += "cli.main = lambda: print('├─') or 0\nsys.exit(entry.main())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, b"??", b"")


def test_ctrl_c_again_changes_nothing() -> None:
    code = "import signal, sys; from cnnprune_utils.command import __main__ as entry, cli\n"
    code += "cli.main = lambda: 130\ncode = entry.main(); signal.raise_signal(signal.SIGINT); sys.exit(code)"
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (cli.INTERRUPTED, b"")


def test_ctrl_c_before_anything_else_is_no_traceback() -> None:
    code = "import sys; from cnnprune_utils.command import __main__ as entry, cli\n"
    code += "def pressed(): raise KeyboardInterrupt\ncli.main = pressed\nsys.exit(entry.main())"
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (cli.INTERRUPTED, b"")
