"""The folder of a run: the files of each step, the steps that are done, and the settings that are fixed."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import rmtree

from filelock import FileLock, Timeout

from ..files import changes, write
from . import parsing
from .settings import Settings, differences

STEPS: dict[str, tuple[str, ...]] = {
    "train": ("baseline.safetensors", "train.csv", "summary_before.txt"),
    "score": ("ranks.csv",),
    "prune": ("plan.json", "pruned.safetensors", "removed.csv", "summary_after.txt"),
    "finetune": ("finetuned.safetensors", "finetune.csv"),
    "compare": ("comparison.csv",),
}
"""Step -> the files that it writes, in their order; a step is done when all are there."""

READS: dict[str, tuple[str, ...]] = {
    "train": ("seed", "data", "network", "training"),
    "score": ("scoring",),
    "prune": ("pruning", "loop"),
    "finetune": ("finetuning",),
    "compare": (),
}
"""Step -> the settings that it is the first to read."""

_UNFINISHED = {
    "train": "train.state",
    "prune": "loop",
    "finetune": "finetune.state",
}  # the state of a step that was interrupted
_ALSO = {"train": ("figures/training.png",), "score": ("figures/ranks.png",), "prune": ("loop.csv",)}
_ALSO |= {"finetune": ("figures/accuracy.png",), "compare": ("figures/shares.png",)}


class RunError(ValueError):
    """The folder is not a run, is that of another run, or lacks an earlier step."""


class RunFolder:
    """The folder of one run; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready = False  # True once begin has written the settings

    def file(self, name: str) -> Path:
        return self.path / name

    def files(self, step: str) -> list[Path]:
        """Return the existing files that the step wrote."""
        return [file for name in (*STEPS[step], *_ALSO.get(step, ())) if (file := self.file(name)).exists()]

    def done(self, step: str) -> bool:
        return all(self.file(name).exists() for name in STEPS[step])

    def unfinished(self, step: str) -> Path:
        """Return the path where the step keeps its state until it is done."""
        return self.file(_UNFINISHED[step])

    def settings(self) -> Settings:
        """Return the settings that the run was begun with.

        Raises:
            RunError: the folder is not a run.
            parsing.SettingsError: its settings.yaml was edited and is not valid.
        """
        if not self.file("settings.yaml").is_file():
            where = "a new folder" if self.path.exists() else self.path
            raise RunError(f"there is no run in {self.path}; `cnnprune train` begins one in {where}")
        return parsing.read(self.file("settings.yaml"))

    def refuse(self, settings: Settings, *, step: str, redo: bool) -> None:
        """Check that :meth:`begin` may be called; change nothing.

        Raises:
            RunError: an earlier step is missing, the folder is not a run, or a step was begun with other settings.
        """
        before = list(STEPS)[: list(STEPS).index(step)]
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, and a run is a folder. Choose a new one")
        if self.file("settings.yaml").is_file():
            was = self.settings()
            for name in before if redo else STEPS:
                changed = differences(was, settings, READS[name]) if self.begun(name) else {}
                if changed:
                    old, now = ({key: values[i] for key, values in changed.items()} for i in (0, 1))
                    said = changes(old, now)
                    flags = " ".join(f"--{key} {parsing.as_flag(value)}" for key, value in now.items())
                    raise RunError(
                        f"{self.path} was begun with other settings: {said}. Choose another folder, or redo the step: "
                        f"`cnnprune {name} {shlex.quote(str(self.path))} --redo {flags}`, which deletes the results of "
                        f"later steps, and repeat this command"
                    )
        elif step != "train":
            self.settings()  # raises
        elif self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise RunError(f"{self.path} is no run: it holds files, but no settings.yaml. Choose a new folder")
        for name in before:
            if not self.done(name):
                raise RunError(f"{self.path} lacks the results of {name}. Run first: cnnprune {name} {self.path}")

    def begin(self, settings: Settings, *, step: str, redo: bool) -> None:
        """Prepare the folder, which exists, for ``step``; with ``redo``, delete this step and the later ones first."""
        if redo:
            self.forget(step)
        for part in self.path.rglob(".*.part"):  # of a write that was killed
            part.unlink()
        write(self.file("settings.yaml"), parsing.to_yaml(settings).encode())
        self.ready = True
        if not self.file("versions.json").exists():
            write(self.file("versions.json"), json.dumps(versions(settings), indent=2).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep other processes out of it meanwhile.

        Raises:
            RunError: another process works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.file(".lock"))  # released when the process ends, however it ends
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RunError(f"another process works in {self.path}. Wait for it, or choose another folder") from None
        try:
            yield
        finally:
            lock.release()

    def forget(self, step: str) -> None:
        """Delete the files of this step and of the later ones."""
        for name in reversed(list(STEPS)[list(STEPS).index(step) :]):
            for file in reversed(self.files(name)):
                file.unlink()
            self.clear(name)
        if step == "train":
            self.file("versions.json").unlink(missing_ok=True)

    def clear(self, step: str) -> None:
        """Delete the state of a step that is done."""
        if self._is_unfinished(step):
            state = self.unfinished(step)
            rmtree(state) if state.is_dir() else state.unlink()

    def begun(self, step: str) -> bool:
        """Return whether the step is done, or was interrupted."""
        return self.done(step) or self._is_unfinished(step)

    def _is_unfinished(self, step: str) -> bool:
        return step in _UNFINISHED and self.unfinished(step).exists()


def versions(settings: Settings) -> Mapping[str, str | int | None]:
    """Return the seed, the versions of Python and packages, and the commit of the package's checkout."""
    found: dict[str, str | int | None] = {"seed": settings.seed, "git_commit": git_commit()}
    found["python"] = ".".join(map(str, sys.version_info[:3]))
    found["machine"] = f"{platform.system()} {platform.machine()}"
    for package in ("cnnprune-utils", "torch", "torchvision", "numpy", "pandas", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """Return the commit of the package's checkout, with "-dirty" if files differ; None if it is not in a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # it may be installed below a checkout of something else
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parents[1]))
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
