"""Writing files so that a reader finds the old or the new contents, wherever the writer is killed or the disk full."""

from __future__ import annotations

import os
from contextlib import suppress


def replace_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file of this user in one step, even if several processes do that concurrently.

    It replaces a symbolic link, and does not follow it. Raises OSError; then the file is what it was.
    """
    part = _written_part(path, data)
    try:
        if mode != 0o600:
            os.chmod(part, mode)
        os.replace(part, path)
    except OSError:
        _remove(part)
        raise


def create_file(path: str, data: bytes) -> None:
    """Write a new file in one step: of several processes one succeeds. Raises OSError; FileExistsError in others."""
    part = _written_part(path, data)
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
    finally:
        _remove(part)


def _written_part(path: str, data: bytes) -> str:
    """Write another file beside it. Raises OSError."""
    part = f"{path}.{os.urandom(8).hex()}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
    except OSError:
        _remove(part)  # an incomplete file is useless, and takes space
        raise
    return part


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
