"""On hosts that ssh reaches, as the person's own configuration says. Nothing is installed there but Python."""

from __future__ import annotations

from typing import NamedTuple

from muster.agent.bootstrap import agent_script, ssh_command_for
from muster.transports.target import Explained, Target

OPTIONS = (
    # a question that nobody answers hangs for ever; keys and agents need none
    *("BatchMode=yes", "RequestTTY=no", "RemoteCommand=none", "ClearAllForwardings=yes", "PermitLocalCommand=no"),
    # a connection that has died without a word is known to be dead after 15 s
    *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
)
"""Said before the person's configuration is read: ssh keeps the first value that it meets (ssh_config(5))."""


def reach(target: Target, command: str) -> tuple[str, ...]:
    """The argv that runs `command` on a host."""
    options = [word for option in OPTIONS for word in ("-o", option)]
    user = ("-l", target.user) if target.user else ()
    return (*target.ssh, *options, *user, "--", target.host, command)


def start(target: Target) -> tuple[str, ...]:
    """ssh, and a shell there that reads the rest."""
    # --setup often needs what only a login shell defines, such as `module`
    shell = "bash -l" if target.setup else "sh"
    return reach(target, ssh_command_for(shell, text(target)))


def text(target: Target) -> bytes:
    """What that shell reads: the person's lines, and the Python that becomes the agent."""
    return agent_script(target.python, target.setup, target.keep_python)


class Refusal(NamedTuple):
    """What ssh says when it does not get through, and what it means."""

    words: str
    """What stands in its output."""
    says: str
    hint: str


REFUSALS = (
    Refusal(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that this machine knows",
        "if that machine was made anew: `ssh-keygen -R HOST`, then `ssh HOST` once; if not, another one answers for it",
    ),
    Refusal(
        "Host key verification failed",
        "its host key is not known here yet",
        "`ssh HOST` once, and look at the key that it shows",
    ),
    Refusal(
        "Permission denied",
        "ssh was refused: it would need a password, or another key or user",
        "no password can be typed here; `ssh-copy-id HOST`, or `ssh-add` for a key with a passphrase",
    ),
    Refusal(
        "Too many authentication failures",
        "ssh was refused: it offered too many keys",
        "name the right one in ~/.ssh/config: `IdentityFile` and `IdentitiesOnly yes`",
    ),
    Refusal(
        "Could not resolve hostname",
        "its name is not known here",
        "look at the spelling, or give it an address in ~/.ssh/config or /etc/hosts",
    ),
    Refusal("Connection refused", "nothing listens there for ssh", "is sshd running, and on this port?"),
    Refusal("No route to host", "there is no way to it", "is it up, and is this machine in its network?"),
    Refusal("timed out", "it does not answer", "is it up, and does a firewall let ssh through?"),
)
"""The first that fits is told."""


def explain(code: int | None, said: str) -> Explained | None:
    """What stands behind the words of an ssh that failed; with another status than 255 it was the command there."""
    known = (row for row in REFUSALS if row.words in said) if code == 255 else ()
    return next((Explained(row.says, row.hint) for row in known), None)
