"""What ranks use now: memory and CPU, of their own process and of what they have started.

Read from /proc/PID/stat alone. smaps_rollup would tell what each process really adds (PSS), but it waits for a lock of
the process, which one that hangs on a dead file server may hold, and an agent must never wait for a rank.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster.linux import procfs

WINDOW = 0.5
"""Seconds over which CPU time is measured."""


class _Process(NamedTuple):
    """What is known of one process at one moment."""

    parent: int
    cpu: float
    """Seconds of CPU time, of all its threads."""
    memory: int
    """Bytes that are resident (RSS)."""


def watch(
    pids: Mapping[int, int],
    after: Callable[[float, Callable[[], object]], object],
    tell: Callable[[dict[int, dict[str, Any]]], object],
) -> None:
    """Measure these ranks, `pids` by rank, for `WINDOW` seconds, and tell what they use; `after` is that of a loop.

    A rank that has ended meanwhile is left out.
    """
    before, began = _processes(), time.monotonic()
    pids = dict(pids)

    def look() -> None:
        now, window = _processes(), time.monotonic() - began
        children: dict[int, list[int]] = {}
        for pid, process in now.items():
            children.setdefault(process.parent, []).append(pid)
        tell({rank: _of(pid, before, now, children, window) for rank, pid in pids.items() if pid in now})

    after(WINDOW, look)


def _of(
    pid: int,
    before: Mapping[int, _Process],
    now: Mapping[int, _Process],
    children: Mapping[int, list[int]],
    window: float,
) -> dict[str, Any]:
    started: list[int] = []
    waiting = [*children.get(pid, ())]
    while waiting:
        child = waiting.pop()
        started.append(child)
        waiting += children.get(child, ())
    # one that has begun since counts from its beginning
    spent = sum(now[one].cpu - (before[one].cpu if one in before else 0.0) for one in (pid, *started))
    return {
        "pid": pid,
        "memory": now[pid].memory,
        "cpu": round(100 * max(0.0, spent) / window, 1),
        "children": len(started),
        "children_memory": sum(now[child].memory for child in started),
    }


def _processes() -> dict[int, _Process]:
    """All that live on this machine, as far as they may be seen. Zombies do not."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {}
    for entry in os.listdir("/proc"):
        seen = procfs.stat(int(entry)) if entry.isdigit() else None
        if seen is not None and seen.lives:
            found[int(entry)] = _Process(seen.parent, seen.cpu / tick, seen.memory * page)
    return found
