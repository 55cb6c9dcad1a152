"""Code shared by the launchers that start Python: its command line."""

from __future__ import annotations

from muster.core.model import Job


def python_argv(job: Job) -> tuple[str, ...]:
    """Return the command line that a user would type to run one process."""
    if job.program.kind == "module":
        return (job.python, "-m", *job.program.argv)
    return (job.python, *job.program.argv)
