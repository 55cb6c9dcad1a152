"""A machine on which something of muster is to be started, and all that a place needs to know for that."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.model import Host, Job


class Explained(NamedTuple):
    """Why a machine was not reached."""

    says: str
    hint: str


class Target(NamedTuple):
    """One machine, and how it is reached."""

    place: str
    """A key of `TRANSPORTS`."""
    host: str
    user: str = ""
    """Login user; empty for what ssh is configured to."""
    python: str = "python3"
    """The interpreter that runs there."""
    keep_python: bool = True
    """It was chosen by name, and is not replaced by one that `setup` finds first."""
    setup: tuple[str, ...] = ()
    """Shell lines that are run there before it."""
    ssh: tuple[str, ...] = ("ssh",)
    """The command that reaches hosts, and its options."""
    scheduler: str = ""
    """A key of `SCHEDULERS`, where it is a node of a job."""
    allocation: str = ""
    """The number of that job."""
    gpus: int = 0
    """GPUs that a step on that node gets."""
    cwd: str = "/"
    """The directory here in which the command that reaches it is started."""


def target_of(job: Job, host: Host) -> Target:
    """A host of a job, for its agent."""
    return Target(
        place=job.place,
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
