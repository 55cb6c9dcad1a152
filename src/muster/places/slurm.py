"""In an allocation of Slurm, by srun: how a job that runs is reached from outside it."""

from __future__ import annotations

from muster.agent.boot import agent_argv
from muster.model import Host, Job
from muster.schedulers import slurm


def start(job: Job, host: Host) -> tuple[str, ...]:
    """A step of one task on that node, beside the ones that run; its stdin is ours."""
    return tuple(slurm.step((host.name,), agent_argv(job.python, (), True), job=job.allocation, stdin=True))


def text(job: Job, host: Host) -> bytes:
    """Nothing comes before the text of the program."""
    return b""
