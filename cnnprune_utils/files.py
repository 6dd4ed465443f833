"""Atomic file writes, and fingerprints of what files and results were made from, to tell whether that has changed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write(file: Path, content: bytes | str) -> None:
    """Write ``content`` to ``file`` atomically: readers see the old file or the whole new one. Text is UTF-8.

    Several processes may write the same file at once; the last one wins.

    Raises:
        OSError: the disk is full, or the folder cannot be written to. The old file is kept.
    """
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def fingerprint(parts: Iterable[str | bytes | Tensor]) -> str:
    """Return the SHA-256 of ``parts``, one after the other: the same in every process, on every device.

    Of a tensor the numbers count, in the order of its indices, and not its device, shape or order in memory.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(part if isinstance(part, bytes) else _bytes(part))
    return digest.hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what of ``now`` was different before, such as ``"epochs was 5, is 6; seed was 0, is 1"``; else ``""``."""
    return "; ".join(
        f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value
    )


def _bytes(tensor: Tensor) -> memoryview:
    import torch  # not at the top: whoever only writes files does not wait for it

    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
