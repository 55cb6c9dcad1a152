"""What the launchers that start Python share: its command line."""

from __future__ import annotations

from muster.core.model import Job


def python_argv(job: Job) -> tuple[str, ...]:
    """The command line as a person would type it for one process."""
    if job.program.kind == "module":
        return (job.python, "-m", *job.program.argv)
    return (job.python, *job.program.argv)
