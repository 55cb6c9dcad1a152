"""Where runs are kept: creating, recording and deleting run directories."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from muster.agent.links import unlink_all
from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes
from muster.linux.processes import NO_ROOM
from muster.linux.shell import quote
from muster.protocol.paths import expanded
from muster.rundir import homes
from muster.rundir.run import Run

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4,16}(-[A-Za-z0-9_.-]{1,24})?(\.\d{1,6}){0,2}")
"""The start time, random digits, and the name of the script; the number of the point in a sweep, and of its repetition.
"""


def new_id(title: str, stamp: str, random: str) -> str:
    """Return a run id from the time, random digits and the script's name: it sorts by time, and users recognize it."""
    short = re.sub(r"[^A-Za-z0-9_.]+", "-", title).strip("-.")[:24]
    return "-".join(filter(None, (stamp, random, short)))


class Store(NamedTuple):
    """The directories in which a command stores and finds runs."""

    root: Path
    """Run directories of new runs are created in `runs/` of this directory."""
    homes: tuple[Path, ...] = ()
    """The homes of muster (`homes.py`). Runs that are kept elsewhere are recorded in the first one."""
    alone: bool = False
    """True if only runs in `root`, named on the command line, are found."""

    @property
    def places(self) -> list[Path]:
        """All directories that are searched for runs, beside recorded ones."""
        return [self.root] if self.alone else list(dict.fromkeys((self.root, *self.homes)))

    @property
    def home(self) -> Path:
        """The directory for files of muster that belong to no run."""
        return self.homes[0] if self.homes else self.root

    @property
    def required(self) -> set[Path]:
        """The directories that must be readable: new runs are kept or recorded there."""
        return {self.root, *([] if self.alone else self.homes[:1])}

    @property
    def option(self) -> str:
        """The option that makes a command search the same directory; empty if it does by default."""
        return option_for(self.root) if self.alone and self.root not in self.homes else ""

    @property
    def here(self) -> Store:
        """The store without runs that are kept elsewhere."""
        return self._replace(alone=True)

    def path(self, run_id: str) -> Path:
        """Return the run directory of a new run."""
        return self.root / "runs" / run_id


def store_at(named: str | None, env: Mapping[str, str], alone: bool = False) -> Store:
    """Return the store in the named directory, or else in the home of muster.

    `alone`: find only runs in the named directory. Raises `NoWorkingDirectory`.
    """
    try:
        found = homes.of_muster(env)
        root = Path(expanded(named, env)).absolute() if named is not None else found[0]
    except OSError as error:
        raise NoWorkingDirectory(processes.reason(error)) from None
    return Store(root, found, alone)


def option_for(root: Path) -> str:
    """Return the option, with a leading space, that makes a command find the runs in this directory."""
    return f" --run-dir {quote(str(root))}"


def free_id(store: Store, title: str, now: float, stamp: str) -> str:
    """Return an id that no run in this directory has.

    `now` is the Unix time, `stamp` the same as text in UTC: ids sort by time, so that the last one is the newest,
    whatever the time zones of the terminals.
    """
    while True:
        # the fraction of the second first: of two runs started in the same second, `last` is the later one
        found = new_id(title, stamp, f"{int(now % 1 * 4096):03x}{os.urandom(5).hex()}")
        if not store.path(found).exists():
            return found


def create_run(store: Store, run_id: str) -> Run:
    """Create a run directory. Raises `InvalidRequest` with the reason if that fails."""
    root, path = store.root, store.path(run_id)
    made = False
    try:
        processes.make_private(str(path.parent))
        for folder in (root, path.parent):
            why = homes.why_anothers(folder) or processes.why_shared(str(folder))
            if why:
                raise InvalidRequest(
                    f"cannot keep runs in {folder}, which others could modify: {why}",
                    f"run `chmod go-w {folder}`, or choose another directory with --run-dir or MUSTER_HOME",
                )
        path.mkdir(mode=0o700)
        made = True
        _try_to_write(path)
    except OSError as error:
        if made:  # one that existed before belongs to another run
            _remove(path)
        raise _unwritable(path, error) from None
    return note_run(store, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `InvalidRequest` for an OSError: the disk may be full since the run directory was created."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InvalidRequest:
    hint = "choose another directory with --run-dir or MUSTER_HOME"
    if error.errno == errno.EFBIG:
        hint = "raise the limit of file sizes, which is also that of each log: `ulimit -f unlimited`"
    elif error.errno in NO_ROOM:
        hint = f"free some space there, or {hint}"
    return InvalidRequest(f"cannot write the run directory {path}: {processes.reason(error)}", hint)


_TRIES = 30.0
"""Seconds for which a program that starts run after run takes a disk for writable: each try waits for the disk."""
_tried: dict[Path, float] = {}


def _try_to_write(path: Path) -> None:
    """Raise OSError if nothing can be written to a new run directory."""
    now = time.monotonic()
    if now - _tried.get(path.parent, now - _TRIES) >= _TRIES:
        processes.try_to_write(str(path))
        _tried[path.parent] = now


def note_run(store: Store, path: Path) -> Run:
    """Return the run of a new run directory, and record it in the home if it is kept elsewhere."""
    found = store.root in store.homes or bool(store.homes and homes.note(store.homes[0], path))
    return Run(path, "" if found else option_for(store.root))


_DELETED = ".deleted"
"""The directory beside run directories from which runs are deleted: a command sees a run completely, or not at all."""


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def remove_run(store: Store, run: Run) -> None:
    """Delete a run directory, the links into it, and its record; links of other users are left alone."""
    for home in store.homes[:1]:
        homes.forget(home, run.path)
    with suppress(OSError):  # another process deletes it at the same time
        if run.uid == os.getuid():
            unlink_all(str(run.path))
    kept = run.path.parent / _DELETED / run.path.name
    with suppress(OSError):  # another process deletes it at the same time
        # in a directory that others can write to, this name may be a link to anywhere
        if os.stat(run.path.parent).st_uid == os.geteuid() and not processes.why_shared(str(run.path.parent)):
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            run.path.rename(kept)
            _remove(kept.parent)  # with what a process left that was killed while it did this
    _remove(run.path)
