"""The cores for each rank under `--numa-binding`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.linux.hardware import gpu_buses
from muster.linux.hardware import read as _read


def numa_bindings(mode: str, ranks: int) -> tuple[tuple[int, ...], ...]:
    """Return the cores of each local rank for `--numa-binding`, with torchrun's modes.

    `node`: all cores of the NUMA node of the rank's GPU. `socket`: all cores of that socket. `exclusive`: an equal
    share of the node's physical cores. `core-complex`: a group of cores that share their last-level cache. Without
    GPUs, ranks are distributed over the NUMA nodes in order.
    """
    allowed = os.sched_getaffinity(0)
    nodes = _numa_nodes(allowed)
    buses = gpu_buses()
    where: list[int] = []
    for local in range(ranks):
        text = _read(f"/sys/bus/pci/devices/{buses[local].lower()}/numa_node").strip() if local < len(buses) else ""
        node = int(text) if re.fullmatch(r"\d+", text) else sorted(nodes)[local * len(nodes) // ranks]
        where.append(node if node in nodes else sorted(nodes)[0])
    found: list[tuple[int, ...]] = []
    for local, node in enumerate(where):
        mates = [other for other in range(ranks) if where[other] == node]
        if mode == "node":
            mine = nodes[node]
        elif mode == "socket":
            mine = [core for core in sorted(allowed) if _socket(core) in {_socket(other) for other in nodes[node]}]
        elif mode == "exclusive":
            mine = _share(_physical(nodes[node]), mates.index(local), len(mates), node)
        else:
            complexes = _complexes(nodes[node])
            mine = complexes[mates.index(local) % len(complexes)]
        found.append(tuple(sorted(mine)))
    return tuple(found)


def _numa_nodes(allowed: set[int]) -> dict[int, list[int]]:
    from muster.core.layout import unfold

    found: dict[int, list[int]] = {}
    root = Path("/sys/devices/system/node")
    for path in root.glob("node[0-9]*") if root.is_dir() else ():
        text = _read(str(path / "cpulist")).strip()
        here = [core for core in (unfold(text, "cores") if text else ()) if core in allowed]
        if here:
            found[int(path.name[4:])] = here
    return found or {0: sorted(allowed)}


def _topology(core: int, name: str) -> str:
    return _read(f"/sys/devices/system/cpu/cpu{core}/topology/{name}").strip()


def _socket(core: int) -> str:
    return _topology(core, "physical_package_id")


def _physical(cores_here: list[int]) -> list[list[int]]:
    """Group cores by the physical core that they share."""
    groups: dict[str, list[int]] = {}
    for core in cores_here:
        groups.setdefault(_topology(core, "thread_siblings_list") or str(core), []).append(core)
    return list(groups.values())


def _complexes(cores_here: list[int]) -> list[list[int]]:
    """Group cores by their last-level cache, largest group first."""
    groups: dict[str, list[int]] = {}
    for core in cores_here:
        caches = Path(f"/sys/devices/system/cpu/cpu{core}/cache")
        levels = sorted(caches.glob("index*"), key=lambda path: _read(str(path / "level")).strip())
        shared = _read(str(levels[-1] / "shared_cpu_list")).strip() if levels else ""
        groups.setdefault(shared, []).append(core)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def _share(groups: list[list[int]], index: int, count: int, node: int) -> list[int]:
    if count > len(groups):
        raise InvalidRequest(
            f"--numa-binding exclusive: NUMA node {node} has {plural(len(groups), 'core')} for {plural(count, 'rank')}",
            "use `--numa-binding node`, or fewer ranks",
        )
    each, more = divmod(len(groups), count)
    first = index * each + min(index, more)
    return [core for group in groups[first : first + each + (index < more)] for core in group]
