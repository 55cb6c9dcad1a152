"""Job steps of a scheduler: how a running job is reached from outside, and how `muster doctor` gets onto its nodes."""

from __future__ import annotations

from muster.agent.bootstrap import agent_argv, agent_script
from muster.schedulers import get_scheduler
from muster.transports.target import Target


def start(target: Target) -> tuple[str, ...]:
    """Return the command of a one-task step on that node, beside running ones, with the host's GPUs and our stdin."""
    argv = agent_argv(target.python, text(target))
    return tuple(get_scheduler(target.scheduler).step((target.host,), argv, target.allocation, target.gpus, True))


def text(target: Target) -> bytes:
    """Return the user's setup lines and the container, if any, as stdin: they must not be visible on a command line."""
    if not target.setup and not target.enter:
        return b""
    return agent_script(target.python, target.setup, target.keep_python, target.enter)
