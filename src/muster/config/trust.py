"""Decision whether to trust a file that muster finds without being given its name: it must not be another user's.

The rule is that of git's `safe.directory` and ssh's `StrictModes`: the file and its directory belong to this user or to
root, and nobody else may write to them. A sticky directory such as /tmp is acceptable if the file belongs to this user:
nobody else can replace it there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

from muster.linux import processes
from muster.linux.identity import user_name
from muster.linux.shell import quote

ALLOW = "MUSTER_TRUST"
"""Environment variable with directories, separated by `:`, whose files are trusted, whoever owns them."""


class Fault(NamedTuple):
    """A reason not to trust a file."""

    why: str
    """As the end of a sentence: `it belongs to user ada`."""
    remedy: str
    """How to make it trusted: a command, or its description."""


def fault(path: str, env: Mapping[str, str]) -> Fault | None:
    """Return why a file is not trusted; None if it is.

    A symbolic link is checked together with its target. Raises nothing: what cannot be checked is not trusted.
    """
    real = os.path.realpath(path)
    if _allowed(real, env):
        return None
    folders = dict.fromkeys((os.path.dirname(os.path.abspath(path)), os.path.dirname(real)))
    faults = [_fault(place, False, env) for place in dict.fromkeys((path, real))]
    faults += [_fault(folder, True, env) for folder in folders]
    return next(filter(None, faults), None)


def why_not_venv(folder: str, env: Mapping[str, str]) -> str:
    """Return why the interpreter of a virtual environment is not trusted; empty if it is.

    The targets of its links are not checked: its creator chose them, often a Python owned by an administrator.
    """
    if _allowed(os.path.realpath(folder), env):
        return ""
    faults = [_fault(os.path.join(folder, name), False, env) for name in ("", "bin/python")]
    faults += [_fault(os.path.join(folder, name), True, env) for name in ("", "bin")]
    return next((found.why for found in faults if found is not None), "")


def _allowed(real: str, env: Mapping[str, str]) -> bool:
    """Return whether the user trusts a directory above it."""
    allowed = [os.path.realpath(folder) for folder in env.get(ALLOW, "").split(":") if folder]
    return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in allowed)


def _fault(place: str, is_folder: bool, env: Mapping[str, str]) -> Fault | None:
    """Return what is wrong with one file or link, or one directory; None if nothing is."""
    which = f"its directory {place}" if is_folder else "it"
    shown = quote(place)
    try:
        found = os.stat(place) if is_folder else os.lstat(place.rstrip("/"))
    except OSError as error:
        return Fault(f"cannot check {which}: {processes.reason(error)}", f"see `ls -ld {shown}`")
    if found.st_uid not in owners(env):
        option = "-h " if stat.S_ISLNK(found.st_mode) else ""
        return Fault(
            f"{which} belongs to user {user_name(found.st_uid)}",
            f"run `sudo chown {option}{os.geteuid()} {shown}`",
        )
    if stat.S_ISLNK(found.st_mode) or (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_mode & stat.S_IWOTH:
        return Fault(f"{which} is world-writable", f"run `chmod go-w {shown}`")
    if found.st_mode & stat.S_IWGRP and not any(processes.is_private_group(found.st_gid, uid) for uid in owners(env)):
        return Fault(f"{which} is writable by group {_group(found.st_gid)}", f"run `chmod g-w {shown}`")
    return None


def owners(env: Mapping[str, str]) -> set[int]:
    """Return the uids whose files count as this user's own, with that of the user behind sudo, as for git."""
    found = {0, os.geteuid()}
    if os.geteuid() == 0 and re.fullmatch("[0-9]{1,10}", env.get("SUDO_UID", "")):
        found.add(int(env["SUDO_UID"]))
    return found


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
