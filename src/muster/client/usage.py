"""The current resource usage of the ranks of a running run, asked from their agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from muster.client.client import Client, ask
from muster.core.json_checks import Malformed, checked, number, several, table, whole
from muster.core.pace import Pressure
from muster.core.progress import Progress
from muster.errors import MusterError
from muster.rundir.run import Run

_WITHIN = 8.0
"""Seconds for everyone to answer: an agent measures for half a second, a controller waits for its agents for 4."""


class RankNow(NamedTuple):
    """The usage of one rank at this moment."""

    rank: int
    node: int
    pid: int
    memory: int
    """Resident memory (RSS) of its own process, in bytes."""
    cpu: float
    """CPU usage in percent of a core, including its descendants."""
    children: int
    children_memory: int
    """Number of its descendants, and their memory in bytes; shared memory counts for each."""
    peak: int = 0
    """Highest memory of its own process so far, in bytes; 0 if the agent, perhaps an older one, does not tell."""
    pressure: Pressure = Pressure()
    step: int | None = None
    steps: int | None = None
    """The step that it reported by `muster.progress`, and the number of steps; None without a report."""

    @property
    def progress(self) -> Progress | None:
        """Both as one value."""
        return None if self.step is None else Progress(self.step, self.steps)


class Now(NamedTuple):
    """The usage of all ranks whose agents answered."""

    ranks: tuple[RankNow, ...]
    silent: tuple[str, ...] = ()
    """The hosts whose agents do not answer."""
    why: str = ""
    """Why nobody answers, if so."""


_PRESSURE = dict.fromkeys(Pressure._fields, number)

_USE = {"node": whole, "pid": whole, "memory": whole, "cpu": number, "children": whole, "children_memory": whole}
_SINCE_LATER = {
    "peak": whole,
    "pressure": lambda data: Pressure(**checked(data, _PRESSURE)),
    "step": whole,
    "steps": whole,
}
"""What agents of earlier versions do not report."""


def of(run: Run, client: Client) -> Now:
    """Return the usage of the run's ranks. Takes half a second, or a few seconds if hosts do not answer."""
    try:
        answer = ask(run, "usage", client, _WITHIN)
        return Now(_ranks(answer), silent(run, answer))
    except Malformed as error:
        return Now((), why=f"invalid answer: {error}")
    except MusterError as error:
        return Now((), why=error.sentence)


def silent(run: Run, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the hosts missing in a controller's answer. Raises `Malformed`."""
    hosts = dict(enumerate(run.hosts))
    return tuple(hosts.get(node, f"node {node}") for node in several(whole)(answer.get("missing", ())))


def _ranks(answer: Mapping[str, Any]) -> tuple[RankNow, ...]:
    found = []
    for rank, use in table(answer.get("ranks")).items():
        if not (rank.isascii() and rank.isdigit() and len(rank) < 10):
            raise Malformed(f"not a rank: {rank!r}")
        fields = {"node": 0, **table(use)}  # a run without a detached controller has a single node
        found.append(RankNow(int(rank), **checked(fields, {**_USE, **_SINCE_LATER}, tuple(_USE))))
    return tuple(sorted(found))
