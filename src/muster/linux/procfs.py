"""Processes and the machine in /proc: the only reader of /proc/PID/stat."""

from __future__ import annotations

from typing import NamedTuple


class Stat(NamedTuple):
    """The state of a process at one moment: proc_pid_stat(5)."""

    name: str
    """Name of its program, at most 15 bytes."""
    state: str
    """One letter: `R` running, `S` sleeping, `D` waiting in the kernel, `T` and `t` stopped, `Z` and `X` exited."""
    parent: int
    started: str
    """Start time in ticks since boot; with the pid it identifies a process uniquely."""
    cpu: int
    """CPU time of all its threads, in ticks."""
    memory: int
    """Resident memory (RSS), in pages."""

    @property
    def lives(self) -> bool:
        """False for a zombie: it has exited, and its parent has not collected its status yet."""
        return self.state not in ("Z", "X")


def stat(pid: int, thread: int | None = None) -> Stat | None:
    """Return the state of a process, or of one of its threads; None if it does not exist or is not visible."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    # the name is in brackets and may contain anything, including brackets
    begin, end = text.index(b"("), text.rindex(b")")
    name, rest = text[begin + 1 : end].decode("utf-8", "replace"), text[end + 2 :].split()
    cpu = int(rest[11]) + int(rest[12])
    return Stat(name, rest[0].decode(), int(rest[1]), rest[19].decode(), cpu, int(rest[21]))


def lives(pid: int) -> bool:
    """Return whether a process with this pid exists and has not exited."""
    found = stat(pid)
    return found is not None and found.lives


def started(pid: int) -> str:
    """Return when a process started (`Stat.started`); empty if it has exited."""
    found = stat(pid)
    return found.started if found is not None and found.lives else ""


def still_lives(pid: int, since: str) -> bool:
    """Return whether the process with this pid is still the one that started at `since` (`Stat.started`)."""
    return bool(since) and started(pid) == since


def boot_id() -> str:
    """Return the unique id of this boot of the machine; empty if the kernel does not provide it."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
