"""Files of a Debian package, downloaded with ``apt-get`` and unpacked without installing it: needs no root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

TIMEOUT = 5  # seconds without an answer after which a server is given up; apt asks twice
LIMIT = 300.0  # seconds after which a program is given up

# Everything that apt writes goes below ``scratch``; hooks that administrators set for a real update are not run.
_CONFIG = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::http::Timeout "{timeout}";
Acquire::https::Timeout "{timeout}";
Dir::Cache "{scratch}/cache";
"""


class AptError(OSError):
    """The package is unavailable; the message says why."""


def unpack(package: str, scratch: Path) -> Path:
    """Download ``package`` and unpack it; return the folder that stands for ``/``, below ``scratch``.

    Raises:
        AptError: apt is not installed, does not know the package, or cannot reach the network.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise AptError(f"{tool} is not installed")
    for folder in ("cache/archives/partial", "state/lists/partial", "unpacked"):
        (scratch / folder).mkdir(parents=True)
    config = scratch / "apt.conf"
    config.write_text(_CONFIG.format(scratch=scratch, timeout=TIMEOUT), encoding="utf-8")
    apt = ("apt-get", "-q", "-c", str(config))
    try:
        _run(*apt, "download", package, cwd=scratch)
    except AptError as error:
        if "Failed to fetch" in str(error) and "404" not in str(error):
            raise  # the lists know the package; the network does not answer
        _download_with_own_lists(*apt, "-o", f"Dir::State={scratch / 'state'}", package=package, cwd=scratch)
    for file in scratch.glob("*.deb"):
        _run("dpkg-deb", "-x", str(file), "unpacked", cwd=scratch)
    return scratch / "unpacked"


def _download_with_own_lists(*apt: str, package: str, cwd: Path) -> None:
    """Run ``apt-get update`` into a private folder first: the system's package lists are empty or old."""
    update_said = ""
    try:
        _run(*apt, "update", cwd=cwd)
    except AptError as error:
        update_said = f"{error}; "  # it may be about another repository: the package decides
    try:
        _run(*apt, "download", package, cwd=cwd)
    except AptError as error:
        raise AptError(f"{update_said}{error}") from None


def _run(*command: str, cwd: Path) -> None:
    """Run a program quietly within ``LIMIT`` seconds; an ``AptError`` holds the errors it printed."""
    english = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=english, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise AptError(f"too slow: {command[0]} not finished after {LIMIT:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
        raise AptError(" ".join(errors) or f"{command[0]} ended with code {done.returncode}")
