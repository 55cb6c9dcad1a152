"""On this machine: the agent is a child process, and the end of its stdin is the end of its ranks."""

from __future__ import annotations

from muster.agent.boot import agent_argv, agent_script
from muster.model import Host, Job


def start(job: Job, host: Host) -> tuple[str, ...]:
    """The agent, by the Python of the ranks, after the person's shell lines."""
    return agent_argv(job.python, text(job, host))


def text(job: Job, host: Host) -> bytes:
    """The person's shell lines, where there are any: no command line holds them."""
    return agent_script(job.python, job.setup, job.python_why == "--python") if job.setup else b""
