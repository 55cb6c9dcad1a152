"""The resources of ranks and nodes over time, as agents recorded them in the run directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from muster.core.json_checks import Check, Malformed, checked, number, optional, several, table, whole
from muster.rundir.run import Run, Unreadable

Values = tuple[Optional[float], ...]
"""One value for each sample; None where there is none."""


class RankResources(NamedTuple):
    """What one rank used over time."""

    rank: int
    memory: Values
    """Resident memory of its process, in bytes."""
    children_memory: Values
    """The same of its descendants together; memory that they share counts in each."""
    cpu: Values
    """CPU usage in percent of a core, with descendants."""
    step: Values = ()
    """The step that it reported; empty if it reported none."""


class GpuResources(NamedTuple):
    """What was used of one GPU over time, by all processes."""

    number: int
    total: int
    """Its memory in bytes."""
    memory: Values
    """In bytes."""
    utilization: Values
    """In percent of the time."""


class NodeResources(NamedTuple):
    """What was used on one node during an attempt."""

    node: int
    attempt: int
    times: tuple[float, ...]
    """When the samples were taken, in seconds since the run was started."""
    ranks: tuple[RankResources, ...]
    gpus: tuple[GpuResources, ...]
    total: int
    """The memory of the machine in bytes; 0 if unknown."""
    memory: Values
    """What was used of it by all processes, without caches."""
    cores: int
    cpu: Values
    """CPU usage of the machine in percent of all cores."""


_VALUES: Check = several(optional(number))

_RANK = dict.fromkeys(("memory", "children_memory", "cpu"), _VALUES)
_RANK_TOO = {"step": _VALUES}
"""What only ranks that call `muster.progress` have."""

_GPU = {"total": whole, "memory": _VALUES, "utilization": _VALUES}

_MACHINE = {"total": whole, "cores": whole, "memory": _VALUES, "cpu": _VALUES}

_FILE: Mapping[str, Check] = {
    "node": whole,
    "attempt": whole,
    "began": number,
    "times": several(number),
    "ranks": lambda data: tuple(RankResources(index, **of) for index, of in _numbered(data, _RANK, _RANK_TOO)),
    "gpus": lambda data: tuple(GpuResources(index, **of) for index, of in _numbered(data, _GPU)),
    "machine": lambda data: checked(data, _MACHINE, tuple(_MACHINE)),
}


def resources_of(run: Run, attempt: int) -> tuple[NodeResources, ...]:
    """Return the resources over time of an attempt, by node. Damaged files are left out; older runs have none."""
    folder, found = run.path / f"attempt_{attempt}", []
    for path in folder.glob("resources_*.json") if folder.is_dir() else ():
        if re.fullmatch(r"resources_\d{1,6}\.json", path.name):
            try:
                found.append(_node(run.read(f"{folder.name}/{path.name}"), number(run.job.get("time"))))
            except (Malformed, Unreadable):
                continue
    return tuple(sorted(found, key=lambda node: node.node))


def _node(data: Any, started: float) -> NodeResources:
    fields = checked(data, {**_FILE, "start": number}, tuple(_FILE))
    by_clock, machine = fields.pop("began") - started, fields.pop("machine")
    began = fields.pop("start", by_clock)  # without a controller nobody knew the difference of the clocks
    times = tuple(round(began + time, 2) for time in fields.pop("times"))
    node = NodeResources(times=times, **fields, **machine)
    rows = [values for of in (*node.ranks, *node.gpus) for values in of if isinstance(values, tuple) and values]
    if any(len(values) != len(times) for values in (*rows, node.memory, node.cpu)):
        raise Malformed("not one value for each sample")
    return node


def _numbered(
    data: Any, checks: Mapping[str, Check], more: Mapping[str, Check] = {}
) -> list[tuple[int, dict[str, Any]]]:
    """Return the records of a table by number, in its order."""
    found = []
    for name, of in table(data).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise Malformed(f"not a number: {name!r}")
        found.append((int(name), checked(of, {**checks, **more}, tuple(checks))))
    return sorted(found, key=lambda pair: pair[0])
