"""On this machine: the agent is a child process, and the end of its stdin is the end of its ranks."""

from __future__ import annotations

from muster.agent.boot import agent_argv
from muster.model import Host, Job


def start(job: Job, host: Host) -> tuple[str, ...]:
    """The agent, by the Python of the ranks, after the person's shell lines."""
    return agent_argv(job.python, job.setup, keep_python=job.python_why == "--python")


def text(job: Job, host: Host) -> bytes:
    """Nothing comes before the agent's own text."""
    return b""
