"""Facts about the death of a rank: what the kernel counted, logged and allowed, before and after it.

The agent only collects them; `diagnostics/deaths.py` concludes from them. Nothing here waits for a rank or for a file
system that may hang: it reads /proc, the files of memory cgroups, the kernel log and the free space of tmpfs.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from muster.linux import cgroups, procfs
from muster.linux.exits import Ended
from muster.linux.kernel_log import KernelLog

_BEFORE = 30.0
"""Age in seconds of the counters that are compared with those after a death: a large process takes long to die."""

_LOCAL = frozenset(("tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "overlay"))
"""File systems that answer statvfs(2) without a server."""

_LINES = 6
"""Maximum number of lines of the kernel log about a death."""

_FULL = 0.001
"""Share of free space below which a file system counts as full."""


class Counters:
    """The counters of a cgroup, or of the machine, over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        """(time, kills, hits), the oldest first."""
        self._explained = 0
        """The value up to which kills are accounted for by deaths."""

    def note(self, now: float, kills: int, hits: int) -> None:
        """Record the counters."""
        self._seen.append((now, kills, hits))
        while len(self._seen) > 1 and self._seen[1][0] <= now - _BEFORE:
            self._seen.popleft()

    def since(self, kills: int, hits: int) -> tuple[int, int]:
        """Return by how much they have risen since then, without kills that an earlier death accounts for."""
        if not self._seen:
            return 0, 0
        _, before, hits_before = self._seen[0]
        return max(0, kills - max(before, self._explained)), max(0, hits - hits_before)

    def explain(self) -> None:
        """Record that one more kill accounts for a death."""
        before = self._seen[0][1] if self._seen else 0
        self._explained = max(before, self._explained) + 1


class DeathWatch:
    """Watches the cgroups of the ranks of this node, so that their counters before a death are known."""

    def __init__(self, log: KernelLog, when: float, before: Mapping[str, tuple[int | None, int | None]]) -> None:
        """`before`: kills and hits by directory at the monotonic time `when`, as `cgroups.kills_above` has them."""
        self._hierarchy = cgroups.find_hierarchy()
        self._log = log
        self._counters: dict[str, Counters] = {}
        """By directory of a cgroup; the empty name stands for the machine."""
        self._cgroups: dict[int, str] = {}
        """The memory cgroup of each rank, by rank; a rank may enter another one."""
        for directory, (kills, hits) in before.items():
            self._note(directory, when, kills, hits)

    def look(self, pids: Mapping[int, int]) -> None:
        """Record the counters of the cgroups of these ranks, and of the machine; `pids` by rank."""
        now = time.monotonic()
        self._note("", now, cgroups.machine_kills(), 0)
        if self._hierarchy is None:
            return
        directories = {}
        for rank, pid in pids.items():
            path = cgroups.path_in(self._hierarchy, procfs.cgroups(pid))
            seen = procfs.stat(pid) if path == "/" else None
            if path and (seen is None or seen.lives):  # version 1 names the root for a zombie
                self._cgroups[rank] = path
                directories.update(dict.fromkeys(place for _, place in cgroups.chain(self._hierarchy, path)))
        for directory in directories:
            memory = cgroups.read(self._hierarchy.version, directory)
            if memory is not None:
                self._note(directory, now, memory.kills, memory.hits)

    def _note(self, directory: str, now: float, kills: int | None, hits: int | None) -> None:
        if kills is not None:
            self._counters.setdefault(directory, Counters()).note(now, kills, hits or 0)

    def facts(self, rank: int, ended: Ended) -> dict[str, Any]:
        """Return the facts about the death of a rank: the fields of `results.ExitFacts`."""
        killed = ended.signal == 9 or ended.code == 128 + 9
        self._log.update()
        lines = self._log.about(ended.pid)
        for line in self._log.killed():  # children of the rank may be among them
            if line not in lines:
                lines.append(line)
        kills, path = cgroups.machine_kills(), ""
        for line in lines:  # of a rank that has entered another cgroup since the last look
            path = _cgroup_of(line, ended.pid) or path
        return {
            "pid": ended.pid,
            "cgroups": self._memory(path or self._cgroups.get(rank, ""), ended, killed),
            "machine_kills": None if kills is None or "" not in self._counters else self._rise("", kills, 0, killed)[0],
            "machine_memory": [size for size in procfs.machine_memory() if size],
            "kernel_log": self._log.readable,
            "kernel": lines[-_LINES:],
            "limits": [{"name": name, "soft": pair[0], "hard": pair[1]} for name, pair in ended.limits.items()],
            "full": full_file_systems() if ended.signal == 7 or ended.code not in (None, 0) else [],
            "shm": space("/dev/shm"),
        }

    def _memory(self, path: str, ended: Ended, killed: bool) -> list[dict[str, Any]]:
        """Return the memory cgroups of a rank, its own (`path`) first: the fields of `results.MemoryCgroup`."""
        if self._hierarchy is None:
            return []
        if self._hierarchy.version == 2:
            path = cgroups.path_in(self._hierarchy, ended.cgroups) or path
        found = []
        for name, directory in cgroups.chain(self._hierarchy, path) if path else []:
            memory = cgroups.read(self._hierarchy.version, directory)
            if memory is None:
                continue
            known = memory.kills is not None and directory in self._counters
            kills, hits = self._rise(directory, memory.kills or 0, memory.hits or 0, killed)
            found.append(
                {
                    "path": name,
                    "limit": memory.limit,
                    "used": memory.used,
                    "peak": memory.peak,
                    "kills": kills if known else None,
                    "hits": hits if known and memory.hits is not None else None,
                }
            )
        return found

    def _rise(self, directory: str, kills: int, hits: int, killed: bool) -> tuple[int, int]:
        counters = self._counters.setdefault(directory, Counters())
        risen = counters.since(kills, hits)
        if killed and risen[0]:
            counters.explain()
        return risen


def _cgroup_of(line: str, pid: int) -> str:
    """Return the memory cgroup of a process that the OOM killer has killed, by the kernel log; empty if unknown."""
    found = re.search(rf"task_memcg=([^,]*),.*pid={pid}(?!\d)", line)
    return found[1] if found else ""


def space(path: str) -> dict[str, Any] | None:
    """Return the space of a file system: the fields of `results.DiskSpace`; None if there is none."""
    try:
        seen = os.statvfs(path)
    except OSError:
        return None
    return {"path": path, "size": seen.f_blocks * seen.f_frsize, "free": seen.f_bavail * seen.f_frsize}


def full_file_systems(mounts: str = "/proc/self/mounts") -> list[dict[str, Any]]:
    """Return the space of each local file system that is full."""
    found = []
    for path in _mounted(mounts):
        seen = space(path)
        if seen is not None and seen["size"] and seen["free"] < max(os.sysconf("SC_PAGE_SIZE"), seen["size"] * _FULL):
            found.append(seen)
    return found[:4]


def _mounted(mounts: str) -> Iterable[str]:
    try:
        with open(mounts, errors="replace") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    # a space in a path is written \040; read-only ones, such as images, are always full
    writable = [row for row in rows if len(row) > 3 and row[2] in _LOCAL and "rw" in row[3].split(",")]
    return [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), row[1]) for row in writable][:64]
