"""How a command gets onto a machine: an agent, or a program in place of one. One file, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple

from muster.transports import local, ssh, step
from muster.transports.target import Explained, Target


class Transport(NamedTuple):
    """A row of the table."""

    argv: Callable[[Target], tuple[str, ...]]
    """The command, here, whose stdin and stdout are the connection to a new agent there."""
    stdin: Callable[[Target], bytes]
    """What that command reads before the text of the agent."""
    explain: Callable[[int | None, str], Explained | None] = lambda code, said: None
    """What is behind its exit status and what it said, where that is known."""


TRANSPORTS: Mapping[str, Transport] = {
    "local": Transport(local.start, local.text),
    "ssh": Transport(ssh.start, ssh.text, ssh.explain),
    "step": Transport(step.start, step.text),
}
