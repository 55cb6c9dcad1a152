"""The directory of a sweep or chain, and the runs of its points.

$MUSTER_HOME/runs/<id>/             job.json  sweep.json  code/
$MUSTER_HOME/runs/<id>.<point>/     the run of a point; <id>.<point>.1 if it was started again
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from muster.core.json_checks import Malformed, checked, flag, optional, pair, record, several, texts, whole
from muster.core.model import as_json
from muster.core.printable import line as safe
from muster.core.sweep import Ids, Point, Sweep, possible_ids
from muster.errors import InvalidRequest
from muster.rundir.run import Run, Unreadable
from muster.rundir.store import Store

SWEEP = "sweep.json"
"""The points of a sweep, and how it was requested. Its presence makes a run directory that of a sweep."""

WORDS = "words"
"""The key of the arguments after `muster run`, without secrets."""

DRIVER_LOG = "driver.log"
"""The messages of the process that starts the points, if it has no terminal."""

STOP = "stop"
"""An empty file: no further point is started."""

_DELETED = "deleted"
"""The former job.json of a sweep that is being deleted: so all its points are deleted in one step."""

_POINT = {"number": whole, "values": several(pair)}
_SWEEP = {
    "points": several(lambda value: record(Point, _POINT, value, ("number",))),
    "most": optional(whole),
    "chain": flag,
    WORDS: texts,
}


def is_sweep(run: Run) -> bool:
    """Return whether this is the directory of a sweep or chain."""
    return os.path.lexists(run.path / SWEEP)


def mark_deleted(run: Run) -> None:
    """Have no command see a sweep any more, nor its points. Raises OSError."""
    (run.path / "job.json").rename(run.path / _DELETED)


def is_deleted(path: Path) -> bool:
    """Return whether this directory is that of a sweep that is being deleted."""
    return os.path.lexists(path / _DELETED)


def is_deleted_point(path: Path) -> bool:
    """Return whether this is the directory of a point of such a sweep."""
    return any(is_deleted(path.with_name(ids.sweep)) for ids in possible_ids(path.name))


def write_sweep(run: Run, sweep: Sweep, words: Sequence[str]) -> None:
    """Write the record of a sweep. Raises OSError."""
    run.write(SWEEP, {**as_json(sweep), WORDS: list(words)})


_ERROR = "error: "
_TAIL = 1 << 16
"""Bytes at the end of the messages that are searched."""


def write_error(error: object) -> None:
    """Write why no more points are started to stderr, which is `DRIVER_LOG`."""
    print(f"{_ERROR}{error}", file=sys.stderr, flush=True)


def why_not_started(run: Run) -> str:
    """Return the last error of the process that starts the points; empty if it has written none."""
    try:
        with open(os.open(run.path / DRIVER_LOG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((safe(line[len(_ERROR) :]) for line in reversed(lines) if line.startswith(_ERROR)), "")


def _read(run: Run) -> dict[str, Any]:
    try:
        return checked(run.read(SWEEP) or {}, _SWEEP, ("points",))
    except Malformed as error:
        raise Unreadable(run, SWEEP, str(error)) from None


def sweep_of(run: Run) -> Sweep:
    """Return the points of a sweep. Raises `Unreadable`."""
    found = _read(run)
    return Sweep(found["points"], found.get("most"), found.get("chain", False))


def words_of(run: Run) -> tuple[str, ...]:
    """Return the arguments after `muster run` with which a sweep was started. Raises `Unreadable`."""
    found: tuple[str, ...] = _read(run).get(WORDS, ())
    return found


def runs_by_point(run: Run) -> dict[int, Run]:
    """Return the newest run of each point that was started or submitted, by number."""
    found: dict[int, Ids] = {}
    begin = f"{run.id}."
    for name in os.listdir(run.path.parent):
        if name.startswith(begin):
            for ids in possible_ids(name):
                newest = found.get(ids.point)
                if ids.sweep == run.id and (newest is None or newest.again < ids.again):
                    found[ids.point] = ids
    option = run.operand.removeprefix(run.id)
    runs = {index: Run(run.path.parent / found[index].run, option) for index in sorted(found)}
    return {index: one for index, one in runs.items() if _alike(one, run) and os.path.lexists(one.path / "job.json")}


def _alike(one: Run, other: Run) -> bool:
    """Return whether a run directory is as trustworthy as another one: no link, of the same owner, written by no other.

    Root reads the directories of users, who may create any name there.
    """
    try:
        found = os.lstat(one.path)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == other.uid and not found.st_mode & 0o022
    except OSError:
        return False


def every_run(run: Run) -> list[Run]:
    """Return all runs of the points of a sweep, including those that were replaced by a newer one."""
    names = [name for name in os.listdir(run.path.parent) if any(ids.sweep == run.id for ids in possible_ids(name))]
    return [one for name in sorted(names) if _alike(one := Run(run.path.parent / name), run)]


def next_ids(run: Run, indices: Iterable[int]) -> dict[int, Ids]:
    """Return the ids of new runs of these points."""
    before = {ids.point: ids for ids in (ids_of(one) for one in runs_by_point(run).values()) if ids is not None}
    return {index: Ids(run.id, index, before[index].again + 1 if index in before else 0) for index in indices}


def ids_of(run: Run) -> Ids | None:
    """Return which point of which sweep this run is; None if it belongs to none."""
    for ids in possible_ids(run.id):
        sweep = Run(run.path.parent / ids.sweep)
        if _alike(sweep, run) and is_sweep(sweep):
            return ids
    return None


def is_point(store: Store, run_id: str) -> bool:
    """Return whether a run with this id, which need not exist yet, is a point of a sweep."""
    return any(is_sweep(Run(store.path(ids.sweep))) for ids in possible_ids(run_id))


def sweep_run(run: Run) -> Run | None:
    """Return the sweep to which the run of a point belongs; None if it belongs to none."""
    ids = ids_of(run)
    return None if ids is None else Run(run.path.parent / ids.sweep, run.operand.removeprefix(run.id))


def folded(runs: Sequence[Run]) -> list[Run]:
    """Return these runs without those of points, in the same order."""
    sweeps = {run.path for run in runs if is_sweep(run)}
    return [run for run in runs if not any(run.path.with_name(ids.sweep) in sweeps for ids in possible_ids(run.id))]


def point_named(sweep: Run, number: str) -> Run:
    """Return the newest run of a point of a sweep. Raises `InvalidRequest`."""
    runs = runs_by_point(sweep)
    if int(number) in runs:
        return runs[int(number)]
    known = any(point.number == int(number) for point in sweep_of(sweep).points)
    if known:
        raise InvalidRequest(f"point {number} of {sweep.id} has not been started", f"see `muster show {sweep.operand}`")
    raise InvalidRequest(f"{sweep.id} has no point {number}", f"list its points with `muster show {sweep.operand}`")
