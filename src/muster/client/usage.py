"""What the ranks of a living run use now, asked of their agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from muster.client.client import Client, ask
from muster.core.json_records import Malformed, checked, number, several, table, whole
from muster.errors import MusterError
from muster.rundir.run import Run

_WITHIN = 8.0
"""Seconds in which all have to answer: an agent measures for half a second, a supervisor waits for its agents for 4."""


class RankNow(NamedTuple):
    """One rank at this moment."""

    rank: int
    node: int
    pid: int
    memory: int
    """Bytes that its own process has resident (RSS)."""
    cpu: float
    """Percent of a core, together with what it has started."""
    children: int
    children_memory: int
    """Processes that it has started, and their bytes; what processes share counts in each."""


class Now(NamedTuple):
    """All ranks of which agents tell."""

    ranks: tuple[RankNow, ...]
    silent: tuple[str, ...] = ()
    """The hosts whose agents do not answer."""
    why: str = ""
    """Why nobody answers, where that is so."""


_USE = {"node": whole, "pid": whole, "memory": whole, "cpu": number, "children": whole, "children_memory": whole}


def of(run: Run, client: Client) -> Now:
    """What the ranks of this run use; it takes half a second, and at most some seconds where hosts are silent."""
    try:
        answer = ask(run, "usage", client, _WITHIN)
        return Now(_ranks(answer), silent(run, answer))
    except Malformed as error:
        return Now((), why=f"what was answered is not understood: {error}")
    except MusterError as error:
        return Now((), why=error.sentence)


def silent(run: Run, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """The hosts that an answer of a supervisor is without. Raises `Malformed`."""
    hosts = dict(enumerate(run.hosts))
    return tuple(hosts.get(node, f"node {node}") for node in several(whole)(answer.get("missing", ())))


def _ranks(answer: Mapping[str, Any]) -> tuple[RankNow, ...]:
    found = []
    for rank, use in table(answer.get("ranks")).items():
        if not (rank.isascii() and rank.isdigit() and len(rank) < 10):
            raise Malformed(f"{rank!r} is no rank")
        fields = {"node": 0, **table(use)}  # a run without a supervisor on a node has one node
        found.append(RankNow(int(rank), **checked(fields, _USE, tuple(_USE))))
    return tuple(sorted(found))
