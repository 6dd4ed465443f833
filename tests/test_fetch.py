"""Fetching Fashion-MNIST. The sources are faked with small files, the rules are real."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import platformdirs
import pytest
import torchvision

from cnnprune_utils.batches import Splits
from cnnprune_utils.book import apt as apt_module
from cnnprune_utils.book import fashion_mnist, fetch
from cnnprune_utils.book.fetch import FetchError, Source

CONTENTS = {name: f"contents of {name}, ".encode() * 5000 for name in fetch.FILES}
CHECKSUMS = {name: hashlib.sha256(contents).hexdigest() for name, contents in CONTENTS.items()}


def mirrored(name: str) -> bytes:
    """Return the bytes that a mirror sends."""
    return gzip.compress(CONTENTS[name], mtime=0)


def packed_files(folder: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    """A folder like Debian's, with every file gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(value, compresslevel=1))
    return folder


def source(name: str, folder: Path, calls: list[str] | None = None) -> Source:
    """A source that hands over the files of ``folder``, and writes down that it was asked."""

    def get(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
        if calls is not None:
            calls.append(name)
        yield from (folder / f"{file}.gz" for file in wanted)

    return Source(name, get)


def broken(name: str, message: str, calls: list[str] | None = None) -> Source:
    def get(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
        if calls is not None:
            calls.append(name)
        raise FetchError(message)
        yield

    return Source(name, get)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def good(tmp_path: Path) -> Source:
    return source("good", packed_files(tmp_path / "good"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "root" / "FashionMNIST" / "raw"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own sources, asked for the small files; a download is tried once."""
    monkeypatch.setattr(fetch, "FILES", CHECKSUMS)
    packed = [(f"{name}.gz", hashlib.md5(mirrored(name)).hexdigest()) for name in CONTENTS]
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", packed)
    monkeypatch.setattr(fetch, "RETRIES", 0)


# --- which folder ---


def test_argument_beats_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNPRUNE_DATA", str(tmp_path / "environment"))
    assert fetch.data_root(tmp_path / "argument") == tmp_path / "argument"
    assert fetch.data_root(str(tmp_path / "argument")) == tmp_path / "argument"
    assert fetch.data_root() == tmp_path / "environment"


def test_the_default_is_the_checkouts_data(monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(fetch.__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        pytest.skip("the package is installed, there is no checkout")
    monkeypatch.delenv("CNNPRUNE_DATA", raising=False)
    assert fetch.data_root() == checkout / "data"
    monkeypatch.setenv("CNNPRUNE_DATA", "")
    assert fetch.data_root() == checkout / "data"


@pytest.mark.parametrize("has", ["data", "pyproject.toml", "neither"])
def test_an_installed_package_uses_the_cache(has: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if has == "data":
        (tmp_path / "data").mkdir()
    if has == "pyproject.toml":
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.delenv("CNNPRUNE_DATA", raising=False)
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "cnnprune_utils" / "book" / "fetch.py"))
    assert fetch.data_root() == platformdirs.user_cache_path("cnnprune")


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fetch.data_root("~/here") == tmp_path / "here"
    assert fetch.data_root("there") == tmp_path / "there"


# --- the order of the sources ---


def test_sources_are_system_mirrors_apt() -> None:
    names = [source.name for source in fetch.sources()]
    mirrors = torchvision.datasets.FashionMNIST.mirrors
    assert len(names) == len(mirrors) + 2
    assert str(fetch.SYSTEM_FOLDER) in names[0]
    assert all(mirror in name for mirror, name in zip(mirrors, names[1:-1], strict=True))
    assert "apt-get download" in names[-1]


def test_files_are_torchvisions() -> None:
    resources = torchvision.datasets.FashionMNIST.resources
    assert {f"{name}.gz" for name in fetch.FILES} == {name for name, _ in resources}


def test_right_files_need_no_source(raw: Path) -> None:
    raw.mkdir(parents=True)
    for name, value in CONTENTS.items():
        (raw / name).write_bytes(value)
    before = {path: path.stat().st_mtime_ns for path in (raw, *raw.iterdir())}
    assert fetch.fetch_files(raw, CHECKSUMS, []) == dict.fromkeys(CONTENTS, "already there")
    assert {path: path.stat().st_mtime_ns for path in (raw, *raw.iterdir())} == before


def test_sources_are_asked_in_order(raw: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    folder = packed_files(tmp_path / "packed")
    in_order = [broken("a", "down", calls), source("b", folder, calls), source("c", folder, calls)]
    assert fetch.fetch_files(raw, CHECKSUMS, in_order) == dict.fromkeys(CONTENTS, "b")
    assert calls == ["a", "b"]
    assert contents(raw) == CONTENTS


def test_only_missing_files_are_asked_for(raw: Path, good: Source) -> None:
    raw.mkdir(parents=True)
    first, *rest = CONTENTS
    (raw / first).write_bytes(CONTENTS[first])
    asked: list[str] = []

    def get(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
        asked.extend(wanted)
        yield from good.get(wanted, scratch)

    origin = fetch.fetch_files(raw, CHECKSUMS, [Source("good", get)])
    assert asked == rest
    assert origin == {first: "already there"} | dict.fromkeys(rest, "good")


def test_the_next_source_completes(raw: Path, tmp_path: Path, good: Source) -> None:
    names = list(CONTENTS)
    half = packed_files(tmp_path / "half", CONTENTS | {names[2]: b"something else"})
    origin = fetch.fetch_files(raw, CHECKSUMS, [source("half", half), good])
    assert [origin[name] for name in names] == ["half", "half", "good", "good"]
    assert contents(raw) == CONTENTS


def test_the_systems_copy_needs_no_network(
    small: None, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SYSTEM_FOLDER", packed_files(tmp_path / "system"))
    monkeypatch.setattr(fetch.pooch, "create", lambda **options: pytest.fail("asked the network"))
    monkeypatch.setattr(apt_module, "unpack", lambda *arguments: pytest.fail("started apt"))
    folder, origin = fetch.fetch(tmp_path / "root")
    assert folder == raw
    assert contents(raw) == CONTENTS
    assert all(str(fetch.SYSTEM_FOLDER) in name for name in origin.values())


# --- checksums, whatever the source ---


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda packed: gzip.compress(b"other contents"), "another SHA-256"),
        (lambda packed: packed[: len(packed) // 2], "end-of-stream"),
        (lambda packed: b"<html>sign in first</html>", "Not a gzipped file"),
        (lambda packed: packed[:20] + bytes(10) + packed[30:], ""),
        (lambda packed: b"", ""),
    ],
    ids=["other", "truncated", "html", "damaged", "empty"],
)
def test_wrong_contents_never_enter(spoil: Callable[[bytes], bytes], said: str, raw: Path, tmp_path: Path) -> None:
    folder = packed_files(tmp_path / "packed")
    for path in folder.iterdir():
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FetchError, match=f"bad: .*{said}"):
        fetch.fetch_files(raw, CHECKSUMS, [source("bad", folder)])
    assert contents(raw) == {}


def test_a_zip_bomb_is_not_unpacked(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1 << 16)
    huge = bytes(1 << 20)
    folder = packed_files(tmp_path / "packed", dict.fromkeys(CONTENTS, huge))
    checksums = dict.fromkeys(CONTENTS, hashlib.sha256(huge).hexdigest())
    with pytest.raises(FetchError, match="another SHA-256"):
        fetch.fetch_files(raw, checksums, [source("huge", folder)])


@pytest.mark.parametrize("wrong", [b"", b"half", CONTENTS["train-images-idx3-ubyte"][:-1] + b"!"])
def test_only_damaged_files_are_replaced(wrong: bytes, raw: Path, good: Source) -> None:
    fetch.fetch_files(raw, CHECKSUMS, [good])
    (raw / "train-images-idx3-ubyte").write_bytes(wrong)
    origin = fetch.fetch_files(raw, CHECKSUMS, [good])
    assert [name for name, where in origin.items() if where == "good"] == ["train-images-idx3-ubyte"]
    assert contents(raw) == CONTENTS


def test_a_damaged_file_stays_without_a_better(raw: Path, good: Source) -> None:
    fetch.fetch_files(raw, CHECKSUMS, [good])
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(FetchError, match="t10k-labels-idx1-ubyte: there, but with a wrong checksum"):
        fetch.fetch_files(raw, CHECKSUMS, [])
    assert contents(raw) == CONTENTS | {"t10k-labels-idx1-ubyte": b"damaged"}


# --- interruptions, and two at once ---


def test_interrupted_writes_leave_nothing(raw: Path, good: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(path: Path, value: bytes) -> int:
        with path.open("wb") as file:
            file.write(value[: len(value) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_files(raw, CHECKSUMS, [good])
    assert contents(raw) == {}


def test_interrupted_before_the_rename(raw: Path, good: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(part: Path, target: Path) -> None:
        assert part.parent == target.parent  # one file system: the step is atomic
        assert part.read_bytes() == CONTENTS[target.name]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_files(raw, CHECKSUMS, [good])
    assert contents(raw) == {}


def test_interrupted_downloads_leave_whole_files(
    raw: Path, good: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def get(wanted: Sequence[str], scratch: Path) -> Iterator[Path]:
        files = good.get(wanted, scratch)
        yield next(files)
        (scratch / "partial.gz").write_bytes(b"half of the seco")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_files(raw, CHECKSUMS, [Source("interrupted", get)])
    first = next(iter(CONTENTS))
    assert contents(raw) == {first: CONTENTS[first]}
    assert list((tmp_path / "temporary").iterdir()) == []
    assert fetch.fetch_files(raw, CHECKSUMS, [good])[first] == "already there"


TWO_AT_ONCE = """
    import hashlib, sys, time
    from pathlib import Path
    from cnnprune_utils.book import fetch
    me, other, packed = (Path(argument) for argument in sys.argv[1:])
    names = sorted(fetch.FILES)

    def get(wanted, scratch):
        me.touch()
        while not other.exists():  # both now know that every file is missing
            time.sleep(0.001)
        yield from (packed / f"{name}.gz" for name in wanted)

    fetch.FILES = dict(line.split() for line in (packed / "checksums").read_text().splitlines())
    fetch.sources = lambda: [fetch.Source("slow", get)]
    origin = fetch.fetch().origin
    assert set(origin.values()) == {"slow"}, origin
"""


def test_two_processes_can_fetch_at_once(raw: Path, tmp_path: Path) -> None:
    large = {name: os.urandom(1 << 20) * 8 for name in CONTENTS}
    packed = packed_files(tmp_path / "packed", large)
    lines = (f"{name} {hashlib.sha256(value).hexdigest()}" for name, value in large.items())
    (packed / "checksums").write_text("\n".join(lines))
    flags = [tmp_path / "first", tmp_path / "second"]
    environment = {**os.environ, "CNNPRUNE_DATA": str(tmp_path / "root")}
    script = [sys.executable, "-c", textwrap.dedent(TWO_AT_ONCE)]
    running = [
        subprocess.Popen([*script, *order, packed], env=environment, stderr=subprocess.PIPE, text=True)
        for order in (flags, flags[::-1])
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    assert contents(raw) == large


# --- mirrors ---


class Mirror(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1].removesuffix(".gz")
        if name not in CONTENTS or "gone" in self.path:
            self.send_error(404)
            return
        packed = self.server.damaged.pop(name, None) or mirrored(name)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(packed[: len(packed) // 2])
        self.server.resume.wait(20)
        self.wfile.write(packed[len(packed) // 2 :])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.daemon_threads = True
        server.asked, server.damaged, server.resume = [], {}, threading.Event()
        server.resume.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.resume.set()
        server.shutdown()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.fixture
def no_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SYSTEM_FOLDER", tmp_path / "not installed")
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))


@pytest.fixture
def mirror(small: None, no_debian: None, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only mirror that torchvision knows; there is no other source."""
    address = f"http://127.0.0.1:{server.server_port}/some/folder/"
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
    return address


def test_torchvisions_mirrors_are_used(
    mirror: str, raw: Path, tmp_path: Path, server: ThreadingHTTPServer, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SILENCE", 0.3)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{mirror}gone/", silent, mirror])
    origin = fetch.fetch(tmp_path / "root").origin
    assert set(origin.values()) == {f"the mirror {mirror}"}
    assert contents(raw) == CONTENTS
    assert server.asked[-4:] == [f"/some/folder/{name}.gz" for name in CONTENTS]


def test_a_damaged_download_is_repeated(
    mirror: str, raw: Path, tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", 1)
    first, *rest = CONTENTS
    server.damaged[first] = b"<html>sign in first</html>"
    fetch.fetch(tmp_path / "root")
    assert contents(raw) == CONTENTS
    assert server.asked == [f"/some/folder/{name}.gz" for name in (first, first, *rest)]


def test_a_dead_network_fails_within_seconds(
    small: None, no_debian: None, tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch.SILENCE <= 10
    monkeypatch.setattr(fetch, "SILENCE", 0.5)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [silent])
    started = time.monotonic()
    with pytest.raises(FetchError, match=rf"the mirror {silent}: .*(timed out|timeout)"):
        fetch.fetch(tmp_path / "root")
    assert 0.4 < time.monotonic() - started < 5


def test_a_silent_mirror_is_given_up(
    mirror: str, raw: Path, tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.resume.clear()
    monkeypatch.setattr(fetch, "SILENCE", 0.5)
    started = time.monotonic()
    with pytest.raises(FetchError, match=f"the mirror {mirror}: .*[Tt]imed out"):
        fetch.fetch(tmp_path / "root")
    assert time.monotonic() - started < 5
    assert contents(raw) == {}


# --- Debian's package from the network, with an apt-get and a dpkg-deb of our own ---

# $SAYS: what "download" says with the system's package lists; $GONE: the package is in no list; $HANG: no answer
FAKE_APT = """#!/bin/sh
echo "apt-get $*" >> "$CALLS"
if [ -n "$HANG" ]; then exec sleep 30; fi
case "$*" in
  *Dir::State=*" update") touch updated; exit 100 ;;
  *Dir::State=*" download dataset-fashion-mnist")
    if [ ! -e updated ] || [ -n "$GONE" ]; then echo "E: Unable to locate package" >&2; exit 100; fi ;;
  *" download dataset-fashion-mnist")
    if [ -n "$SAYS" ]; then echo "$SAYS" >&2; exit 100; fi ;;
  *) echo "E: unexpected" >&2; exit 100 ;;
esac
touch dataset-fashion-mnist_0_all.deb
"""
FAKE_DPKG = """#!/bin/sh
echo "dpkg-deb $*" >> "$CALLS"
[ "$1" = -x ] && [ -e "$2" ] && mkdir -p "$3$SYSTEM" && cp "$PACKED"/*.gz "$3$SYSTEM"
"""


@pytest.fixture
def apt(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Only apt is left as a source, and it is ours; returns the file with what was called."""
    if os.name != "posix":
        pytest.skip("needs a POSIX shell")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in (("apt-get", FAKE_APT), ("dpkg-deb", FAKE_DPKG)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    settings = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "PACKED": str(packed_files(tmp_path / "packed")),
        "SYSTEM": str(fetch.SYSTEM_FOLDER),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fetch, "sources", lambda: [Source("apt", fetch.from_apt)])
    return calls


def called(calls: Path) -> list[str]:
    """Return the calls, in short: the program and its verb, and whether it had its own package lists."""
    words = {"update", "download", "-x"}
    return [
        " ".join(word for word in line.split() if word in words) + (" own" if "Dir::State=" in line else "")
        for line in calls.read_text().splitlines()
    ]


def test_apt_unpacks_without_installing(apt: Path, raw: Path, tmp_path: Path) -> None:
    assert set(fetch.fetch(tmp_path / "root").origin.values()) == {"apt"}
    assert contents(raw) == CONTENTS
    assert called(apt) == ["download", "-x"]


@pytest.mark.parametrize(
    "says",
    ["E: Unable to locate package dataset-fashion-mnist", "E: Failed to fetch http://x  404  Not Found [IP: 1]"],
    ids=["empty", "old"],
)
def test_apt_updates_old_package_lists(
    says: str, apt: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAYS", says)
    assert set(fetch.fetch(tmp_path / "root").origin.values()) == {"apt"}
    assert contents(raw) == CONTENTS
    assert called(apt) == ["download", "update own", "download own", "-x"]


def test_apt_does_not_retry_without_network(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "E: Failed to fetch http://x  Connection failed [IP: 1]")
    with pytest.raises(FetchError, match="apt: E: Failed to fetch http://x  Connection failed"):
        fetch.fetch(tmp_path / "root")
    assert called(apt) == ["download"]


def test_an_unknown_package_is_reported(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "E: Unable to locate package dataset-fashion-mnist")
    monkeypatch.setenv("GONE", "1")
    with pytest.raises(FetchError, match="apt: apt-get ended with code 100; E: Unable to locate package"):
        fetch.fetch(tmp_path / "root")


def test_an_apt_that_hangs_is_given_up(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANG", "1")
    monkeypatch.setattr(apt_module, "LIMIT", 0.3)
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"too slow: apt-get not finished after 0\.3 s"):
        fetch.fetch(tmp_path / "root")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("absent", ["apt-get", "dpkg-deb"])
def test_missing_debian_tools_are_reported(
    absent: str, apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    (programs / absent).unlink()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(FetchError, match=f"apt: {absent} is not installed"):
        fetch.fetch(tmp_path / "root")


def test_apt_writes_to_the_scratch_folder(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "E: Unable to locate package dataset-fashion-mnist")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    list(fetch.from_apt(list(CONTENTS), scratch))
    config = (scratch / "apt.conf").read_text()
    assert f'Dir::Cache "{scratch}/cache";' in config
    own = [line for line in apt.read_text().splitlines() if "Dir::State" in line]
    assert all(f"Dir::State={scratch}/state" in line and f"-c {scratch}/apt.conf" in line for line in own)
    assert (scratch / "updated").is_file()  # it ran there


# --- when nothing works ---


def test_the_error_has_causes_and_ways_out(raw: Path) -> None:
    with pytest.raises(FetchError) as error:
        fetch.fetch_files(raw, CHECKSUMS, [broken("first", "is closed today"), broken("second", "has moved")])
    message = str(error.value)
    assert "first: is closed today" in message
    assert "second: has moved" in message
    assert "1. connect this machine to the internet" in message
    assert "mirror" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert f"put the four files by hand, uncompressed, in {raw}" in message
    assert all(f"{name}: missing" in message for name in CONTENTS)


def test_files_put_there_by_hand_are_accepted(raw: Path, good: Source) -> None:
    with pytest.raises(FetchError):
        fetch.fetch_files(raw, CHECKSUMS, [])
    for name, value in CONTENTS.items():
        (raw / name).write_bytes(value)  # the folder that the message names is there
    assert set(fetch.fetch_files(raw, CHECKSUMS, []).values()) == {"already there"}


def test_an_unwritable_folder_is_reported_first(tmp_path: Path, good: Source) -> None:
    (tmp_path / "file").touch()
    calls: list[str] = []
    with pytest.raises(FetchError, match=r"nothing can be written there.*CNNPRUNE_DATA"):
        fetch.fetch_files(tmp_path / "file" / "raw", CHECKSUMS, [source("a", tmp_path, calls)])
    assert calls == []


# --- the command ---


def test_the_command_says_what_it_did(
    small: None, raw: Path, good: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNPRUNE_DATA", str(raw.parents[1]))
    monkeypatch.setattr(fetch, "sources", lambda: [good])
    for origin in ("good", "already there"):
        assert fashion_mnist.main([]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[-5] == f"Fashion-MNIST is in {raw}"
        assert [line.split(maxsplit=1)[0] for line in printed[-4:]] == list(CONTENTS)
        assert all(line.endswith(f"  SHA-256 ok  {origin}") for line in printed[-4:])


def test_the_command_shows_no_traceback(tmp_path: Path) -> None:
    if fetch.SYSTEM_FOLDER.is_dir():
        pytest.skip(f"{fetch.PACKAGE} is installed, so the command succeeds")
    nowhere = "http://127.0.0.1:9"  # refuses at once
    environment = {
        **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
        **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), nowhere),
        "CNNPRUNE_DATA": str(tmp_path),
        "PATH": str(tmp_path / "no programs"),
    }
    done = run_command(environment)
    assert done.returncode == 1
    assert "trying Debian's package on this system" in done.stdout
    assert "Three ways to get it" in done.stderr
    assert "apt-get is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path / "FashionMNIST" / "raw") == {}


def test_the_command_finds_the_real_data(splits: Splits) -> None:
    done = run_command(dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("SHA-256 ok  already there") == 4
    assert str(fetch.data_root() / "FashionMNIST" / "raw") in done.stdout


def test_sigterm_leaves_no_temporary_files(apt: Path, tmp_path: Path) -> None:
    if fetch.SYSTEM_FOLDER.is_dir():
        pytest.skip(f"{fetch.PACKAGE} is installed, so nothing is downloaded")
    (tmp_path / "temporary").mkdir()
    environment = {
        **os.environ,
        "http_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
        "CNNPRUNE_DATA": str(tmp_path / "root"),
        "TMPDIR": str(tmp_path / "temporary"),
        "HANG": "1",
    }
    command = [sys.executable, "-m", "cnnprune_utils.book.fashion_mnist"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            if apt.read_text():  # apt-get runs
                break
            time.sleep(0.1)
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (128 + signal.SIGTERM, b"")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert contents(tmp_path / "root" / "FashionMNIST" / "raw") == {}


def run_command(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnnprune_utils.book.fashion_mnist"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
