"""What is left of a command that was killed while it created a run, or while it deleted a sweep.

Such directories are no runs: commands do not list them, and `muster clean` removes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from muster.rundir.run import FUNCTION, Run
from muster.rundir.store import Store, remove_run
from muster.rundir.sweeps import every_run, is_deleted

_EARLY = frozenset(("here", FUNCTION))
"""Files that a new run directory has before the run is recorded."""

_SURELY = 3600.0
"""Seconds after which a directory without a record is not that of a command that is still at it."""


def unfinished(unrecorded: Iterable[Path]) -> list[Run]:
    """Return those directories of this user that no command will finish; see `Found.unrecorded`."""
    return [Run(path) for path in unrecorded if _is_unfinished(path)]


def _is_unfinished(path: Path) -> bool:
    try:
        found, names = os.lstat(path), os.listdir(path)
    except OSError:
        return False
    if found.st_uid != os.getuid():
        return False
    # of a run on other hosts, or one that waits in a queue, there is more
    early = all(name in _EARLY or name.startswith(".muster-") for name in names)
    return is_deleted(path) or (early and time.time() - found.st_mtime > _SURELY)


def remove(store: Store, runs: Iterable[Run]) -> None:
    """Remove such directories, and the points of sweeps among them."""
    for run in runs:
        for one in (*(every_run(run) if is_deleted(run.path) else ()), run):
            remove_run(store, one)
