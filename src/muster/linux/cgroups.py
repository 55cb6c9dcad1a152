"""Memory cgroups of processes, of version 1 and 2: limits, usage, and what the OOM killer did in them.

cgroups(7); the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. What cannot be read is
reported as unknown, never as zero.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_UNLIMITED = 1 << 60
"""Version 1 writes the largest multiple of a page for no limit."""

_LEVELS = 12
"""Maximum number of cgroups looked at, from that of a process upwards."""


class Hierarchy(NamedTuple):
    """Where the memory controller is mounted."""

    version: int
    mount: str
    root: str
    """The cgroup that is mounted there, as /proc/PID/cgroup names it: a container may see a part of the tree only."""


class Memory(NamedTuple):
    """The state of one memory cgroup."""

    limit: int
    """In bytes; 0 for none."""
    used: int
    peak: int
    """Highest usage since it was created; 0 if the kernel does not record it (version 2 before Linux 5.19)."""
    kills: int | None
    """Processes that any OOM killer has killed in it; version 2 counts those of the cgroups below it, too."""
    hits: int | None
    """How often its own limit was reached: with version 2 only if memory could not be reclaimed."""


def find_hierarchy(mounts: str = "/proc/self/mountinfo") -> Hierarchy | None:
    """Return where the memory controller is mounted; None if it is not, or not visible."""
    unified = None
    for line in _text(mounts).splitlines():
        left, _, right = line.partition(" - ")
        about, kind = left.split(), right.split()
        if len(about) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup" and "memory" in kind[2].split(","):
            return Hierarchy(1, about[4], about[3])
        if kind[0] == "cgroup2":
            unified = Hierarchy(2, about[4], about[3])
    if unified is not None and "memory" not in _text(os.path.join(unified.mount, "cgroup.controllers")).split():
        return None
    return unified


def path_in(hierarchy: Hierarchy, listing: str) -> str:
    """Return the path of the memory cgroup from a /proc/PID/cgroup; empty if it lists none."""
    for line in listing.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if ("memory" in controllers.split(",")) if hierarchy.version == 1 else not controllers:
            return path.removesuffix(" (deleted)")
    return ""


def chain(hierarchy: Hierarchy, path: str) -> list[tuple[str, str]]:
    """Return (path, directory) of a cgroup and of those above it, as far as they are visible here."""
    below = path
    if hierarchy.root != "/" and (path + "/").startswith(hierarchy.root + "/"):
        below = path[len(hierarchy.root) :]
    names = [name for name in below.split("/") if name]
    if ".." in names or not os.path.isdir(os.path.join(hierarchy.mount, *names)):
        names = []  # outside of what this container sees
    places = [names[:count] for count in range(len(names), -1, -1)][:_LEVELS]
    return [("/" + "/".join(place), os.path.join(hierarchy.mount, *place)) for place in places]


def read(version: int, directory: str) -> Memory | None:
    """Return the state of a memory cgroup; None if there is none here, as for the root of version 2."""
    if version == 1:
        limit, used = _number(directory, "memory.limit_in_bytes"), _number(directory, "memory.usage_in_bytes")
        if limit is None or used is None:
            return None
        kills = _table(directory, "memory.oom_control").get("oom_kill")
        peak, hits = _number(directory, "memory.max_usage_in_bytes"), _number(directory, "memory.failcnt")
        return Memory(limit if limit < _UNLIMITED else 0, used, peak or 0, kills, hits)
    used, events = _number(directory, "memory.current"), _table(directory, "memory.events")
    if used is None:
        return None
    local = _table(directory, "memory.events.local") or events
    limit, peak = _number(directory, "memory.max"), _number(directory, "memory.peak")
    return Memory(limit or 0, used, peak or 0, events.get("oom_kill"), local.get("oom"))


def machine_kills() -> int | None:
    """Return how many processes the OOM killer has killed on this machine since it was booted; None if unknown.

    It counts those of all cgroups and containers; since Linux 4.13.
    """
    return _pairs(_text("/proc/vmstat")).get("oom_kill")


def kills_above(pid: int) -> dict[str, tuple[int | None, int | None]]:
    """Return the kills and hits of the memory cgroups of a process, and of those above, by directory; under the empty
    name the kills on this machine."""
    found: dict[str, tuple[int | None, int | None]] = {"": (machine_kills(), 0)}
    hierarchy = find_hierarchy()
    path = path_in(hierarchy, _text(f"/proc/{pid}/cgroup")) if hierarchy is not None else ""
    if hierarchy is not None and path:
        for _, directory in chain(hierarchy, path):
            memory = read(hierarchy.version, directory)
            if memory is not None:
                found[directory] = (memory.kills, memory.hits)
    return found


def _table(directory: str, name: str) -> dict[str, int]:
    return _pairs(_text(os.path.join(directory, name)))


def _pairs(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _number(directory: str, name: str) -> int | None:
    """Return the number in a file; None if there is no such file, or it says `max`."""
    text = _text(os.path.join(directory, name)).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
