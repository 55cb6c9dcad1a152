"""What an exported form is made from: the job, its nodes, and what only a scheduler or a cluster is told."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from muster.core.env_forwarding import is_secret
from muster.core.model import Job, Node
from muster.core.plurals import plural
from muster.errors import InvalidRequest


class Batch(NamedTuple):
    """The request to Slurm."""

    options: tuple[tuple[str, str], ...] = ()
    """Options of sbatch (name, value) as `muster run --slurm` passes them; the value is empty if there is none."""
    output: str = ""
    """`--output`, in Slurm's patterns."""
    error: str = ""
    """`--error`, in the same patterns."""
    requeue: bool = False
    signal: str = ""
    """`SIGNAL@SECONDS` before the time limit, if the user chose it."""

    def get(self, name: str) -> str:
        """Return the value of an option of sbatch; empty without it."""
        return dict(self.options).get(name, "")


class Wanted(NamedTuple):
    """Everything that a form is made from."""

    job: Job
    nodes: tuple[Node, ...]
    name: str
    """The name of the job."""
    command: str
    """The command line that wrote it, without secrets."""
    version: str
    """The version of muster."""
    chosen: tuple[str, ...] = ()
    """The names of `job.env` that `--env` named; the others are those that muster forwards over ssh by itself."""
    threads_chosen: bool = False
    """True if OMP_NUM_THREADS is set already, or will be by `job.env`."""
    batch: Batch = Batch()
    hosts: bool = False
    """True if hosts were named, which ssh reaches."""
    port: int | None = None
    """The rendezvous port, if the user chose one."""
    address: str = ""
    """The rendezvous address, if the user chose one."""
    image: str = ""
    """The container image."""
    notes: tuple[str, ...] = ()
    """What the form does not express, a sentence each."""
    extra: Mapping[str, str] = MappingProxyType({})
    """Options of the form itself."""

    @property
    def slurm(self) -> bool:
        """Whether Slurm gives the nodes."""
        return bool(self.job.scheduler)

    @property
    def world_size(self) -> int:
        """The total number of ranks."""
        return sum(len(node.ranks) for node in self.nodes)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of variables whose values are never written."""
        return tuple(name for name, value in self.job.env.items() if is_secret(name, value))

    @property
    def open_env(self) -> dict[str, str]:
        """The variables that may be written, those of `--env` first."""
        env = self.job.env
        names = [*self.chosen, *(name for name in env if name not in self.chosen)]
        return {name: env[name] for name in names if name in env and not is_secret(name, env[name])}

    @property
    def shape(self) -> str:
        """`8 ranks on 2 nodes`, for the first line."""
        return f"{plural(self.world_size, 'rank')} on {plural(len(self.nodes), 'node')}"

    def each(self, what: str) -> int:
        """Return the number of ranks of each node. Raises `InvalidRequest` if they differ; `what` starts them."""
        shares = sorted({len(node.ranks) for node in self.nodes})
        if len(shares) > 1:
            raise InvalidRequest(
                f"{what} requires the same number of ranks on each node, got {shares[0]} to {shares[-1]}",
                "set the same number with `-g`, or use `muster export mpirun`",
            )
        return shares[0]
