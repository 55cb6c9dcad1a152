"""Where runs are kept: a run directory is made, noted and deleted."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from muster.agent.links import unlink_all
from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes
from muster.linux.processes import NO_ROOM
from muster.protocol.paths import expanded
from muster.rundir import homes
from muster.rundir.run import Run

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4,16}(-[A-Za-z0-9_.-]{1,24})?")
"""The time, something random, and the name of the script."""


def new_id(title: str, stamp: str, random: str) -> str:
    """Make a run's id from the time, something random and the name of the script: it sorts, and people know it."""
    short = re.sub(r"[^A-Za-z0-9_.]+", "-", title).strip("-.")[:24]
    return "-".join(filter(None, (stamp, random, short)))


class Store(NamedTuple):
    """Where a command keeps runs, and where it finds them."""

    root: Path
    """The run directories of new runs are made in `runs/` of this directory."""
    homes: tuple[Path, ...] = ()
    """The homes of muster (`homes.py`). Runs that are kept elsewhere are noted in the first one."""
    alone: bool = False
    """Only what is in `root` is found: it was named on the command line."""

    @property
    def places(self) -> list[Path]:
        """All directories in which runs are looked for, beside those that are noted."""
        return [self.root] if self.alone else list(dict.fromkeys((self.root, *self.homes)))

    @property
    def required(self) -> set[Path]:
        """Those of them that nobody may overlook: new runs are kept or noted there."""
        return {self.root, *([] if self.alone else self.homes[:1])}

    @property
    def option(self) -> str:
        """What a command needs to look where this one does; empty where it does anyway."""
        return option_for(self.root) if self.alone and self.root not in self.homes else ""

    @property
    def here(self) -> Store:
        """The same, without the runs that are kept elsewhere."""
        return self._replace(alone=True)

    def path(self, run_id: str) -> Path:
        """The run directory of a new run."""
        return self.root / "runs" / run_id


def store_at(named: str | None, env: Mapping[str, str], alone: bool = False) -> Store:
    """Where runs are kept, and found: in the directory that is named, or else in the home of muster.

    `alone`: only in the directory that is named. Raises `NoWorkingDirectory`.
    """
    try:
        found = homes.of_muster(env)
        root = Path(expanded(named, env)).absolute() if named is not None else found[0]
    except OSError as error:
        raise NoWorkingDirectory(processes.reason(error)) from None
    return Store(root, found, alone)


def option_for(root: Path) -> str:
    """What a command needs, at its end, to find the runs in this directory."""
    return f" --run-dir {shlex.quote(str(root))}"


def free_id(store: Store, title: str, now: float, stamp: str) -> str:
    """An id that no run in this directory has. `now` is in seconds since 1970, `stamp` the same as text, in UTC:

    ids sort by time, so that the last one is the newest, whatever zone each terminal is in.
    """
    while True:
        # the fraction of the second first: of two runs that began in the same second, `last` is the later one
        found = new_id(title, stamp, f"{int(now % 1 * 4096):03x}{os.urandom(5).hex()}")
        if not store.path(found).exists():
            return found


def create_run(store: Store, run_id: str) -> Run:
    """Make a run directory; raises `InvalidRequest` with the reason when that cannot be."""
    root, path = store.root, store.path(run_id)
    made = False
    try:
        processes.make_private(str(path.parent))
        for folder in (root, path.parent):
            why = homes.why_anothers(folder) or processes.why_shared(str(folder))
            if why:
                raise InvalidRequest(
                    f"runs are not kept in {folder}, because others could change what runs there: {why}",
                    f"`chmod go-w {folder}`, or choose another place by `--run-dir` or MUSTER_HOME",
                )
        path.mkdir(mode=0o700)
        made = True
        processes.try_to_write(str(path))
    except OSError as error:
        if made:  # one that was there before is another run's
            _remove(path)
        reason = processes.reason(error)
        full = error.errno in NO_ROOM
        hint = ("free some space there, or " if full else "") + "choose another place by `--run-dir` or MUSTER_HOME"
        raise InvalidRequest(f"cannot write the run directory {path}: {reason}", hint) from None
    return note_run(store, path)


def note_run(store: Store, path: Path) -> Run:
    """The run of a new run directory, which is noted in the home if it is not kept there."""
    found = store.root in store.homes or bool(store.homes and homes.note(store.homes[0], path))
    return Run(path, "" if found else option_for(store.root))


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def remove_run(store: Store, run: Run) -> None:
    """Delete a run directory, the links that lead into it, and the note of where it is; nobody else's links."""
    for home in store.homes[:1]:
        homes.forget(home, run.path)
    with suppress(OSError):  # somebody else deletes it at the same time
        if run.uid == os.getuid():
            unlink_all(str(run.path))
    _remove(run.path)
