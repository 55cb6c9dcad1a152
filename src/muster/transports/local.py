"""On this machine: the agent is a child process, and the end of its stdin is the end of its ranks."""

from __future__ import annotations

from muster.agent.bootstrap import agent_argv, agent_script
from muster.transports.target import Target


def start(target: Target) -> tuple[str, ...]:
    """The agent, by the Python of the ranks, after the person's shell lines."""
    return agent_argv(target.python, text(target))


def text(target: Target) -> bytes:
    """The person's shell lines, where there are any: no command line holds them."""
    return agent_script(target.python, target.setup, target.keep_python) if target.setup else b""
