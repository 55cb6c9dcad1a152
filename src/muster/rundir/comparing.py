"""What a run is compared by, read from its directory, and the last successful run of the same script."""

from __future__ import annotations

import os
import re
from typing import Any

from muster.core.comparison import RunFacts
from muster.core.json_checks import Malformed
from muster.core.json_records import job_from_json
from muster.core.model import Job
from muster.rundir.finding import why_refused
from muster.rundir.run import Run, Unreadable
from muster.rundir.store import ID, new_id

_TIME = len("20261121-130000")
"""Characters of a run id that are the time of its start."""
_MOST_TRIED = 3000
"""Number of earlier runs of a script whose results are looked at: about 50 ms."""
_HEAD = 512
"""Bytes of outcome.json that contain the state, its first field."""


def facts_for_comparison(run: Run, state: str = "", reason: str = "") -> RunFacts:
    """Return what a run is compared by. `state` and `reason` are in words. Raises `Unreadable`."""
    record, outcome, job = run.job, run.outcome, job_of(run)
    return RunFacts(
        run.id,
        program=job.program if job is not None else None,
        options=record.get("job", {}),
        cwd=_outside_of_copy(run, record.get("cwd", "")),
        ranks=record.get("ranks", 0),
        hosts=run.hosts,
        provenance=run.provenance(),
        muster=record.get("muster", ""),
        state=state or (str(outcome.state) if outcome is not None else ""),
        reason=reason,
        started=record.get("time", 0.0),
        duration=outcome.duration if outcome is not None else None,
    )


def job_of(run: Run) -> Job | None:
    """Return the job of a run, with its paths outside of a copy of the code; None if it was not recorded.

    Raises `Unreadable`.
    """
    data: Any = run.job.get("job")
    if data is None:
        return None
    try:
        job = job_from_json(data)
    except Malformed:  # `Run.job` has checked it
        return None
    first, *others = job.program.argv
    return job._replace(program=job.program._replace(argv=(_outside_of_copy(run, first), *others)))


def _outside_of_copy(run: Run, path: str) -> str:
    """Return a path in the run's own copy of the code (--snapshot, --sync) as one that all runs have in common."""
    copy = f"{run.path}/code/"
    return path.replace(copy, "$COPY/", 1) if path.startswith(copy) else path


def script_of(run: Run) -> tuple[str, str] | None:
    """Return what identifies the program of a run: its kind, and its absolute path or name. Raises `Unreadable`."""
    job = job_of(run)
    if job is None:
        return None
    name = job.program.argv[0]
    has_path = job.program.kind == "script" or "/" in name
    return job.program.kind, os.path.normpath(os.path.join(job.cwd, name)) if has_path else f"{job.cwd} {name}"


def last_success(run: Run) -> Run | None:
    """Return the last successful run of the same script and user before this one; None if there is none.

    Raises `Unreadable` for this run.
    """
    script, job = script_of(run), job_of(run)
    if script is None or job is None:
        return None
    ending = "-" + new_id(job.program.title, "", "")
    try:
        # points of a sweep begin at one time, and the rest of an id is random
        names = [name for name in os.listdir(run.path.parent) if name[:_TIME] <= run.id[:_TIME] and name != run.id]
    except OSError:
        return None
    for name in sorted((name for name in names if name.endswith(ending)), reverse=True)[:_MOST_TRIED]:
        other = Run(run.path.parent / name)
        if not ID.fullmatch(name) or not _succeeded(other) or why_refused(other.path):
            continue
        try:
            if other.uid == run.uid and script_of(other) == script and other.outcome is not None:
                return other
        except (Unreadable, OSError):
            continue
    return None


def _succeeded(run: Run) -> bool:
    """Return whether outcome.json begins with success; reads only its head."""
    try:
        fd = os.open(run.path / "outcome.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return re.match(rb'\s*\{\s*"state": "succeeded"', os.read(fd, _HEAD)) is not None
    except OSError:
        return False
    finally:
        os.close(fd)
