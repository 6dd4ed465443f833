"""The specification of cnnprune_utils.files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cnnprune_utils.files import fingerprint, write


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write(file, b"old")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one writes all of its file between the first one's writing and its move."""
    file, replace = tmp_path / "file", os.replace

    def meanwhile(part: Path, goal: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write(file, b"second")
        replace(part, goal)

    monkeypatch.setattr(os, "replace", meanwhile)
    write(file, b"first")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"first")]


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write(tmp_path / "file", "×\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\x97\n"


def test_fingerprints_ignore_memory_order() -> None:
    images = torch.rand(2, 3, 4, 4)
    laid_out = images.to(memory_format=torch.channels_last)
    assert fingerprint([images]) == fingerprint([laid_out]) != fingerprint([images + 1])
    assert fingerprint([torch.tensor(3)]) != fingerprint([torch.tensor(4)])


def test_fingerprints_are_stable() -> None:
    """Committed files and interrupted runs hold them."""
    parts = ["text", b"bytes", torch.arange(3), torch.tensor(0.5, dtype=torch.bfloat16)]
    assert fingerprint(parts)[:16] == "60df731d104daf2c"
