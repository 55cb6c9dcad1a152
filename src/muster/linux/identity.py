"""Identification of a machine and its current boot."""

from __future__ import annotations

import os

from muster.linux import procfs


def identity() -> dict[str, str]:
    """Return what identifies this machine and its current boot."""
    return {"host": os.uname().nodename, "boot": procfs.boot_id()}
