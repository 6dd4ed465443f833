"""The ways into the book that can fail before Python has started: each says in one line what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("awk", "cksum", "cut", "dirname", "grep", "mkdir", "sh", "touch")  # what the script and the Makefile call
PYTHON_3_9 = '#!/bin/sh\ncase "$1" in -V) echo Python 3.9.2;; -c) exit 1;; esac\n'
WITHOUT_ENSUREPIP = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexit 0\n'
FULL_DISK = "#!/bin/sh\necho Filesystem 1024-blocks Used Available\necho /dev/disk 90000000 88000000 2000000 /\n"
EMPTY_DISK = "#!/bin/sh\necho Filesystem 1024-blocks Used Available\necho /dev/disk 90000000 0 90000000 /\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands that is all a run finds: the tools, an endless disk, a browser, and no Python yet."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (commands / tool).symlink_to(found)
    command(commands / "df", EMPTY_DISK)
    command(commands / "chromium", "#!/bin/sh\n")
    return commands


def command(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def run(machine: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(machine), "VENV": str(machine.parent / "venv"), **variables}
    script = ROOT / "site" / "environment.sh"
    return subprocess.run(["/bin/sh", script], env=environment, capture_output=True, text=True, check=False)


def make(*arguments: str, folder: Path = ROOT, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """`make` as a person types it, though these tests may themselves run under a make."""
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "PIP_FLAGS", "REPOSITORY"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {"PATH": path}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def the_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a run that failed."""
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_no_python(machine: Path) -> None:
    assert re.search(r"there is no python3: install Python 3\.11 .* PYTHON=", the_error(run(machine)))


def test_a_python_that_is_too_old(machine: Path) -> None:
    command(machine / "python3", PYTHON_3_9)
    assert re.search(r"python3 is Python 3\.9\.2, and 3\.11 or newer is needed", the_error(run(machine)))


def test_an_environment_whose_python_is_too_old(machine: Path) -> None:
    (machine.parent / "venv" / "bin").mkdir(parents=True)
    command(machine.parent / "venv" / "bin" / "python", PYTHON_3_9)
    assert re.search(r"the Python of \S*venv does not run or is older than 3\.11", the_error(run(machine)))


def test_no_venv_module(machine: Path) -> None:
    command(machine / "python3", WITHOUT_ENSUREPIP)
    assert "apt-get install python3-venv" in the_error(run(machine))


def test_no_room_on_the_disk(machine: Path) -> None:
    command(machine / "python3", WITHOUT_ENSUREPIP)
    command(machine / "df", FULL_DISK)
    assert re.search(r"needs about 7 GB and its disk has 1 GB free", the_error(run(machine)))
    cpu = run(machine, PIP_FLAGS="--extra-index-url https://example.org/whl/cpu")
    assert re.search(r"needs about 3 GB and its disk has 1 GB free", the_error(cpu))
    assert not (machine.parent / "venv").exists()


def test_a_complete_environment_is_left_alone(machine: Path) -> None:
    command(machine / "df", FULL_DISK)
    result = run(machine, VENV=sys.prefix)
    assert (result.returncode, result.stdout) == (0, f"Environment: {sys.prefix} has everything.\n")


@pytest.mark.parametrize("user", ["administrator", "sudo without a password", "anyone"])
def test_chromium_is_installed_where_allowed(machine: Path, user: str) -> None:
    (machine / "chromium").unlink()
    command(machine / "id", f"#!/bin/sh\necho {0 if user == 'administrator' else 1000}\n")
    command(machine / "env", '#!/bin/sh\nshift\nexec "$@"\n')
    command(machine / "apt-get", f'#!/bin/sh\necho "$@" >> {machine}/calls\n')
    command(machine / "sudo", "#!/bin/sh\nexit 1\n" if user == "anyone" else '#!/bin/sh\nshift\nexec "$@"\n')
    command(machine / "true", "#!/bin/sh\n")
    result = run(machine, VENV=sys.prefix)
    assert (result.returncode, result.stderr) == (0, "")
    if user == "anyone":
        assert "the tests of the web pages are skipped" in result.stdout
        assert not (machine / "calls").exists()
    else:
        assert " install -qq -y --no-install-recommends chromium" in (machine / "calls").read_text()


def test_a_browser_is_not_required(machine: Path) -> None:
    (machine / "chromium").unlink()
    result = run(machine, VENV=sys.prefix)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "Browser: no Chromium here, so the tests of the web pages are skipped; to have them: apt-get install chromium",
        f"Environment: {sys.prefix} has everything.",
    ]


def test_a_failed_browser_install_is_not_fatal(machine: Path) -> None:
    (machine / "chromium").unlink()
    command(machine / "id", "#!/bin/sh\necho 0\n")
    command(machine / "apt-get", "#!/bin/sh\necho no network >&2\nexit 100\n")
    result = run(machine, VENV=sys.prefix)
    assert (result.returncode, result.stderr) == (0, "")
    assert "apt could not install it" in result.stdout


def test_only_failed_installs_are_repeated(machine: Path, tmp_path: Path) -> None:
    """With an environment whose Python counts its pip calls: the first fails, the second meets every requirement."""
    calls = tmp_path / "calls"
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    command(
        python,
        f"""#!/bin/sh
case "$*" in
    *"pip install"*) echo "$*" >> {calls}; [ "$(grep -c . {calls})" -gt 1 ] ;;
    *missing.py*) [ -e {calls} ] && [ "$(grep -c . {calls})" -gt 1 ] || echo torch ;;
esac
""",
    )
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "site", checkout / "site")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)

    arguments = ["data", f"VENV={tmp_path / 'venv'}", "PIP_FLAGS=--prefer-binary --no-input"]
    path = f"{machine}:{os.environ['PATH']}"
    assert [make(*arguments, folder=checkout, path=path).returncode == 0 for _ in range(3)] == [False, True, True]
    install = "-m pip install --prefer-binary --no-input --editable .[book,command,test]"
    assert calls.read_text().splitlines() == [install] * 2


@pytest.mark.parametrize("has_ensurepip", [True, False])
def test_an_environment_without_pip_gets_one(machine: Path, has_ensurepip: bool) -> None:
    calls, python = machine.parent / "calls", machine.parent / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    command(
        python,
        f"""#!/bin/sh
case "$*" in
    "-m pip --version") exit 1 ;;
    *ensurepip*) {"" if has_ensurepip else "exit 1;"} echo ensurepip >> {calls} ;;
    *"pip install"*) echo install >> {calls} ;;
    *missing.py*) [ -e {calls} ] || echo torch ;;
esac
""",
    )
    command(machine / "python3", f"#!/bin/sh\necho another Python: $* >> {calls}\n")
    result = run(machine)
    if has_ensurepip:
        assert (result.returncode, result.stderr) == (0, "")
        assert calls.read_text().split() == ["ensurepip", "install"]
    else:
        assert "has no pip" in the_error(result)
        assert not calls.exists()


@pytest.mark.parametrize("target", ["book", "html", "outputs"])
def test_a_stopped_target_leaves_no_process(machine: Path, tmp_path: Path, target: str) -> None:
    """With a Python that writes down who it is, and then takes its time."""
    python, pid = tmp_path / "venv" / "bin" / "python", tmp_path / "pid"
    python.parent.mkdir(parents=True)
    command(python, f'#!/bin/sh\ncase "$1" in site/[bpe]*.py) echo $$ > {pid}; exec sleep 600 ;; esac\n')
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "site", checkout / "site")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    process = subprocess.Popen(
        ["make", target, f"VENV={tmp_path / 'venv'}"], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=20)
    assert not psutil.pid_exists(int(pid.read_text()))


def test_every_target_that_help_lists_can_be_made() -> None:
    shown = make("help").stdout
    targets = re.findall(r"^  ([a-z]+) ", shown, flags=re.MULTILINE)
    assert targets
    assert [target for target in targets if make("--dry-run", target).returncode] == []
    assert make().stdout == shown
