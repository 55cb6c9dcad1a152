"""In a job of a scheduler, by a step: how a job that runs is reached from outside it, and how a doctor comes in."""

from __future__ import annotations

from muster.agent.bootstrap import agent_argv, agent_script
from muster.schedulers import get_scheduler
from muster.transports.target import Target


def start(target: Target) -> tuple[str, ...]:
    """A step of one task on that node, beside the ones that run, with the GPUs of that host; its stdin is ours."""
    argv = agent_argv(target.python, text(target))
    return tuple(get_scheduler(target.scheduler).step((target.host,), argv, target.allocation, target.gpus, True))


def text(target: Target) -> bytes:
    """The person's shell lines, where there are any: no command line holds them."""
    return agent_script(target.python, target.setup, target.keep_python) if target.setup else b""
