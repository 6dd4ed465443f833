"""The specification of the settings of a run: cnnprune_utils.command.groups, settings and parsing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from benchmarks import recipe, usual_recipe
from cnnprune_utils.command.groups import Criterion, Loop, Network, Pruning, Schedule
from cnnprune_utils.command.parsing import CONFIGS, SettingsError, from_mapping, merged, named, read, shipped, to_yaml
from cnnprune_utils.command.settings import Settings, differences
from cnnprune_utils.criteria import CRITERIA
from cnnprune_utils.loop import compress
from cnnprune_utils.training import SCHEDULES

# what ships


@pytest.mark.parametrize("name", shipped())
def test_shipped_configurations_are_valid(name: str) -> None:
    assert from_mapping(named(name)) == read(CONFIGS / f"{name}.yaml")
    assert (CONFIGS / f"{name}.yaml").read_text().startswith("# ")


def test_the_usual_recipe_has_its_numbers() -> None:
    settings = read(CONFIGS / "seed.yaml")
    for training in (settings.training, settings.finetuning):
        assert training.epochs == usual_recipe.EPOCHS
        assert training.batch_size == usual_recipe.BATCH_SIZE
        assert training.learning_rate == usual_recipe.LEARNING_RATE
        assert training.schedule == "constant"
    assert settings.pruning.remove == usual_recipe.REMOVED
    assert settings.pruning.way == "one_shot"


def test_without_any_setting_a_run_is_the_books() -> None:
    settings = Settings()
    assert settings.network.layers == {"network.0": 2, "network.2": 4, "network.4": 8}
    assert (settings.training.epochs, settings.finetuning.epochs) == (recipe.TRAIN_EPOCHS, recipe.TUNE_EPOCHS)
    assert (settings.scoring.criterion, settings.scoring.split, settings.pruning.remove) == ("taylor", "validation", 8)


def test_the_papers_loop_ships() -> None:
    pruning = read(CONFIGS / "paper.yaml").pruning
    assert (pruning.way, pruning.remove) == ("loop", 8)


def test_the_loop_has_the_defaults_of_compress() -> None:
    defaults = {name: p.default for name, p in inspect.signature(compress).parameters.items()}
    names = {"images": "n_images", "updates": "update"}
    for field in fields(Loop):
        assert field.default == defaults[names.get(field.name, field.name)], field.name


def test_the_choices_are_those_of_the_package() -> None:
    assert list(get_args(Criterion)) == list(CRITERIA)
    assert list(get_args(Schedule)) == list(SCHEDULES)


# reading and writing


def test_a_named_size_replaces_another() -> None:
    base = asdict(Settings())
    assert from_mapping(merged(base, {"pruning": {"parameters": 20_000}})).pruning == Pruning(
        remove=None, parameters=20_000
    )
    both = merged(base, {"pruning": {"way": "loop", "points": 1}})
    assert from_mapping(both).pruning == Pruning(way="loop", remove=8, points=1)
    with pytest.raises(SettingsError, match="give one of"):
        from_mapping(merged(base, {"pruning": {"parameters": 20_000, "remove": 3}}))


def test_settings_written_as_yaml_are_read_back() -> None:
    values = {"seed": 3, "network": {"widths": [3, 5]}, "pruning": {"remove": {"network.2": 2}}, "data": {"train": 99}}
    settings = from_mapping(values)
    assert from_mapping(yaml.safe_load(to_yaml(settings))) == settings
    assert settings.network == Network([3, 5])
    assert settings.training == Settings().training


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trainig": {"epochs": 1}}, "trainig.epochs' is not accepted"),
        ({"training": {"epoch": 1}}, "'training' does not accept option 'epoch'"),
        ({"training": {"epochs": 1.5}}, "training.epochs.*\n.*1.5"),
        ({"training": {"epochs": "many"}}, "training.epochs.*\n.*many"),
        ({"training": 3}, "training is a group of settings, epochs, .*, not 3"),
        ({"seed": None}, "seed must have a value, not null"),
        ({"training": {"epochs": None}}, "training.epochs must have a value, not null"),
        ({"seed": -1}, "seed=-1 must lie between 0 and 4294967295"),
        ({"training": {"epochs": 0}}, "training.epochs=0 must be at least 1"),
        ({"finetuning": {"batch_size": -32}}, "finetuning.batch_size=-32 must be at least 1"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate=0.* must be a positive number"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate=nan must be a positive number"),
        ({"training": {"schedule": "cosine"}}, "training.schedule.*\n.*cosine"),
        ({"network": {"widths": []}}, "network.widths"),
        ({"network": {"widths": [2, 0]}}, "network.widths"),
        ({"data": {"validation": 7}}, "data.validation=7 must be a multiple of 10"),
        ({"data": {"train": 60000}}, "data.train=60000 must lie between 1 and 55000"),
        ({"scoring": {"criterion": "tailor"}}, "scoring.criterion.*\n.*tailor"),
        ({"scoring": {"images": 5001}}, "scoring.images=5001: there are 5000 validation images"),
        ({"scoring": {"macs_penalty": -0.1}}, "scoring.macs_penalty=-0.1 must be at least 0"),
        ({"pruning": {"remove": -1}}, "pruning.remove=-1 must be at least 0"),
        ({"pruning": {"remove": 12}}, "pruning.remove=12: at most 11 of the 14 filters can be removed"),
        (
            {"pruning": {"remove": {"network.1": 1}}},
            "no layer network.1. The layers are network.0, network.2, network.4",
        ),
        ({"pruning": {"remove": {"network.0": 2}}}, "2 filters of network.0, which has 2 .* at most 1 can be removed"),
        ({"pruning": {"remove": {"network.0": -1}}}, "pruning.remove of network.0=-1 must be at least 0"),
        ({"pruning": {"parameters": 9000}}, "pruning.remove=8 and pruning.parameters=9000 .* --pruning.remove null"),
        ({"pruning": {"remove": None}}, "nothing says how far to prune"),
        ({"pruning": {"points": 1.0}}, "pruning.points is for the loop"),
        ({"pruning": {"way": "loop", "points": 101}}, "pruning.points=101.* must lie between 0 and 100"),
        ({"pruning": {"way": "loop", "remove": {"network.0": 1}}}, "the loop chooses the layers itself"),
        ({"pruning": {"keep_at_least": 0}}, "pruning.keep_at_least=0 must be at least 1"),
        ({"loop": {"updates": -1}}, "loop.updates=-1 must be at least 0"),
        ({"loop": {"step": 0}}, "loop.step=0 must be at least 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(values: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_mapping(values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "settings are names with values, not 'None'"),
        (b"just text", "settings are names with values"),
        (b"seed: [1", "while parsing"),
        (b"\xff\xfe\x00", "bad.yaml"),
        (b"seed: {", "bad.yaml"),
        (b"sed: 1", "sed"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=said) as caught:
        read(tmp_path / "bad.yaml")
    assert str(caught.value).count("bad.yaml") == 1


def test_configurations_are_files_or_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick").write_text("seed: 5")
    assert named("quick") == {"seed": 5}
    with pytest.raises(SettingsError, match=r"no file nope, .* there are paper, quick, seed"):
        named("nope")


def test_later_settings_win() -> None:
    base = asdict(Settings())
    over = {"seed": 1, "training": {"epochs": 9}, "pruning": {"remove": {"network.4": 5}}}
    settings = from_mapping(merged(base, over))
    assert (settings.seed, settings.training.epochs, settings.training.batch_size) == (1, 9, 256)
    again = from_mapping(merged(asdict(settings), {"pruning": {"remove": {"network.2": 1}}}))
    assert again.pruning.remove == {"network.2": 1}


def test_differences_are_by_section() -> None:
    now = from_mapping({"seed": 2, "training": {"epochs": 5}, "data": {"root": "/elsewhere"}})
    assert differences(Settings(), now, ("seed", "data", "training")) == {
        "seed": (0, 2),
        "training.epochs": (6, 5),
    }
    assert differences(Settings(), now, ("scoring", "data")) == {}


def test_help_comes_without_pytorch() -> None:
    code = "import sys, cnnprune_utils.command.cli as c; c.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
