"""Data of the doctor: the facts of the machines, and the findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

Facts = Mapping[str, Any]
"""Facts reported by a machine; see `agent/probe.py`."""


class ClusterFacts(NamedTuple):
    """The facts of all machines together."""

    facts: Mapping[str, Facts]
    """By host, in order."""
    ways: Mapping[tuple[str, str], str]
    """By (from, to): why a connection on a free port fails; empty if it works."""
    clocks: Mapping[str, float]
    """Seconds by which the wall clock of a host is ahead of this machine's, by host."""
    folder: str
    """The directory where ranks start."""
    nodes: Mapping[str, tuple[str, str]]
    """By node: the scheduler's state and reason; empty without a scheduler."""
    gres: Mapping[str, int]
    """By node: the number of GPUs known to the scheduler."""
    scheduler: str = ""
    """The key of the local scheduler; empty without one."""
    scheduler_silent: str = ""
    """The error if the scheduler does not answer."""


class Finding(NamedTuple):
    """A problem found on a host."""

    level: str
    """`error`: training will fail or hang. `warning`: it will be slow, or may fail some day."""
    host: str
    summary: str
    impact: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """Return the finding for `muster doctor --json`. The keys are stable, since scripts read them."""
        return {
            "level": self.level,
            "host": self.host,
            "found": self.summary,
            "why": self.impact,
            "do": self.remedy,
        }


def _never(_: ClusterFacts) -> str:
    return ""


class Check(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[ClusterFacts], Iterator[Finding]]
    cheap: bool = False
    """True if it needs only `hardware.cheap_facts`, so that it can run before each run."""
    skip: Callable[[ClusterFacts], str] = _never
    """Returns why there is nothing to check; an empty text if there is."""


GIB = 1 << 30


def differ(found: Mapping[Any, Sequence[str]]) -> str:
    """Return a text such as `2.13 on n1, n2; 2.12 on n3`."""
    return "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in found.items())


def odd(found: Mapping[Any, Sequence[str]]) -> list[str]:
    """Return the hosts that differ from the majority."""
    most = max(found.values(), key=len, default=())
    return [host for hosts in found.values() if hosts is not most for host in hosts]
