"""Files that are whole or not there."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Write ``content`` to ``file`` in one move: what stood there stays whole until the new file is.

    Two writers may meet: each has a name of its own until the move, and the last one stays.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
