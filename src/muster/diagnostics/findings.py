"""What the doctor is told of the machines, and what it finds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

Facts = Mapping[str, Any]
"""What a machine told of itself; see `agent/probe.py`."""


class ClusterFacts(NamedTuple):
    """What is known of all machines together."""

    facts: Mapping[str, Facts]
    """By host, in their order."""
    ways: Mapping[tuple[str, str], str]
    """Why (from, to) cannot be connected on a free port; empty when it can."""
    clocks: Mapping[str, float]
    """By how many seconds the wall clock of a host is ahead of that of this machine."""
    folder: str
    """Where the ranks start."""
    nodes: Mapping[str, tuple[str, str]]
    """Of the scheduler, by node: the state and the reason; empty without one."""
    gres: Mapping[str, int]
    """The GPUs that the scheduler has for each node."""
    scheduler: str = ""
    """The key of the scheduler that is here; empty without one."""
    scheduler_silent: str = ""
    """Why it does not answer."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: str
    """`error`: training will fail or hang. `warning`: it will be slow, or fail some day."""
    host: str
    summary: str
    impact: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """For `muster doctor --json`, whose keys stay as they are: scripts read them."""
        return {
            "level": self.level,
            "host": self.host,
            "found": self.summary,
            "why": self.impact,
            "do": self.remedy,
        }


class Check(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[ClusterFacts], Iterator[Finding]]
    cheap: bool = False
    """It needs only what `hardware.cheap_facts` tells, so that each run can look."""


GIB = 1 << 30


def differ(found: Mapping[Any, Sequence[str]]) -> str:
    """`2.13 on n1, n2; 2.12 on n3`."""
    return "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in found.items())


def odd(found: Mapping[Any, Sequence[str]]) -> list[str]:
    """The hosts that are not as most are."""
    most = max(found.values(), key=len, default=())
    return [host for hosts in found.values() if hosts is not most for host in hosts]
