"""The local machine: the agent is a child process, and terminates its ranks when its stdin is closed."""

from __future__ import annotations

from muster.agent.bootstrap import agent_argv, agent_script
from muster.transports.target import Target


def start(target: Target) -> tuple[str, ...]:
    """Return the command that starts the agent with the ranks' Python, after the user's setup lines."""
    return agent_argv(target.python, text(target))


def text(target: Target) -> bytes:
    """Return the user's setup lines and the container, if any, as stdin: they must not be visible on a command line."""
    if not target.setup and not target.enter:
        return b""
    return agent_script(target.python, target.setup, target.keep_python, target.enter)
