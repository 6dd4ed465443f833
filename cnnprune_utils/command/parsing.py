"""Settings read from YAML files and flags by jsonargparse, and written as YAML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from .groups import SIZES
from .settings import Settings

CONFIGS = Path(__file__).parent / "configs"


class SettingsError(ValueError):
    """A setting that is unknown, of a wrong type or impossible; or a file that holds no settings."""


def shipped() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(file: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, without defaults for those that it does not name.

    Raises:
        FileNotFoundError: the file does not exist.
        SettingsError: it is not YAML, or does not hold names with values.
    """
    try:
        return _mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise SettingsError(f"{file}: {' '.join(str(error).split())}") from error


def named(name: str) -> dict[str, Any]:
    """Return the settings in the file ``name``, or in the configuration of this name that comes with the package.

    Raises:
        SettingsError: neither exists, or the file is not a configuration.
    """
    if Path(name).is_file():
        return load(Path(name))
    if name in shipped():
        return load(CONFIGS / f"{name}.yaml")
    raise SettingsError(f"there is no file {name}, and no configuration of that name: there are {', '.join(shipped())}")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` updated by ``over``; a mapping of layers to numbers is one setting.

    Only one size to prune to can be set, so one in ``over`` replaces another one in ``base``.
    """
    result = {**base, **over}
    for name, group in over.items():
        if isinstance(base.get(name), dict) and isinstance(group, Mapping):
            replaced = (
                dict.fromkeys(SIZES) if name == "pruning" and any(group.get(s) is not None for s in SIZES) else {}
            )
            result[name] = {**base[name], **replaced, **group}
    return result


def add_settings(parser: ArgumentParser, sections: Iterable[str]) -> None:
    """Add a flag for every setting of these sections, such as ``--training.epochs``."""
    parser.add_class_arguments(Settings, None, skip=set(asdict(Settings())) - set(sections))


def to_yaml(settings: Settings) -> str:
    """Return all settings as YAML; :func:`read` reads them back."""
    return yaml.safe_dump(asdict(settings), sort_keys=False)


def as_flag(value: Any) -> str:
    """Return the value of a setting as it is typed behind its flag in a shell."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def read(file: Path) -> Settings:
    """Return the settings in ``file``, with defaults for those that it does not name.

    Raises:
        FileNotFoundError: the file does not exist.
        SettingsError: it is not YAML, or holds a setting that is unknown or impossible.
    """
    try:
        return from_mapping(load(file))
    except SettingsError as error:
        raise SettingsError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def from_mapping(values: Mapping[str, Any]) -> Settings:
    """Return the settings in nested mappings, as in a YAML file.

    Raises:
        SettingsError: a setting is unknown, of a wrong type or impossible.
    """
    for name, default in vars(Settings()).items():
        group = values.get(name, {})
        if not is_dataclass(default):
            _refuse_null(Settings, values, name)
        elif not isinstance(group, Mapping):
            raise SettingsError(f"{name} is a group of settings, {', '.join(vars(default))}, not {group!r}")
        else:
            for key in group:
                _refuse_null(type(default), group, key, f"{name}.")
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser, asdict(Settings()))
    try:
        return Settings(**vars(parser.instantiate(parser.parse_object(dict(values)))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error


def _refuse_null(group: type, values: Mapping[str, Any], name: str, prefix: str = "") -> None:
    """Raise for null where the type does not allow it: jsonargparse accepts it everywhere."""
    kind = get_type_hints(group).get(name)
    if kind is not None and name in values and values[name] is None and type(None) not in get_args(kind):
        raise SettingsError(f"{prefix}{name} must have a value, not null")


def _mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SettingsError(f"settings are names with values, not {str(values)[:40]!r}")
    return values
