"""What is known about the scheduler's job of a pending or running run. Pure."""

from __future__ import annotations

from typing import NamedTuple


class JobFacts(NamedTuple):
    """The job of a run. Times are Unix times; None, and empty texts, if unknown."""

    scheduler: str
    """Name for users."""
    job: str
    pending: bool
    """True if it waits in the queue; otherwise it runs."""
    why: str = ""
    """Why it has not started yet, for users."""
    submitted: float | None = None
    start: float | None = None
    """Start time; of a pending job the expected one."""
    end: float | None = None
    """The time at which a running job reaches its time limit."""
    partition: str = ""
    priority: str = ""
    hosts: tuple[str, ...] = ()
    attempt: int | None = None
    """The current attempt; None before the first one."""
