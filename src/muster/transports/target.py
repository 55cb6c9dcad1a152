"""A host on which muster starts something, with everything a transport needs to know."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.model import Host, Job


class Explained(NamedTuple):
    """An explanation why a host could not be reached."""

    says: str
    hint: str


class Target(NamedTuple):
    """A host, and how to reach it."""

    transport: str
    """The transport: a key of `TRANSPORTS`."""
    host: str
    user: str = ""
    """Login user; empty for the one in the ssh configuration."""
    python: str = "python3"
    """The interpreter to run there."""
    keep_python: bool = True
    """True if the user chose the interpreter; otherwise one that `setup` puts first in PATH replaces it."""
    setup: tuple[str, ...] = ()
    """Shell lines to run there first."""
    ssh: tuple[str, ...] = ("ssh",)
    """The ssh command with its options."""
    scheduler: str = ""
    """A key of `SCHEDULERS`, if the host is a node of a job."""
    allocation: str = ""
    """The id of that job."""
    gpus: int = 0
    """Number of GPUs that a step on that node gets."""
    cwd: str = "/"
    """The local directory in which the command that reaches the host is started."""


def target_of(job: Job, host: Host) -> Target:
    """Return the target for the agent of one of a job's hosts."""
    return Target(
        transport=job.transport,
        host=host.name,
        user=host.user,
        python=host.python or job.python,
        keep_python=job.python_named or bool(host.python),
        setup=(*job.setup, *host.setup),
        ssh=job.ssh,
        scheduler=job.scheduler,
        allocation=job.allocation,
        gpus=len(host.gpus),
        cwd=job.cwd,
    )
