"""Sweeps on the command line: the points of `muster show`, `wait`, `kill` and `logs`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from muster.client.local import is_anothers, starter_lives
from muster.client.points import cancel_pending, row_of
from muster.client.reconcile import point_statuses
from muster.client.status import ANSWERS_WITHIN, RunStatus
from muster.client.sweeps import PointStatus, counts, exit_code, whole
from muster.core.plurals import plural
from muster.core.results import RunState
from muster.core.sweep import counts_in_words
from muster.errors import InvalidRequest, Unreachable
from muster.linux.processes import reason
from muster.rundir.run import Run
from muster.rundir.sweeps import STOP, sweep_of
from muster.schedulers.client import client
from muster.ui.command_text import how_it_was_started
from muster.ui.sweep_text import PointRow, end_of_point, points_in_words

_LOOK = 1.0
"""Seconds between looks at the points of a sweep."""
_COMES_BACK = 60.0
"""Seconds for a host or scheduler to answer again."""
_STOPS_WITHIN = 60.0
"""Seconds for the process that starts points to end after it was told to stop."""


def refuse_sweep(run: Run, name: str) -> NoReturn:
    """Raise `InvalidRequest` for a command that is about a single run."""
    noun = sweep_of(run).noun
    first = sweep_of(run).points[0].number
    what = "part" if noun == "chain" else "point"
    raise InvalidRequest(
        f"`muster {name}` is about one run, and {run.id} is a {noun}",
        f"name a {what}, for example `muster {name} {run.id}.{first}`; list them with `muster show {run.operand}`",
    )


# ---- show -----------------------------------------------------------------------------------------------------------


def _why_not_started(points: list[PointStatus]) -> list[str]:
    """Return the reasons for which points will never start, each once."""
    return list(dict.fromkeys(one.status.why for one in points if one.run is None and one.status.why))


def show_sweep(run: Run, as_json: bool, metric: str | None = None) -> int:
    """Show the points of a sweep: their values, states and last numbers."""
    points, sweep = point_statuses(run), sweep_of(run)
    rows = [row_of(one) for one in points]
    if as_json:
        print(json.dumps(sweep_record(run, points, rows), indent=1))
        return 0
    job = run.job
    name = f"  ({job['name']})" if job.get("name") else ""
    print(f"{sweep.noun:<8} {run.id}{name}")
    print(f"state    {counts_in_words(counts(points))}")
    print(f"command  {how_it_was_started(job)}")
    if scheduled := run.scheduled:
        print(f"job      {client(scheduled.name).title} job {scheduled.job}")
    for why in _why_not_started(points):
        print(f"why      {why}")
    print(f"\n{points_in_words(rows, 'PART' if sweep.chain else 'POINT', metric)}")
    one, number = "part" if sweep.chain else "point", points[0].point.number
    print(f"\nlogs: muster logs {run.operand}; of one {one}: muster logs {run.id}.{number}")
    print(f"run dir  {run.path}")
    return 0


def sweep_record(run: Run, points: list[PointStatus], rows: list[PointRow]) -> dict[str, Any]:
    """Return a sweep for programs."""
    sweep, job = sweep_of(run), run.job
    status = whole(points, sweep.chain)
    return {
        "id": run.id,
        "name": job.get("name", ""),
        sweep.noun: True,
        "state": status.state,
        "why": status.why,
        "code": None if status.state.lives else exit_code(points, sweep.chain),
        "counts": counts(points),
        "time": job.get("time"),
        "argv": job.get("argv", []),
        "scheduler": (job.get("scheduler") or {}).get("name"),
        "job_id": (job.get("scheduler") or {}).get("job"),
        "points": [
            {
                "point": row.point.number,
                "values": dict(row.point.values),
                "id": row.run or None,
                "state": row.state,
                "code": row.code,
                "seconds": row.seconds,
                "job_id": row.job or None,
                "metrics": dict(row.metrics),
            }
            for row in rows
        ],
    }


# ---- wait -----------------------------------------------------------------------------------------------------------


def follow_sweep(
    run: Run,
    timeout: float | None = None,
    say: Callable[[str], object] = print,
    left: Callable[[], bool] = bool,
    failed: Callable[[str], object] | None = None,
) -> int:
    """Wait for all points, saying how each has ended; return the exit code of the sweep, 124 after `timeout` seconds.

    `left` returns whether to stop waiting; `failed` is called instead of `say` for a point that has failed.
    Raises `Unreachable` if the state of a point is unknown for a minute.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: dict[str, RunStatus] = {}
    noun, told = "part" if sweep_of(run).chain else "point", ""
    heard = time.monotonic()
    while True:
        points = point_statuses(run, known=ended)
        for one in points:
            if one.run is not None and one.status.state.ended and one.run.id not in ended:
                ended[one.run.id] = one.status
                row = row_of(one, metrics=False)
                (failed if failed is not None and row.code else say)(
                    end_of_point(row, len(points), one.run.operand, noun)
                )
        words = counts_in_words(counts(points))
        state = whole(points).state
        silent = [one for one in points if one.status.state is RunState.UNKNOWN]
        heard = heard if silent else time.monotonic()
        if time.monotonic() - heard > _COMES_BACK:
            raise Unreachable(
                f"the state of {plural(len(silent), 'run')} of {run.id} is unknown: {silent[0].status.why}",
                "try again when the host is reachable",
            )
        if not state.lives and state is not RunState.UNKNOWN:
            for why in _why_not_started(points):
                (failed if failed is not None else say)(f"{run.id}: {why}")
            say(f"{run.id}: {words}")
            return exit_code(points, sweep_of(run).chain)
        if words != told:
            told = words
            say(f"{run.id}: {words}")
        if left() or (deadline is not None and time.monotonic() >= deadline):
            return 124
        time.sleep(_LOOK if deadline is None else max(0.0, min(_LOOK, deadline - time.monotonic())))


# ---- kill -----------------------------------------------------------------------------------------------------------


def kill_sweep(run: Run, end: Callable[[Run], int], by: str) -> int:
    """Start no more points, and stop those that run: `end` stops one. Return 0 if all have ended."""
    if is_anothers(run):
        raise InvalidRequest(f"{run.id} belongs to another user", "terminate it as that user")
    try:
        (run.path / STOP).touch()
    except OSError as error:
        print(f"warning: cannot write {run.path / STOP}: {reason(error)}", file=sys.stderr)
    points = point_statuses(run)
    if not any(one.status.state.lives or one.status.state is RunState.UNKNOWN for one in points):
        print(f"{run.id} has already ended ({counts_in_words(counts(points))})")
        return 0
    cancel_pending(points, by)
    code = 0
    deadline = time.monotonic() + _STOPS_WITHIN
    while True:
        living = [one.run for one in point_statuses(run) if one.run is not None and one.status.state.lives]
        for one in living:
            code = max(code, end(one))
        if (not living and not starter_lives(run)) or time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    left = point_statuses(run)
    print(f"{run.id}: {counts_in_words(counts(left))}")
    return max(code, int(whole(left).state.lives))


# ---- ps -------------------------------------------------------------------------------------------------------------


def listing(run: Run, known: Mapping[str, RunStatus]) -> dict[str, Any]:
    """Return the listing of a sweep for `muster ps`; `known` is the status of each of its runs."""
    points = point_statuses(run, ANSWERS_WITHIN, known)
    took = _duration(run, points)
    return {**sweep_record(run, points, [row_of(one, metrics=False) for one in points]), "seconds": took}


def _duration(run: Run, points: list[PointStatus]) -> float | None:
    """Return the seconds from the start of a sweep to its end, or until now."""
    began = float(run.job.get("time") or time.time())
    if whole(points).state.lives:
        return time.time() - began
    ends = []
    for one in points:
        # it may be just being deleted, or be another user's, of which only the scheduler tells the end
        with suppress(OSError):
            ends += [os.stat(one.run.path / "outcome.json").st_mtime] if one.run and one.status.outcome else []
    return max(0.0, max(ends) - began) if ends else None


def left_in_words(run: Run) -> str:
    """Return how to come back to a sweep that goes on without this terminal."""
    return f"muster: {run.id} continues; {_ways(run)}"


def begun_in_words(run: Run) -> str:
    """Return what was started in the background, and how to come back to it."""
    sweep = sweep_of(run)
    points = plural(len(sweep.points), "part" if sweep.chain else "point")
    return f"{run.id}: {points} in the background; {_ways(run)}"


def _ways(run: Run) -> str:
    name = run.job.get("name") or run.operand
    return f"follow it: muster wait {name}; output: muster logs {name}; stop it: muster kill {name}"
