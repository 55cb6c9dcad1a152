"""Processes and the machine in /proc: the only reader of /proc/PID/stat."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
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
    faults: int
    """Page faults that had to read from a disk."""

    @property
    def lives(self) -> bool:
        """False for a zombie: it has exited, and its parent has not collected its status yet."""
        return self.state not in ("Z", "X")


class Account(NamedTuple):
    """What a process and its descendants have used until now."""

    user: float
    """CPU time of its own threads in user mode, in seconds."""
    system: float
    """CPU time of its own threads in the kernel."""
    children_cpu: float
    """CPU time of its descendants that have exited and were collected."""
    minor_faults: int
    """Page faults of its own threads that needed no I/O."""
    major_faults: int
    """Page faults of its own threads that waited for a disk."""
    io_wait: float | None
    """Seconds that its threads waited for block I/O; None if the kernel does not count it (`kernel.task_delayacct`)."""
    core_wait: float | None
    """Seconds that its main thread was runnable and waited for a core; None if the kernel does not count it."""


def pids() -> list[int]:
    """Return all processes that are visible; none if there is no file left to look."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []


def all_processes() -> Iterator[tuple[int, Stat]]:
    """Yield each visible process with its state, zombies included."""
    for pid in pids():
        seen = stat(pid)
        if seen is not None:
            yield pid, seen


def stat(pid: int, thread: int | None = None) -> Stat | None:
    """Return the state of a process, or of one of its threads; None if it does not exist or is not visible."""
    found = _fields(f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat")
    if found is None:
        return None
    name, rest = found
    cpu = int(rest[11]) + int(rest[12])
    memory, faults = int(rest[21]), int(rest[9])
    return Stat(name.decode("utf-8", "replace"), rest[0].decode(), int(rest[1]), rest[19].decode(), cpu, memory, faults)


def family() -> dict[int, tuple[str, int, bool]]:
    """Return (name, parent, whether it is no zombie) of each visible process, with little work for each."""
    found = {}
    for entry in os.listdir("/proc"):
        text = _bytes_of(f"/proc/{entry}/stat") if entry.isdigit() else None
        if text is not None:
            end = text.rindex(b")")
            state, parent, _ = text[end + 2 :].split(None, 2)
            name = text[text.index(b"(") + 1 : end].decode("utf-8", "replace")
            found[int(entry)] = (name, int(parent), state not in (b"Z", b"X"))
    return found


def _bytes_of(path: str) -> bytes | None:
    """Return the contents of a small file in /proc; None if it does not exist. `open` makes twice as many calls."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _SMALL)
        finally:
            os.close(fd)
    except OSError:
        return None


_SMALL = 4096
"""Bytes that are more than a stat file has."""


def _fields(path: str) -> tuple[bytes, list[bytes]] | None:
    """Return the name in a stat file and the fields after it; None if there is no such file."""
    text = _bytes_of(path)
    if text is None:
        return None
    # the name is in brackets and may contain anything, including brackets
    begin, end = text.index(b"("), text.rindex(b")")
    return text[begin + 1 : end], text[end + 2 :].split()


def account(pid: int) -> Account | None:
    """Return what a process has used, also after its exit as long as it is a zombie; None if it does not exist."""
    found = _fields(f"/proc/{pid}/stat")
    if found is None:
        return None
    _, rest = found
    tick = os.sysconf("SC_CLK_TCK")
    user, system, *of_children = (int(field) / tick for field in rest[11:15])
    counts_io = _read("/proc/sys/kernel/task_delayacct").strip() == "1"
    waited = _read(f"/proc/{pid}/schedstat").split()
    return Account(
        user,
        system,
        sum(of_children),
        int(rest[7]),
        int(rest[9]),
        int(rest[39]) / tick if counts_io else None,
        int(waited[1]) / 1e9 if len(waited) > 1 else None,
    )


_LIMITS: Mapping[str, str] = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max address space": "as",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max open files": "nofile",
    "Max processes": "nproc",
    "Max locked memory": "memlock",
}
"""Names in /proc/PID/limits, and the names that setrlimit(2) has for them; in its units, bytes or seconds."""


def limits(pid: int) -> dict[str, list[int | None]]:
    """Return the resource limits of a process by name, [soft, hard], without unlimited ones; None stands for no limit.

    They can be read after its exit, as long as it is a zombie.
    """
    found: dict[str, list[int | None]] = {}
    for line in _read(f"/proc/{pid}/limits").splitlines():
        for words, name in _LIMITS.items():
            if line.startswith(words):
                values = line[len(words) :].split()[:2]
                pair = [int(value) if value.isdigit() else None for value in values]
                if len(pair) == 2 and pair != [None, None]:
                    found[name] = pair
    return found


def peak_memory(pid: int) -> int:
    """Return the highest resident memory (RSS) of a living process so far, in bytes; 0 if it is unknown.

    The kernel reads it from counters, and waits for no lock of the process.
    """
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def cgroups(pid: int) -> str:
    """Return the cgroups of a process, in the form of cgroups(7); empty if it does not exist."""
    return _read(f"/proc/{pid}/cgroup")


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def lives(pid: int) -> bool:
    """Return whether a process with this pid exists and has not exited."""
    found = stat(pid)
    return found is not None and found.lives


_PF_EXITING = 0x4  # include/linux/sched.h


def is_exiting(pid: int) -> bool:
    """Return whether a process is exiting, or has exited: its command line is gone before it is a zombie."""
    found = _fields(f"/proc/{pid}/stat")
    return found is None or bool(int(found[1][6]) & _PF_EXITING)


def started(pid: int) -> str:
    """Return when a process started (`Stat.started`); empty if it has exited."""
    found = stat(pid)
    return found.started if found is not None and found.lives else ""


def still_lives(pid: int, since: str) -> bool:
    """Return whether the process with this pid is still the one that started at `since` (`Stat.started`)."""
    return bool(since) and started(pid) == since


def machine_memory() -> tuple[int, int]:
    """Return the memory of the machine in bytes: all, and what is available; zeros if unknown."""
    found = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(value.split()[0]) * 1024
    return (found["MemTotal"], found["MemAvailable"]) if len(found) == 2 else (0, 0)


def machine_cpu() -> tuple[float, float]:
    """Return the CPU time of the machine since its boot, in ticks of all cores together: in use, and altogether."""
    fields = [int(field) for field in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    if len(fields) < 8:
        return 0.0, 0.0
    idle = fields[3] + fields[4]  # and waiting for I/O
    return float(sum(fields) - idle), float(sum(fields))


def stolen_cpu() -> tuple[int, int]:
    """Return the ticks that a hypervisor took from the CPUs of this machine, and all their ticks; (0, 0) if unknown."""
    words = _read("/proc/stat").partition("\n")[0].split()[1:9]  # guest time is part of the user time there
    ticks = [int(word) for word in words if word.isdigit()]
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def boot_id() -> str:
    """Return the unique id of this boot of the machine; empty if the kernel does not provide it."""
    return _read("/proc/sys/kernel/random/boot_id").strip()
