"""The fields of job.json and their validation, including older names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from muster.core.json_checks import Malformed, checked, flag, number, optional, several, text, texts, whole
from muster.core.json_records import job_from_json, program_from_json
from muster.core.model import as_json
from muster.schedulers import SCHEDULERS


class Scheduled(NamedTuple):
    """The scheduler job of a run."""

    name: str
    """A key of `SCHEDULERS`."""
    job: str
    """Its id."""
    job_name: str | None = None
    """Its name; None if it was not recorded."""
    allocated: bool = False
    """True if it existed before the run, and does not end with it."""
    requeue: int = 0
    """How often the run continues as the next attempt when the scheduler has ended it."""
    after: tuple[str, ...] = ()
    """The jobs that have to end first, such as `17:ok`."""


def _scheduler(value: Any) -> str:
    if text(value) not in SCHEDULERS:
        raise Malformed(f"unknown scheduler: {value!r}")
    return str(value)


def _number_of_job(value: Any) -> str:
    """Check a job id, which is passed on the command line that cancels the job."""
    from muster.schedulers.scheduler import JOB_ID  # only runs of a scheduler need its many records

    if not JOB_ID.fullmatch(text(value)):
        raise Malformed(f"not a job id: {value!r}")
    return str(value)


_SCHEDULED = {
    "name": _scheduler,
    "job": _number_of_job,
    "job_name": optional(text),
    "allocated": flag,
    "requeue": whole,
    "after": texts,
}


def with_scheduler(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return job.json in the current format; the version before this one knew no scheduler except Slurm."""
    if "slurm" not in data or "scheduler" in data:
        return data
    old = {"job": "slurm", "job_name": "slurm_name", "allocated": "allocated", "requeue": "requeue"}
    return {**data, "scheduler": {"name": "slurm", **{new: data[key] for new, key in old.items() if key in data}}}


def _number_of_ranks(value: Any) -> int:
    """Check a number of ranks, limited so that a list of them fits into memory."""
    if whole(value) > 1 << 20:
        raise Malformed(f"not a number of ranks: {value}")
    return int(value)


_SERVED = {"name": text, "user": text}

_ROLE = {"name": text, "ranks": _number_of_ranks, "program": lambda value: as_json(program_from_json(value))}

JOB = {
    "id": text,
    "name": text,
    "argv": texts,
    "muster": text,
    "cwd": text,
    "started": text,
    "time": number,
    "ranks": _number_of_ranks,
    "pid": whole,
    "pid_started": text,
    "host": text,
    "boot": text,
    "job": lambda value: as_json(job_from_json(value)),
    "served": lambda value: checked(value, _SERVED, ("name", "user")),
    "there": text,
    "shared": flag,
    "scheduler": lambda value: checked(value, _SCHEDULED, ("name", "job")),
    "roles": lambda value: list(several(lambda role: checked(role, _ROLE, ("name", "ranks", "program")))(value)),
}
"""The checks of the fields of job.json."""
