"""The specification of cnnprune_utils.files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnnprune_utils.files import write


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
