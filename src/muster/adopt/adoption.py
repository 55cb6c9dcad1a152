"""What was understood of a launch script: values only."""

from __future__ import annotations

from typing import NamedTuple


class Remark(NamedTuple):
    """Something about a line of the script."""

    line: int
    """From 1; 0 if it is about no single line."""
    text: str
    """The line, shortened."""
    says: str


class Argument(NamedTuple):
    """A word for the program of the ranks."""

    shell: str
    """As it is typed in a shell, quoted."""
    in_job: bool = False
    """True if its value is known only in the job or in each rank, so that a shell must expand it there."""


def ranks_on(host: str) -> int:
    """Return the number of ranks that a host is given: 4 for `n1:4`, 2 for `n1:0,3` (GPUs); 0 if it is given none."""
    _, colon, value = host.rpartition(":")
    if not colon or not all(piece.isdigit() for piece in value.split(",")):
        return 0
    return value.count(",") + 1 if "," in value else int(value)


class Launch(NamedTuple):
    """One launch that a script makes, in the terms of muster."""

    by: str
    """What starts the ranks in the script, such as `srun, which starts torchrun`."""
    line: int
    kind: str = "script"
    """`script`, `module` or `command`."""
    program: tuple[Argument, ...] = ()
    """The script, module or command, followed by its arguments."""
    scheduled: bool = False
    """True for a job of Slurm."""
    nodes: int | None = None
    each: str = ""
    """Ranks per node: a number, or `gpu`, `cpu`, `auto`; empty if it is not given."""
    total: int | None = None
    """The number of ranks, if it is given instead of `each`."""
    hosts: tuple[str, ...] = ()
    """Hosts that the script names, as `--hosts` takes them: `n1:2`."""
    hostfile: str = ""
    include: str = ""
    exclude: str = ""
    launcher: str = ""
    """The launcher of muster; empty for the default."""
    launcher_args: tuple[str, ...] = ()
    python: str = ""
    cwd: str = ""
    env: tuple[tuple[str, str], ...] = ()
    """Variables with values that are known."""
    setup: tuple[str, ...] = ()
    """Lines that a shell has to run first."""
    options: tuple[tuple[str, str], ...] = ()
    """Further options of muster with values; the value is empty for those without one."""
    by_arrival: bool = False
    """True if the script leaves it to torchrun's c10d rendezvous which node comes first: the one that arrives first."""
    port: str = ""
    """The rendezvous port that the script chose."""
    typed: str = ""
    """The whole command line, where a file contains it."""
    ends: tuple[str, ...] = ()
    """What ends the run in the script, in sentences."""

    @property
    def world_size(self) -> int | None:
        """The number of ranks, if it is known."""
        if self.total is not None:
            return self.total
        counts = [ranks_on(host) for host in self.hosts]
        if counts and all(counts):
            return sum(counts)
        if any("[" in host for host in self.hosts):
            return None
        nodes = self.nodes if self.nodes is not None else len(self.hosts) or None
        return nodes * int(self.each) if nodes and self.each.isdigit() else None


class Adoption(NamedTuple):
    """Everything about a file."""

    path: str
    launches: tuple[Launch, ...]
    changed: tuple[Remark, ...] = ()
    """What muster does in another way than the script, and what was wrong in it."""
    unused: tuple[Remark, ...] = ()
    """Lines that change nothing for the ranks, and are left out."""
    unknown: tuple[Remark, ...] = ()
    """Lines that were not understood."""
