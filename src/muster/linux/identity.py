"""Identification of a machine, its current boot, and its users."""

from __future__ import annotations

import os

from muster.linux import procfs


def identity() -> dict[str, str]:
    """Return what identifies this machine and its current boot."""
    return {"host": os.uname().nodename, "boot": procfs.boot_id()}


def user_name(uid: int) -> str:
    """Return the name of a user; the number as text if this machine knows no name."""
    import pwd  # most commands do not need it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
