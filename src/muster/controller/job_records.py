"""job.json of runs in a queue, written by the job itself if the command that submitted it was killed before it did.

No command would find the run otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from muster.rundir.run import Run
from muster.schedulers.scheduler import Arrays, Env

REQUEST = "request.json"
"""The request, before the nodes are known."""

RECORD_OF_JOB = "record"
"""The key with the contents of job.json, without the id of the job: in the request of a run, and in the file with the
points of an array for the sweep."""


def keep_record(run: Run, asked: Mapping[str, Any], job: str) -> None:
    """Write job.json of a run unless it is there."""
    os.listdir(run.path)  # over NFS, this fetches what another node has written
    record = asked.get(RECORD_OF_JOB)
    if record and not _recorded(run):
        run.write("job.json", _of_job(record, job))


def run_of_task(sweep: Run, arrays: Arrays, name: str, env: Env) -> Run:
    """Return the run of this task of a job array, which the file `name` in the directory of its sweep tells.

    Write job.json of the sweep and of all points of the array if the command wrote none for this one: it writes that of
    the sweep last.
    """
    runs = dict(sweep.read(name) or {})
    record = runs.pop(RECORD_OF_JOB, None)
    own = Run(sweep.path.parent / str(runs[arrays.number(env)]))
    for one in (sweep, own):
        os.listdir(one.path)  # over NFS, this fetches what another node has written
    if record and not (_recorded(sweep) and _recorded(own)):
        array = arrays.array(env)
        for number, run_id in runs.items():
            point = Run(sweep.path.parent / str(run_id))
            if not _recorded(point) and (asked := point.read(REQUEST)) is not None:
                keep_record(point, asked, arrays.task(array, number))
        sweep.write("job.json", _of_job(record, array))
    return own


def _recorded(run: Run) -> bool:
    return os.path.lexists(run.path / "job.json")


def _of_job(record: Mapping[str, Any], job: str) -> dict[str, Any]:
    return {**record, "scheduler": {**record["scheduler"], "job": job}}
