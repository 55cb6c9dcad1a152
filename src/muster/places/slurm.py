"""In an allocation of Slurm, by srun: how a job that runs is reached from outside it, and how a doctor comes in."""

from __future__ import annotations

from muster.agent.boot import agent_argv, agent_script
from muster.model import Host, Job
from muster.schedulers import slurm


def start(job: Job, host: Host) -> tuple[str, ...]:
    """A step of one task on that node, beside the ones that run, with the GPUs of that host; its stdin is ours."""
    argv = agent_argv(job.python, text(job, host))
    return tuple(slurm.step((host.name,), argv, job.allocation, len(host.gpus), stdin=True))


def text(job: Job, host: Host) -> bytes:
    """The person's shell lines, where there are any: no command line holds them."""
    return agent_script(job.python, job.setup, keep_python=True) if job.setup else b""
