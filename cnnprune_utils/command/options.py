"""The parser of the command line: commands, flags, and their help."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from textwrap import fill

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from .folder import RunFolder
from .parsing import add_settings, from_mapping, merged, named, shipped
from .settings import Settings
from .store import DEFAULT

DESCRIPTION = """\
Prune the filters of a small convolutional network on Fashion-MNIST with the Taylor criterion: train it, score its
filters, remove those that matter least, fine-tune the pruned network, compare.

A run is a folder. Every step reads the results of the steps before it from there. A step that was interrupted
continues with the same command, to the same result.
"""
EXAMPLES = """
examples:
  cnnprune run --config quick             all steps in less than a minute, into runs/quick
  cnnprune run --config quick --help      every setting
  cnnprune run runs/mine --pruning.remove 6
  cnnprune train runs/mine                the same step by step: train, score, prune, finetune, compare
  cnnprune predict runs/quick --index 0   classify a test image; or files, such as shoe.png
  cnnprune ui                             MLflow's pages: every run, its settings, curves, files and networks

exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted
"""
_FOLDER = "the folder of the run"
_STEPS = {
    "train": "train the original network: begins a run",
    "score": "score its filters, and rank them",
    "prune": "remove the filters that matter least",
    "finetune": "train the pruned network",
    "compare": "sizes and test accuracy: original, pruned, fine-tuned",
}
_SHIPPED = {"paper": "the paper's loop", "quick": "a first try", "seed": "the usual recipe"}
_SECTIONS = {
    "score": ["scoring", "tracking"],
    "prune": ["pruning", "loop", "tracking"],
    "finetune": ["finetuning", "tracking"],
    "compare": ["tracking"],
}
BEGINS = ("run", "train")
"""The commands that may begin a run. They take every setting; the later steps take their own only."""


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Hides types that the choices show, and defaults that are null, false or empty."""

    def _expand_help(self, action: Action) -> str:
        text = re.sub(r"type: Literal\[.*?\], ", "", super()._expand_help(action))
        text = text.replace(" (required)", "") if action.nargs == "*" else text
        return re.sub(r" \(default: (null|False|\[\])\)|, default: null(?=\))", "", text)


def parser() -> ArgumentParser:
    """Return the parser. Its result has ``command``, and the options of that command under its name."""
    whole = ArgumentParser(
        prog="cnnprune",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        version=_version(),
        formatter_class=Help,
        allow_abbrev=False,  # --re must not mean --redo, which deletes
    )
    commands = whole.add_subcommands(dest="command", metavar="COMMAND")
    commands.add_subcommand("run", _beginning("run", "train, score, prune, finetune and compare"), help="all in one go")
    for name, text in _STEPS.items():
        sub = _beginning(name, text) if name in BEGINS else _step(name, text)
        commands.add_subcommand(name, sub, help=text)
    commands.add_subcommand("predict", _predict(), help="classify images with a network")
    commands.add_subcommand("data", _data(), help="fetch Fashion-MNIST")
    commands.add_subcommand("ui", _ui(), help="MLflow's pages of all runs, for this machine only")
    return whole


def settings_of(command: str, given: Namespace) -> tuple[RunFolder, Settings]:
    """Return the run's folder and settings: its own if it was begun, updated by --config, then by the flags.

    Raises:
        SettingsError: a setting is unknown or impossible.
        RunError: the folder is not a run, and this command does not begin one.
    """
    config = given.get("config")
    folder = RunFolder(Path(given.get("folder") or Path("runs", Path(config or "book").stem)))
    begins = command in BEGINS and not folder.file("settings.yaml").is_file()
    base = asdict(Settings() if begins else folder.settings())
    flags = {name: value for name, value in given.as_dict().items() if name in base}
    return folder, from_mapping(merged(merged(base, named(config) if config else {}), flags))


def _beginning(name: str, text: str) -> ArgumentParser:
    sub = _sub(
        name,
        f"{text[0].upper()}{text[1:]}. Called again for the same folder, it continues to the same result. Flags "
        "override --config, and --config overrides the settings that the run was begun with.",
        "[FOLDER] [--config CONFIG] [--SETTING VALUE ...]",
    )
    sub.add_argument("folder", nargs="?", help=f"{_FOLDER}; default: runs/NAME with --config NAME, else runs/book")
    comes_along = f"one that comes with the package: {', '.join(f'{name} ({_SHIPPED[name]})' for name in shipped())}"
    sub.add_argument("--config", type=str, metavar="CONFIG", help=f"settings in a YAML file; or {comes_along}")
    sub.add_argument("--print-config", action="store_true", help="print the settings as YAML, and do nothing else")
    _add_redo(sub)
    _add_settings(sub, [field.name for field in fields(Settings)])
    return sub


def _step(name: str, text: str) -> ArgumentParser:
    sub = _sub(
        name,
        f"{text[0].upper()}{text[1:]}. Flags change the run's own settings, as long as this step is not done.",
        "FOLDER [--SETTING VALUE ...]",
    )
    sub.add_argument("folder", help=_FOLDER)
    _add_redo(sub)
    _add_settings(sub, _SECTIONS[name])
    return sub


def _sub(name: str, description: str, usage: str) -> ArgumentParser:
    sub = ArgumentParser(description=fill(description), formatter_class=Help, print_config=None)
    sub.usage = f"cnnprune {name} {usage}"
    return sub


def _add_settings(sub: ArgumentParser, sections: Sequence[str]) -> None:
    add_settings(sub, sections)
    for action in sub._actions:  # a flag that takes a file for one group: --config does the same
        if action.option_strings and action.option_strings[0].removeprefix("--") in sections and action.dest != "seed":
            action.help = SUPPRESS


def _add_redo(sub: ArgumentParser) -> None:
    sub.add_argument("--redo", action="store_true", help="first delete the results of this step and of later ones")


def _predict() -> ArgumentParser:
    sub = _sub(
        "predict",
        "Say which piece of clothing an image shows. Fashion-MNIST is light on dark, 28x28 and grey; other pictures "
        "are converted, and the output says if one was inverted. The exit code is 1 if a picture could not be read.",
        "MODEL [IMAGE ...] [--index N ...] [--json]",
    )
    sub.add_argument(
        "model",
        help=f"{_FOLDER}, whose last network is taken: fine-tuned, else pruned, else original; or a .safetensors "
        "file; or, in MLflow's store, the id of a run, or a registered model: NAME, NAME/VERSION or NAME@ALIAS",
    )
    sub.add_argument("images", nargs="*", help="PNG and JPEG files, of any size; or folders of them")
    sub.add_argument(
        "--index",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also these of the 10,000 test images, from 0 to 9999",
    )
    sub.add_argument("--json", action="store_true", help="print JSON, with the probability of every class")
    sub.add_argument(
        "--invert", type=bool | None, default=None, help="light becomes dark; null: if the corners are light"
    )
    sub.add_argument("--root", type=str | None, default=None, help="folder of the data, for --index")
    _add_store(sub)
    return sub


def _data() -> ArgumentParser:
    sub = _sub("data", "Fetch the missing files of Fashion-MNIST, and verify all of them.", "[ROOT]")
    text = "the folder; default: CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder"
    sub.add_argument("root", nargs="?", help=text)
    return sub


def _ui() -> ArgumentParser:
    sub = _sub("ui", "Serve MLflow's pages on this machine's loopback address, until Ctrl-C.", "[--port PORT]")
    sub.add_argument("--port", type=int, default=5000, help="the port")
    _add_store(sub)
    return sub


def _add_store(sub: ArgumentParser) -> None:
    text = f"MLflow's store; default: the variable MLFLOW_TRACKING_URI, else {DEFAULT}"
    sub.add_argument("--tracking.uri", type=str | None, default=None, metavar="URI", help=text)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cnnprune-utils")
    except PackageNotFoundError:
        return "unknown: not installed"
