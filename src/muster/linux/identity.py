"""What tells a machine, and one start of it, from others."""

from __future__ import annotations

import os

from muster.linux import procfs


def identity() -> dict[str, str]:
    """What tells this machine, and this start of it, from others."""
    return {"host": os.uname().nodename, "boot": procfs.boot_id()}
