"""Finding runs, and the one that is named. What other users could have written is not read."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Callable, NamedTuple

from muster.core.sweep import possible_ids
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.identity import user_name
from muster.rundir import homes
from muster.rundir.job_record import with_scheduler
from muster.rundir.run import Run, Unreadable
from muster.rundir.store import ID, Store, option_for
from muster.rundir.sweeps import is_deleted_point, is_sweep, point_named, sweep_run


class Found(NamedTuple):
    """The runs that a command finds."""

    runs: list[Run]
    """Oldest first."""
    refused: dict[Path, str]
    """Run directories that are not read, with the reason."""
    unreadable: dict[Path, str]
    """Directories that may contain more runs, with the reason why they cannot be read."""
    unrecorded: tuple[Path, ...] = ()
    """Run directories without a record: of runs that are being created, or of what was killed (`unfinished.py`)."""

    def unknown(self, store: Store) -> dict[Path, str]:
        """Return the unreadable directories that matter: not a default home replaced because it is unusable."""
        return {folder: why for folder, why in self.unreadable.items() if folder.parent in store.required}


def look_for_runs(store: Store) -> Found:
    """Return all runs that a command finds."""
    there = _look_into(store)
    found: list[Run] = []
    refused: dict[Path, str] = {}
    unrecorded = [name for name in sorted(there.folders) if not _examine(there, name, found, refused)]
    return Found(found, refused, there.unreadable, tuple(map(there.path, unrecorded)))


def look_for_newest(store: Store, count: int) -> tuple[Found, int]:
    """Return the newest runs that a command finds, and how many directories of older runs there are.

    A sweep counts as one run, and its points are left out. The others are not looked at, so that thousands of old runs
    cost no more than their names: on a network file system each look is a question to a server.
    """
    there = _look_into(store)
    found: list[Run] = []
    refused: dict[Path, str] = {}
    sweeps: dict[str, bool] = {}
    left = sorted(there.folders)

    def is_point(name: str) -> bool:
        for ids in possible_ids(name):
            if ids.sweep not in sweeps:
                sweeps[ids.sweep] = ids.sweep in there.folders and is_sweep(Run(there.path(ids.sweep)))
            if sweeps[ids.sweep]:
                return True
        return False

    while left and len(found) < count:
        name = left.pop()
        if not is_point(name):
            _examine(there, name, found, refused)
    return Found(found[::-1], refused, there.unreadable), sum(not is_point(name) for name in left)


class _There(NamedTuple):
    """The directories of runs, before any is looked at."""

    folders: dict[str, str]
    """The directory that contains each, by name."""
    noted: Mapping[str, Path]
    """Runs of this user elsewhere, by name."""
    unreadable: dict[Path, str]
    homes: Collection[Path]

    def path(self, name: str) -> Path:
        """Return the path of a run directory."""
        return Path(self.folders[name], name)


def _look_into(store: Store) -> _There:
    noted = homes.noted(store.homes[0]) if store.homes else {}
    folders: dict[str, str] = {}
    unreadable = {}
    for place in store.places:
        names, why = _names_in(place / "runs")
        folder = str(place / "runs")
        folders.update({name: folder for name in names if name not in folders})
        if why:
            unreadable[place / "runs"] = why
    if not store.alone:
        more = {name: str(path.parent) for name, path in noted.items() if ID.fullmatch(name) and path.name == name}
        folders.update({name: folder for name, folder in more.items() if name not in folders})
    return _There(folders, noted, unreadable, store.homes)


def _examine(there: _There, name: str, found: list[Run], refused: dict[Path, str]) -> bool:
    """Add this run directory to those that were found, or refused; return False if it has no record.

    The points of a sweep that is being deleted are none of these.
    """
    path = there.path(name)
    why = why_refused(path, own=there.noted.get(name) == path)
    if why:
        refused[path] = why
    elif not os.path.lexists(path / "job.json"):
        return False
    elif not is_deleted_point(path):
        known = there.noted.get(name) == path or path.parents[1] in there.homes
        found.append(Run(path, "" if known else option_for(path.parents[1])))
    return True


def _with_id(store: Store, run_id: str) -> Run | None:
    """Return the run with exactly this id if it is in the first place to look, without a look at all others."""
    path = store.path(run_id)
    if why_refused(path) or not os.path.lexists(path / "job.json") or is_deleted_point(path):
        return None
    known = store.root in store.homes or bool(store.homes and homes.is_noted(store.homes[0], path))
    return Run(path, "" if known else option_for(store.root))


def _names_in(folder: Path) -> tuple[list[str], str]:
    """Return the run ids in a directory, and why they cannot be listed; empty if they can, or there is no directory."""
    try:
        return [name for name in os.listdir(folder) if ID.fullmatch(name)], ""
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], processes.reason(error)


def why_refused(path: Path, own: bool = False) -> str:
    """Return why a run directory is not read, because other users could have written it; empty if it is.

    `own`: this user has put it there, and for root that user is root.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        return processes.reason(error)
    if not stat.S_ISDIR(found.st_mode):
        return "not a directory"
    if found.st_uid != os.getuid() and os.getuid() != 0:
        return f"it belongs to user {user_name(found.st_uid)}"
    if own and found.st_uid != os.getuid():
        return f"its owner changed from this user to user {user_name(found.st_uid)}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "it is writable by others"
    return ""


def why_not_ours(path: Path) -> str:
    """Return why a file is not trusted as this user's own, root or not; empty if it is."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return processes.reason(error)
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_uid != os.getuid():
        return f"it belongs to user {user_name(found.st_uid)}"
    return "it is writable by others" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def list_runs(store: Store) -> list[Run]:
    """Return all readable runs, oldest first."""
    return look_for_runs(store).runs


def all_runs(store: Store) -> list[Run]:
    """Return all runs, if missing one would be a mistake. Raises `InvalidRequest` if some cannot be listed."""
    found = look_for_runs(store)
    unknown = found.unknown(store)
    if unknown:
        raise unreadable_error(unknown)
    return found.runs


class RunNotFound(InvalidRequest):
    """No run has this id or name."""


def find_run(store: Store, which: str, lives: Callable[[Run], bool] = lambda run: False) -> Run:
    """Return the run with this id, name, scheduler job or unique prefix of an id; `last` is the newest.

    Of several runs with the same name, or in the same job, it is the one that `lives`, or the newest. Raises
    `InvalidRequest`.
    """
    listed = f"list all with `muster ps -a{store.option}`"
    if not which:
        raise InvalidRequest("empty run name", f"{listed}; `last` is the newest")
    if ID.fullmatch(which) and (known := _with_id(store, which)) is not None:
        return known
    if which == "last" and (newest := _newest(store)) is not None:
        return newest
    looked = look_for_runs(store)
    runs, refused, unknown = looked.runs, looked.refused, looked.unknown(store)
    for path, why in refused.items():
        if path.name == which:
            raise InvalidRequest(f"cannot read {path}: {why}", "its owner or root can read it")
    exact = [run for run in runs if run.id == which]
    labels = {run.id: _labels(run) for run in runs} if not exact and which != "last" else {}
    named = [run for run in runs if labels and labels[run.id].name == which]
    named = named or [run for run in runs if labels and labels[run.id].job == which]
    begun = [run for run in runs if run.id.startswith(which)]
    living = [run for run in named if lives(run)] if len(named) > 1 else []
    found = exact or living or named[-1:] or begun
    if unknown and not found:
        raise unreadable_error(unknown)
    if not runs:
        raise RunNotFound(f"no runs in {store.root}", "start one with `muster run`, or set MUSTER_HOME")
    whole = [run for run in found if is_sweep(run)] if len(found) > 1 and found == begun else []
    found = whole if len(whole) == 1 else found  # the points of a sweep begin with its id
    if len(found) == 1:
        return found[0]
    head, dot, number = which.rpartition(".")
    if not found and dot and head and number.isascii() and number.isdigit() and len(number) <= 6:
        sweep = None
        with suppress(InvalidRequest):
            sweep = find_run(store, head, lives)
        if sweep is not None and is_sweep(sweep):
            return point_named(sweep, number)
    if found:
        raise InvalidRequest(
            f"`{which}` is ambiguous: it matches {len(found)} runs: {some_ids(run.id for run in found[::-1])}",
            MORE_OF_IT,
        )
    raise RunNotFound(
        f"run not found: `{which}`", f"newest runs: {some_ids(run.id for run in runs[-3:][::-1])}; {listed}"
    )


def _newest(store: Store) -> Run | None:
    """Return the newest run, or the sweep of that, without a look at all others; None if there is none, or if a
    directory cannot be listed."""
    there = _look_into(store)
    if Found([], {}, there.unreadable).unknown(store):
        return None
    found: list[Run] = []
    for name in sorted(there.folders, reverse=True):
        _examine(there, name, found, {})
        if found:
            return sweep_run(found[0]) or found[0]
    return None


def unreadable_error(unreadable: Mapping[Path, str]) -> InvalidRequest:
    """Return the error for unreadable directories of runs, whose contents are unknown."""
    folder, why = next(iter(unreadable.items()))
    return InvalidRequest(
        f"cannot read the directory of runs {folder}: {why}",
        f"check its permissions with `ls -ld {folder}`, or choose another directory with --run-dir or MUSTER_HOME",
    )


def namesakes(store: Store, name: str) -> list[Run]:
    """Return the runs with this name, oldest first."""
    return [run for run in list_runs(store) if _labels(run).name == name]


class _Labels(NamedTuple):
    """What names a run beside its id; empty if unknown."""

    name: str = ""
    job: str = ""
    """The id of its scheduler job."""


def _labels(run: Run) -> _Labels:
    """Return the name and the job of a run, without checking all that its job.json contains."""
    try:
        data = with_scheduler(run.read("job.json") or {})
    except Unreadable:
        return _Labels()
    scheduled = data.get("scheduler")
    return _Labels(str(data.get("name", "")), str(scheduled.get("job", "")) if isinstance(scheduled, dict) else "")


MORE_OF_IT = "use the id of one of them"
"""The hint for an ambiguous prefix of an id."""


def some_ids(ids: Iterable[str]) -> str:
    """Return the first of these ids, for a sentence."""
    found = list(ids)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


_SHOWN = 8
"""Maximum number of ids in a sentence."""
