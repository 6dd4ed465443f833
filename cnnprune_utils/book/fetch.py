"""Get the four files of Fashion-MNIST from whichever source works, and prove that they are the right ones.

Every source hands over gzipped files. A file enters the folder only when the SHA-256 of its uncompressed bytes
is the known one, and in one step (:func:`.files.write`), so that a fetch may be interrupted, or run twice at once.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from torchvision.datasets import FashionMNIST

from ..files import write

# SHA-256 of the uncompressed files
FILES: Mapping[str, str] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SILENCE = 10.0  # seconds without an answer after which a source is given up
LIMIT = 300.0  # seconds after which a source that still sends is given up: 30 MB at 100 kB/s
LARGEST = 1 << 26  # bytes; the largest of the files has 47 million, so whatever unpacks to more is not it

_log = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """Fashion-MNIST, or one source of it, cannot be had; the message says why and what can be done."""


class Fetched(NamedTuple):
    """What a fetch did: the folder that now holds the files, and for each file where it came from."""

    folder: Path
    origin: dict[str, str]


class Source(NamedTuple):
    """A place that may have the files. ``get(wanted, scratch)`` yields ``<name>.gz`` for each wanted name."""

    name: str
    get: Callable[[Sequence[str], Path], Iterator[Path]]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: ``root``, else CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder."""
    chosen = root if root is not None else os.environ.get("CNNPRUNE_DATA")
    if chosen:
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise FetchError(f"{chosen} is no folder: {error}") from error
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    return platformdirs.user_cache_path("cnnprune")


def fetch(root: str | os.PathLike[str] | None = None) -> Fetched:
    """Make sure that ``<root>/FashionMNIST/raw`` (torchvision's layout) holds the four right files.

    Tried in this order: what is there already, Debian's package on this system, torchvision's mirrors, Debian's
    package from the network.

    Raises:
        FetchError: files are still missing, or the folder cannot be written; the message says what each source said.
    """
    folder = data_root(root) / "FashionMNIST" / "raw"
    return Fetched(folder, fetch_files(folder, FILES, sources()))


def sources() -> list[Source]:
    """The sources, best first."""
    mirrors = (Source(f"the mirror {mirror}", partial(from_mirror, mirror)) for mirror in FashionMNIST.mirrors)
    return [
        Source(f"Debian's package on this system ({SYSTEM_FOLDER})", from_system),
        *mirrors,
        Source(f"apt-get download {PACKAGE}", from_apt),
    ]


def fetch_files(folder: Path, files: Mapping[str, str], sources: Sequence[Source]) -> dict[str, str]:
    """Complete ``folder`` to ``files`` (name -> SHA-256) from the first sources that can; returns name -> origin."""
    origin = {name: "already there" for name in files if _sha256(folder / name) == files[name]}
    if len(origin) == len(files):
        return origin  # and nothing was written: a read-only folder will do
    _check_writable(folder)
    _log.info("%s lacks %d of %d files", folder, len(files) - len(origin), len(files))
    tried = []
    for source in sources:
        wanted = [name for name in files if name not in origin]
        if not wanted:
            break
        _log.info("trying %s", source.name)
        try:
            with tempfile.TemporaryDirectory(prefix="cnnprune-", ignore_cleanup_errors=True) as scratch:
                for name, packed in zip(wanted, source.get(wanted, Path(scratch)), strict=True):
                    _install(packed, folder / name, files[name])
                    origin[name] = source.name
        except (FetchError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            tried.append(f"{source.name}: {error}")
            _log.info("  no: %s", error)
    if len(origin) < len(files):
        raise FetchError(_explain(folder, [name for name in files if name not in origin], tried))
    return origin


def from_system(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """The files of Debian's package where that is installed."""
    if not SYSTEM_FOLDER.is_dir():
        raise FetchError("not installed")
    yield from (SYSTEM_FOLDER / f"{name}.gz" for name in wanted)


def from_mirror(mirror: str, wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """The files downloaded from ``mirror``; torchvision's own downloader would wait for ever on a dead network."""
    deadline = time.monotonic() + LIMIT
    for name in wanted:
        packed = scratch / f"{name}.gz"
        with _open(f"{mirror}{packed.name}") as response, packed.open("wb") as file:
            while piece := response.read1(1 << 16):  # read() would wait for all of it, however slow
                file.write(piece)
                if time.monotonic() > deadline:
                    raise FetchError(f"too slow: not finished after {LIMIT:g} s")
        yield packed


def _open(url: str) -> Any:
    """``urlopen``, given up after ``SILENCE`` seconds in all.

    Its own timeout leaves out the look-up of the name and starts anew for each of a host's addresses: hence the
    thread, which nobody waits for.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=SILENCE))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=SILENCE)
    except queue.Empty:
        raise FetchError(f"no answer within {SILENCE:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


# Everything that apt writes goes below ``scratch``; hooks that administrators set for a real update are not run.
_APT_CONFIG = """
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


def from_apt(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """The files of Debian's package, downloaded with ``apt-get`` and unpacked without installing: needs no root."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"{tool} is not on this machine")
    for folder in ("cache/archives/partial", "state/lists/partial", "unpacked"):
        (scratch / folder).mkdir(parents=True)
    config = scratch / "apt.conf"
    timeout = max(1, round(SILENCE / 2))  # apt asks twice
    config.write_text(_APT_CONFIG.format(scratch=scratch, timeout=timeout), encoding="utf-8")
    apt = ("apt-get", "-q", "-c", str(config))
    try:
        _run(*apt, "download", PACKAGE, cwd=scratch)
    except FetchError as error:
        if "Failed to fetch" in str(error) and "404" not in str(error):
            raise  # the lists know the package; the network does not answer
        _download_with_own_lists(*apt, "-o", f"Dir::State={scratch / 'state'}", cwd=scratch)
    for package in scratch.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), "unpacked", cwd=scratch)
    unpacked = scratch / "unpacked" / SYSTEM_FOLDER.relative_to("/")
    yield from (unpacked / f"{name}.gz" for name in wanted)


def _download_with_own_lists(*apt: str, cwd: Path) -> None:
    """For package lists that are empty or old, and may be root's: ``apt-get update`` into a private folder first."""
    update_said = ""
    try:
        _run(*apt, "update", cwd=cwd)
    except FetchError as error:
        update_said = f"{error}; "  # it may be about another repository: the package decides
    try:
        _run(*apt, "download", PACKAGE, cwd=cwd)
    except FetchError as error:
        raise FetchError(f"{update_said}{error}") from None


def _run(*command: str, cwd: Path) -> None:
    """Run a program quietly within ``LIMIT`` seconds; a ``FetchError`` holds the errors it printed."""
    english = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=english, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"too slow: {command[0]} not finished after {LIMIT:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
        raise FetchError(" ".join(errors) or f"{command[0]} ended with code {done.returncode}")


def _sha256(path: Path) -> str | None:
    """The checksum of a file, None where there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FetchError(
            f"Fashion-MNIST is to go to {folder}, but nothing can be written there ({error.strerror}). "
            "Name another folder: in the environment variable CNNPRUNE_DATA, or as root=."
        ) from None


def _install(packed: Path, target: Path, sha256: str) -> None:
    """Unpack ``packed``, check it, and put it at ``target`` in one step."""
    with gzip.open(packed) as file:
        data = file.read(LARGEST)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FetchError(f"{packed.name} is not the right file: its contents have another SHA-256")
    write(target, data)


def _explain(folder: Path, missing: Sequence[str], tried: Sequence[str]) -> str:
    state = {True: "there, but with a wrong checksum", False: "missing"}
    lines = [
        f"Fashion-MNIST is not complete in {folder}, and no source could complete it.",
        *(f"  {name}: {state[(folder / name).is_file()]}" for name in missing),
        "Tried:",
        *(f"  {line}" for line in tried),
        "Three ways to get it:",
        "  1. connect this machine to the internet (behind a proxy: set http_proxy), so that a mirror can be reached",
        f"  2. on Debian or Ubuntu: apt-get install {PACKAGE}",
        f"  3. put the four files by hand, uncompressed, in {folder}",
        "Then run again: python -m cnnprune_utils.data",
    ]
    return "\n".join(lines)
