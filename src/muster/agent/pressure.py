"""What keeps a rank from running: other processes on its cores, a CPU limit, the hypervisor, page faults.

All of it is read from /proc and cgroups, so no rank is waited for. What the kernel does not tell counts as nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from muster.linux import procfs

_MOST_THREADS = 64
"""Threads of a rank that are looked at."""

_CGROUPS = "/sys/fs/cgroup"

_LEVELS = 12
"""Cgroups looked at, from that of a rank upwards."""


class Moment(NamedTuple):
    """Counters of one rank, and of its machine."""

    when: float
    waited: dict[int, int]
    """By thread: nanoseconds that it was ready to run and had no core (/proc/PID/schedstat)."""
    faults: int
    """Page faults that had to wait for a disk."""
    throttled: int
    """Microseconds for which a CPU limit has stopped its cgroup."""
    stolen: int
    """Ticks in which the hypervisor ran something else instead of a CPU of this machine."""
    ticks: int
    """All ticks of the machine's CPUs."""


def moment(pid: int) -> Moment:
    """Read the counters of a process."""
    used = procfs.account(pid)
    faults = used.major_faults if used is not None else 0
    return Moment(time.monotonic(), _waited(pid), faults, throttled_time(pid), *procfs.stolen_cpu())


def between(before: Moment, after: Moment) -> dict[str, Any]:
    """Return what happened between two moments: shares of the time, and page faults per second."""
    seconds = max(after.when - before.when, 1e-6)
    waited = [nanoseconds - before.waited.get(thread, 0) for thread, nanoseconds in after.waited.items()]
    ticks = after.ticks - before.ticks
    return {
        "waited": _share(max(waited, default=0) / 1e9 / seconds),
        "throttled": _share((after.throttled - before.throttled) / 1e6 / seconds),
        "stolen": _share((after.stolen - before.stolen) / ticks if ticks > 0 else 0.0),
        "faults": round(max(0, after.faults - before.faults) / seconds, 1),
    }


def _share(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 3)


def _waited(pid: int) -> dict[int, int]:
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")][:_MOST_THREADS]
    except OSError:
        return {}
    found = {}
    for thread in threads:
        words = _text(f"/proc/{pid}/task/{thread}/schedstat").split()
        if len(words) == 3:
            found[thread] = int(words[1])
    return found


def throttled_time(pid: int, root: str = _CGROUPS, listing: str | None = None) -> int:
    """Return the microseconds for which a CPU limit has stopped the cgroup of a process, or one above it."""
    longest = 0
    for line in (_text(f"/proc/{pid}/cgroup") if listing is None else listing).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [name for name in path.split("/") if name and name != ".."]
        for count in range(len(names), -1, -1)[:_LEVELS]:
            text = _text(os.path.join(root, controllers, *names[:count], "cpu.stat"))
            fields = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
            microseconds = int(fields.get("throttled_usec", 0)) or int(fields.get("throttled_time", 0)) // 1000
            longest = max(longest, microseconds)
    return longest


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""
