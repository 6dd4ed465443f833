"""Print the requirements of pyproject.toml that this Python's environment does not meet, one per line.

It reads the metadata of the installed packages and imports none of them, so it is fast.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def missing() -> list[str]:
    """Return the unmet requirements of the package, its book, its command and its tests, including the package."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["book"], *extras["command"], *extras["test"], project["name"]]
    try:
        from packaging.requirements import Requirement
    except ImportError:  # half of them need it, so the environment is new or broken
        return wanted
    unmet = []
    for requirement in map(Requirement, wanted):
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                unmet.append(str(requirement))
        except PackageNotFoundError:
            unmet.append(str(requirement))
    return unmet


if __name__ == "__main__":
    sys.stdout.writelines(f"{requirement}\n" for requirement in missing())
