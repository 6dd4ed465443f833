"""Fetch the four files of Fashion-MNIST from the first source that works, and verify their checksums.

Every source gives gzipped files. A file enters the folder only when the SHA-256 of its uncompressed bytes
is the known one, and in one step (:func:`cnnprune_utils.files.write`), so that a fetch may be interrupted, or run twice
at once.
"""

from __future__ import annotations

import gzip
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pooch

from ..files import fingerprint, write
from . import apt

# SHA-256 of the uncompressed files
FILES: Mapping[str, str] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SILENCE = 10.0  # seconds without an answer after which a mirror is given up
RETRIES = 1  # of a download that failed or arrived damaged
LARGEST = 1 << 26  # bytes; the largest of the files has 47 million, so whatever unpacks to more is not it

_log = logging.getLogger(__name__)
pooch.get_logger().setLevel("WARNING")  # what it does is said here already


class FetchError(RuntimeError):
    """Fashion-MNIST, or one source of it, is unavailable; the message says why and what to do."""


class Fetched(NamedTuple):
    """The result of a fetch: the folder that holds the files, and the source of each file."""

    folder: Path
    origin: dict[str, str]


class Source(NamedTuple):
    """A place that may have the files. ``get(wanted, scratch)`` yields ``<name>.gz`` for each wanted name."""

    name: str
    get: Callable[[Sequence[str], Path], Iterator[Path]]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the data folder: ``root``, else CNNPRUNE_DATA, else the checkout's data/, else the user's cache folder."""
    chosen = root if root is not None else os.environ.get("CNNPRUNE_DATA")
    if chosen:
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise FetchError(f"{chosen} is not a folder: {error}") from error
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    return Path(pooch.os_cache("cnnprune"))


def fetch(root: str | os.PathLike[str] | None = None) -> Fetched:
    """Make sure that ``<root>/FashionMNIST/raw`` (torchvision's layout) holds the four right files.

    Tried in this order: what is there already, Debian's package on this system, torchvision's mirrors, Debian's
    package from the network.

    Raises:
        FetchError: files are still missing, or the folder cannot be written; the message says what each source said.
    """
    folder = data_root(root) / "FashionMNIST" / "raw"
    return Fetched(folder, fetch_files(folder, FILES, sources()))


def sources() -> Iterator[Source]:
    """Yield the sources, best first."""
    from torchvision.datasets import FashionMNIST  # takes 2 s and 160 MB, and who has the files needs no mirror

    yield Source(f"Debian's package on this system ({SYSTEM_FOLDER})", from_system)
    yield from (Source(f"the mirror {mirror}", partial(from_mirror, mirror)) for mirror in FashionMNIST.mirrors)
    yield Source(f"apt-get download {PACKAGE}", from_apt)


def fetch_files(folder: Path, files: Mapping[str, str], sources: Iterable[Source]) -> dict[str, str]:
    """Complete ``folder`` to ``files`` (name -> SHA-256) from the first sources that can; return name -> origin."""
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
        except (FetchError, OSError, ValueError, EOFError, zlib.error) as error:
            tried.append(f"{source.name}: {error}")
            _log.info("  no: %s", error)
    if len(origin) < len(files):
        raise FetchError(_explain(folder, [name for name in files if name not in origin], tried))
    return origin


def from_system(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """Yield the files of Debian's package, if it is installed."""
    if not SYSTEM_FOLDER.is_dir():
        raise FetchError("not installed")
    yield from (SYSTEM_FOLDER / f"{name}.gz" for name in wanted)


def from_mirror(mirror: str, wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """Yield the files downloaded from ``mirror``, checked with torchvision's checksums of the gzipped files."""
    from torchvision.datasets import FashionMNIST

    checksums = {name: f"md5:{md5}" for name, md5 in FashionMNIST.resources}
    files = pooch.create(path=scratch, base_url=mirror, registry=checksums, retry_if_failed=RETRIES)
    downloader = pooch.HTTPDownloader(timeout=SILENCE, progressbar=True)
    yield from (Path(files.fetch(f"{name}.gz", downloader=downloader)) for name in wanted)


def from_apt(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
    """Yield the files of Debian's package, downloaded with ``apt-get`` and unpacked without installing it."""
    folder = apt.unpack(PACKAGE, scratch) / SYSTEM_FOLDER.relative_to("/")
    yield from (folder / f"{name}.gz" for name in wanted)


def _sha256(path: Path) -> str | None:
    """Return the checksum of a file, or None if it does not exist."""
    return fingerprint([path.read_bytes()]) if path.is_file() else None


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
    """Unpack ``packed``, check its contents, and write them to ``target`` atomically."""
    with gzip.open(packed) as file:
        data = file.read(LARGEST)
    if fingerprint([data]) != sha256:
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
        "Then run again: python -m cnnprune_utils.book.fashion_mnist",
    ]
    return "\n".join(lines)
