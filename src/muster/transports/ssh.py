"""Hosts reached with ssh, using the user's own configuration. Only Python must be installed there."""

from __future__ import annotations

from typing import NamedTuple

from muster.agent.bootstrap import agent_script, ssh_command_for
from muster.transports.target import Explained, Target

OPTIONS = (
    # a prompt that nobody answers would hang forever; keys and ssh agents need none
    *("BatchMode=yes", "RequestTTY=no", "RemoteCommand=none", "ClearAllForwardings=yes", "PermitLocalCommand=no"),
    # a silently dead connection is detected after 15 s
    *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
)
"""Options passed before the user's configuration is read: ssh uses the first value it finds (ssh_config(5))."""


def reach(target: Target, command: str) -> tuple[str, ...]:
    """Return the argv that runs `command` on a host."""
    options = [word for option in OPTIONS for word in ("-o", option)]
    user = ("-l", target.user) if target.user else ()
    return (*target.ssh, *options, *user, "--", target.host, command)


def start(target: Target) -> tuple[str, ...]:
    """Return the ssh command with a remote shell that reads the rest from stdin."""
    # --setup often needs what only a login shell defines, such as `module`
    shell = "bash -l" if target.setup else "sh"
    return reach(target, ssh_command_for(shell, text(target)))


def text(target: Target) -> bytes:
    """Return what that shell reads: the user's setup lines, and the Python command that becomes the agent."""
    return agent_script(target.python, target.setup, target.keep_python, target.enter)


class Refusal(NamedTuple):
    """A message of a failing ssh, and what it means."""

    words: str
    """A part of its output."""
    says: str
    hint: str


REFUSALS = (
    Refusal(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "host key changed",
        "if HOST was reinstalled: `ssh-keygen -R HOST`, then `ssh HOST`; if not, another machine may impersonate it",
    ),
    Refusal(
        "Host key verification failed",
        "unknown host key",
        "run `ssh HOST` once, and verify the key that it shows",
    ),
    Refusal(
        "Permission denied",
        "ssh authentication failed: it requires a password, or another key or user",
        "muster cannot enter a password: use `ssh-copy-id HOST`, or `ssh-add` for a key with a passphrase",
    ),
    Refusal(
        "Too many authentication failures",
        "ssh authentication failed: too many keys offered",
        "choose the key in ~/.ssh/config with `IdentityFile` and `IdentitiesOnly yes`",
    ),
    Refusal(
        "Could not resolve hostname",
        "host name not found",
        "check the spelling, or set its address in ~/.ssh/config or /etc/hosts",
    ),
    Refusal("Connection refused", "ssh connection refused", "check that sshd is running on this port"),
    Refusal(
        "No route to host",
        "no route to host",
        "check that the host is up, and in a network that this machine can reach",
    ),
    Refusal("timed out", "ssh connection timed out", "check that the host is up, and that no firewall blocks ssh"),
)
"""The first match is reported."""


def explain(code: int | None, said: str) -> Explained | None:
    """Return the meaning of a failed ssh's output; an exit code other than 255 is that of the remote command."""
    known = (row for row in REFUSALS if row.words in said) if code == 255 else ()
    return next((Explained(row.says, row.hint) for row in known), None)
