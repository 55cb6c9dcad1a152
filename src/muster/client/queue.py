"""Asks the scheduler about the job of a pending or running run: why it waits, where it runs, and for how long."""

from __future__ import annotations

from muster.client.local import is_anothers
from muster.core.job_facts import JobFacts
from muster.core.results import RunState
from muster.rundir.run import Run
from muster.schedulers.client import client


def job_facts(run: Run, state: RunState) -> JobFacts | None:
    """Return what is known about the job of a run in this state; None if it has no job that waits or runs.

    The scheduler is asked twice. What it does not answer is left out.
    """
    scheduled = run.scheduled
    if scheduled is None or not state.lives or is_anothers(run):
        return None
    asks, pending = client(scheduled.name), state is RunState.PENDING
    seen = (asks.jobs(run.path.parents[1]) or {}).get(scheduled.job)
    record = asks.record(scheduled.job)
    attempts = run.attempts()
    found = JobFacts(
        asks.title,
        scheduled.job,
        pending,
        why=seen.why if seen is not None and pending else "",
        hosts=seen.hosts if seen is not None else (),
        attempt=attempts[-1] if attempts else None,
    )
    if record is None:
        return found
    return found._replace(
        submitted=record.submitted,
        start=record.start,
        end=None if pending else record.end,
        partition=record.partition,
        priority=record.priority,
        hosts=record.hosts or found.hosts,
    )
