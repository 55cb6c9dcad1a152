"""A host on which muster starts something, with everything a transport needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

from muster.agent.bootstrap import shell_script
from muster.core.model import Host, Job
from muster.runtimes import BARE, CONTAINER, RUNTIMES, Inside, mount, mounts_of_code, python_inside, runtime


class Explained(NamedTuple):
    """An explanation why a host could not be reached."""

    says: str
    hint: str


def command_inside(
    job: Job,
    program: str,
    args: Sequence[str],
    lists_option: Callable[[str], bool],
    setup: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return what follows the scheduler's program that starts a task: a Python program, in the container of the job.

    `program` is the interpreter without a container; `lists_option` tells whether the scheduler's program has an
    option. `setup`: shell lines to run first, if the batch script has not done that.
    """
    row = runtime(job.runtime)
    if job.runtime == BARE and setup:
        return ("bash", "-c", shell_script((program, *args), setup, job.python_named))
    if job.runtime == BARE:
        return (program, *args)
    integrated = next((other for name in RUNTIMES if (other := runtime(name)).task_option), None)
    if job.runtime == CONTAINER and integrated is not None and lists_option(integrated.task_option):
        row = integrated
    if row.task_option:
        return (*row.task_options(inside(job)), python_inside(job), *args)
    shell = "bash" if setup else "sh"
    return (shell, "-c", shell_script((python_inside(job), *args), setup, True, enter=row.enter(inside(job))))


def inside(job: Job) -> Inside:
    """Return what the agents of a job enter."""
    named = tuple(map(mount, job.mounts))
    return Inside(job.runtime_value, mounts_of_code(job.cwd, job.program.path, named), job.runs)


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
    enter: str = ""
    """Shell lines by which the agent enters a container (`runtimes`); empty for none."""
    cwd: str = "/"
    """The local directory in which the command that reaches the host is started."""


def target_of(job: Job, host: Host) -> Target:
    """Return the target for the agent of one of a job's hosts."""
    return Target(
        transport=job.transport,
        host=host.name,
        user=host.user,
        python=host.python or python_inside(job),
        keep_python=job.python_named or bool(host.python) or runtime(job.runtime).has_image,
        setup=(*job.setup, *host.setup),
        ssh=job.ssh,
        scheduler=job.scheduler,
        allocation=job.allocation,
        gpus=len(host.gpus),
        enter=runtime(job.runtime).enter(inside(job)),
        cwd=job.cwd,
    )
