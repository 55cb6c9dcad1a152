"""Processes and the machine, as the kernel tells of them in /proc: the one reader of /proc/PID/stat."""

from __future__ import annotations

from typing import NamedTuple


class Stat(NamedTuple):
    """One process at one moment: proc_pid_stat(5)."""

    name: str
    """The name of its program, of at most 15 bytes."""
    state: str
    """One letter: `R` runs, `S` sleeps, `D` waits in the kernel, `T` and `t` are stopped, `Z` and `X` have ended."""
    parent: int
    started: str
    """When it started, in ticks since boot: with this its number names it for ever."""
    cpu: int
    """CPU time of all its threads, in ticks."""
    memory: int
    """Pages that are resident (RSS)."""

    @property
    def lives(self) -> bool:
        """False for a zombie: it has ended, and its parent has not asked for its status."""
        return self.state not in ("Z", "X")


def stat(pid: int, thread: int | None = None) -> Stat | None:
    """What the kernel tells of a process, or of a thread of it; None when there is none, or it may not be seen."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    # the name stands in brackets and may hold anything, brackets too
    begin, end = text.index(b"("), text.rindex(b")")
    name, rest = text[begin + 1 : end].decode("utf-8", "replace"), text[end + 2 :].split()
    cpu = int(rest[11]) + int(rest[12])
    return Stat(name, rest[0].decode(), int(rest[1]), rest[19].decode(), cpu, int(rest[21]))


def lives(pid: int) -> bool:
    """There is a process of this number, and it has not ended."""
    found = stat(pid)
    return found is not None and found.lives


def started(pid: int) -> str:
    """When a process started (`Stat.started`); empty when it has ended."""
    found = stat(pid)
    return found.started if found is not None and found.lives else ""


def still_lives(pid: int, since: str) -> bool:
    """The process of this number is still the one that started then."""
    return bool(since) and started(pid) == since


def boot_id() -> str:
    """What tells this boot of this machine from all others; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
