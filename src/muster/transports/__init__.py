"""How a command gets onto a host: an agent, or a program in place of one. One file and one row per transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple

from muster.transports import local, ssh, step
from muster.transports.target import Explained, Target


class Transport(NamedTuple):
    """A row of the table."""

    argv: Callable[[Target], tuple[str, ...]]
    """Returns the local command whose stdin and stdout are the connection to a new agent on the host."""
    stdin: Callable[[Target], bytes]
    """Returns what that command reads before the source of the agent."""
    explain: Callable[[int | None, str], Explained | None] = lambda code, said: None
    """Returns the cause, if known, given the command's exit code and output."""


TRANSPORTS: Mapping[str, Transport] = {
    "local": Transport(local.start, local.text),
    "ssh": Transport(ssh.start, ssh.text, ssh.explain),
    "step": Transport(step.start, step.text),
}
