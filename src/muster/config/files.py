"""The working directory, and files that options name."""

from __future__ import annotations

import os
from pathlib import Path

from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes


def current_folder() -> str:
    """Return the current directory. Raises `NoWorkingDirectory` if it was deleted."""
    try:
        return os.getcwd()
    except OSError as error:
        raise NoWorkingDirectory(processes.reason(error)) from None


def absolute(path: str) -> str:
    """Return an absolute path, relative to the current directory. Raises `NoWorkingDirectory`."""
    return os.path.normpath(path if os.path.isabs(path) else os.path.join(current_folder(), path))


def check_target(path: str | None, option: str) -> None:
    """Raise `InvalidRequest` for a file that could not be written later."""
    if path is None:
        return
    folder = os.path.dirname(absolute(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise InvalidRequest(
            f"{option} {path}: not writable", "name a file in an existing directory that you can write to"
        )


LARGEST_SCRIPT = 2_000_000
"""Bytes of a file: larger ones are no scripts."""


def script_text(path: Path) -> str | None:
    """Return the text of a file that a script names; None if it cannot be read, or is nothing that a person writes.

    A script may also name a device or a pipe, of which reading would not end.
    """
    try:
        if path.is_file() and path.stat().st_size <= LARGEST_SCRIPT:
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    return None


def read_text(path: str, option: str) -> str:
    """Return the text of a file named by an option. Raises `InvalidRequest`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError("NUL")
    except (OSError, ValueError) as error:
        reason = processes.reason(error) if isinstance(error, OSError) else "not a text file"
        raise InvalidRequest(f"{option} {path}: {reason}", "name a text file") from None
    return text
