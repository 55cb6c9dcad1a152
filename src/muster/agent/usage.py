"""Resource usage of ranks: memory and CPU, of their own process and its descendants.

It is read from /proc/PID/stat and /proc/PID/status alone. smaps_rollup has what each process really adds (PSS), but it
waits for a lock of the process, which one that hangs on a dead file server may hold, and an agent must never wait for a
rank.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster.agent import pressure
from muster.agent.logfiles import tail
from muster.linux import procfs

WINDOW = 0.5
"""Seconds over which CPU time is measured."""


class _Process(NamedTuple):
    """A process at one moment."""

    parent: int
    cpu: float
    """CPU time of all its threads, in seconds."""
    memory: int
    """Resident memory (RSS) in bytes."""


def watch(
    pids: Mapping[int, int],
    after: Callable[[float, Callable[[], object]], object],
    tell: Callable[[dict[int, dict[str, Any]]], object],
) -> None:
    """Measure these ranks, `pids` by rank, for `WINDOW` seconds, and call `tell` with their usage; `after` is a loop's.

    A rank that exits meanwhile is omitted.
    """
    before, began = _processes(), time.monotonic()
    pids = dict(pids)
    moments = {rank: pressure.moment(pid) for rank, pid in pids.items()}

    def look() -> None:
        now, window = _processes(), time.monotonic() - began
        children: dict[int, list[int]] = {}
        for pid, process in now.items():
            children.setdefault(process.parent, []).append(pid)
        found = {rank: _of(pid, before, now, children, window) for rank, pid in pids.items() if pid in now}
        for rank, use in found.items():
            use["pressure"] = pressure.between(moments[rank], pressure.moment(pids[rank]))
        tell(found)

    after(WINDOW, look)


_TAIL = 2048
"""Bytes of each stream that are sent as the last output of a rank."""


def last_output(files: Mapping[str, str]) -> dict[str, Any]:
    """Return the ends of a rank's log files, given by stream, as text; `newer` is the stream it wrote last."""
    times = {}
    for stream, path in files.items():
        try:
            times[stream] = os.stat(path).st_mtime_ns
        except OSError:
            continue
    found: dict[str, Any] = {stream: tail(files[stream], _TAIL).decode(errors="replace") for stream in times}
    return {"tail": found, "newer": max(times, key=lambda stream: times[stream], default="")}


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
    # a process started since then counts from its start
    spent = sum(now[one].cpu - (before[one].cpu if one in before else 0.0) for one in (pid, *started))
    return {
        "pid": pid,
        "memory": now[pid].memory,
        "peak": procfs.peak_memory(pid),
        "cpu": round(100 * max(0.0, spent) / window, 1),
        "children": len(started),
        "children_memory": sum(now[child].memory for child in started),
    }


def _processes() -> dict[int, _Process]:
    """Return all visible processes on this machine that are alive, without zombies."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return {
        pid: _Process(seen.parent, seen.cpu / tick, seen.memory * page)
        for pid, seen in procfs.all_processes()
        if seen.lives
    }
