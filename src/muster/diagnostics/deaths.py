"""Why a rank died, concluded from facts of the kernel: the OOM killer, a resource limit, a full file system, a signal
that somebody sent. Pure. What the facts do not prove stays unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.results import ExitFacts, MemoryCgroup, RankExit, ResourceLimit, TextEnum

SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGXCPU, SIGXFSZ = 6, 7, 9, 11, 24, 25

_REACHED = 0.98
"""Share of a memory limit from which on it counts as reached: the kernel counts in batches of pages."""


_SPENT, _TICKS = 0.95, 0.5
"""The kernel counts timer ticks for this limit, and time for getrusage(2): how far these may differ, as a share and in
seconds."""


class DeathCause(TextEnum):
    """What the facts prove about the death of a rank."""

    OOM = "killed by the OOM killer"
    """The kernel's OOM killer killed it."""
    OOM_NEARBY = "the OOM killer was active"
    """The OOM killer killed another process of its cgroup, perhaps one of its children."""
    CPU_LIMIT = "CPU time limit"
    FILE_LIMIT = "file size limit"
    FULL = "full file system"
    """A local file system has no free space."""
    HARDWARE = "hardware memory error"
    """The kernel has logged a memory error of the hardware."""
    UNBACKED = "no page behind a mapping"
    """SIGBUS, and no local file system is full: a mapped file was truncated, or could not be read."""
    SENT = "signal sent by a process"
    """SIGKILL that the kernel's OOM killer did not send."""
    UNKNOWN = "unknown"


class Killed(NamedTuple):
    """A process that the OOM killer has killed, by the kernel log."""

    pid: int
    name: str
    memory: int
    """Its resident memory in bytes; 0 if the log does not have it."""
    cgroup: str
    """The cgroup whose limit was reached; empty if the machine had no memory left."""


class Death(NamedTuple):
    """Why a rank died."""

    cause: DeathCause
    cgroup: MemoryCgroup | None = None
    """The memory cgroup whose limit was reached; None if it was the machine's memory, or is unknown."""
    machine: bool = False
    """True if the machine had no memory left."""
    killed: Killed | None = None
    """The process that the OOM killer killed; None if the kernel log could not be read."""
    limit: ResourceLimit | None = None
    """The resource limit that was reached."""


def signal_of(end: RankExit) -> int | None:
    """Return the signal that killed a rank, or the program in its wrapper, by the exit code of a shell."""
    if end.signal is not None:
        return end.signal
    return end.code - 128 if end.code is not None and 128 < end.code < 128 + 65 else None


def death_of(end: RankExit) -> Death:
    """Return what the facts prove about the failure of a rank."""
    facts, number = end.facts, signal_of(end)
    if facts is None or end.ok or end.by_muster or end.by_launcher:
        return Death(DeathCause.UNKNOWN)
    if number == SIGKILL:
        return _killed(end, facts)
    if number == SIGXCPU:
        limit = _limit(facts, "cpu")
        if limit is not None and limit.soft:
            # the kernel raises it by a second with each SIGXCPU, of which the first one kills (posix-cpu-timers.c)
            limit = limit._replace(soft=limit.soft - 1)
        return Death(DeathCause.CPU_LIMIT, limit=limit)
    if number == SIGXFSZ:
        return Death(DeathCause.FILE_LIMIT, limit=_limit(facts, "fsize"))
    if number == SIGBUS:
        if any(re.search("[Hh]ardware memory|Memory failure|Hardware Error", line) for line in facts.kernel):
            return Death(DeathCause.HARDWARE)
        return Death(DeathCause.FULL if facts.full else DeathCause.UNBACKED)
    own = facts.cgroups[0].kills if facts.cgroups else 0
    victims = [killed for killed in killed_by_oom(facts) if killed.pid != facts.pid]
    if own or (victims and (facts.machine_kills or 0) > 0):
        killed = victims[-1] if victims else None
        return Death(DeathCause.OOM_NEARBY, _reached(facts, killed), _of_machine(facts, killed), killed)
    return Death(DeathCause.UNKNOWN)


def _killed(end: RankExit, facts: ExitFacts) -> Death:
    victims = killed_by_oom(facts)
    of_code = end.signal is None  # a wrapper reports the end of its child
    killed = next((killed for killed in victims if killed.pid == facts.pid), None)
    if killed is None and of_code and victims and (facts.machine_kills or 0) > 0:
        killed = victims[-1]
    own = facts.cgroups[0].kills if facts.cgroups else None
    if killed is not None or (own and not (facts.kernel_log and not of_code)):
        return Death(DeathCause.OOM, _reached(facts, killed), _of_machine(facts, killed), killed)
    limit = _limit(facts, "cpu")
    used = end.usage.user + end.usage.system if end.usage is not None else 0.0
    if limit is not None and limit.hard is not None and used >= limit.hard * _SPENT - _TICKS:
        return Death(DeathCause.CPU_LIMIT, limit=limit)
    # the log has a line for each process that the OOM killer kills, and the counter counts them
    if facts.kernel_log or facts.machine_kills == 0 or (facts.machine_kills is None and own == 0):
        return Death(DeathCause.SENT)
    return Death(DeathCause.UNKNOWN)


def killed_by_oom(facts: ExitFacts) -> list[Killed]:
    """Return the processes that the OOM killer has killed, by the lines of the kernel log."""
    found, cgroups = [], {}
    for line in facts.kernel:
        about = re.search(r"oom_memcg=([^,]*),.*pid=(\d+)", line)
        if about:
            cgroups[int(about[2])] = about[1]
        killed = re.search(r"Kill(?:ed)? process (\d+) \(([^)]*)\)", line)
        if killed:
            parts = re.findall(r"(?:anon|file|shmem)-rss:(\d+)kB", line)
            found.append(Killed(int(killed[1]), killed[2], sum(map(int, parts)) * 1024, ""))
    return [killed._replace(cgroup=cgroups.get(killed.pid, "")) for killed in found]


def _reached(facts: ExitFacts, killed: Killed | None) -> MemoryCgroup | None:
    """Return the cgroup whose limit was reached: by the kernel log, by its counter, or by its peak."""
    if killed is not None and killed.cgroup:
        # a container may name cgroups from its own root
        named = [one for one in facts.cgroups if one.path != "/" and killed.cgroup.endswith(one.path)]
        if named:
            return max(named, key=lambda one: len(one.path))
    limited = [one for one in facts.cgroups if one.limit]
    full = [one for one in limited if max(one.peak, one.used) >= one.limit * _REACHED]
    hit = [one for one in limited if one.hits]
    return next((one for one in (*(one for one in full if one.hits), *hit, *full)), None)


def _of_machine(facts: ExitFacts, killed: Killed | None) -> bool:
    """Return whether the machine had no memory left, by the kernel log."""
    if killed is None or killed.cgroup:
        return False
    return any("Memory cgroup out of memory" not in line and f"process {killed.pid} (" in line for line in facts.kernel)


def _limit(facts: ExitFacts, name: str) -> ResourceLimit | None:
    return next((limit for limit in facts.limits if limit.name == name), None)


def crashed_in(facts: ExitFacts | None) -> str:
    """Return the library in which a process crashed, by the kernel log (`libc.so.6`); empty if it is unknown."""
    if facts is None:
        return ""
    found = (re.search(rf"\[{facts.pid}\].* in ([^\s\[]+)\[", line) for line in facts.kernel)
    return next((match[1] for match in found if match), "")


def gpu_errors(facts: ExitFacts | None) -> tuple[str, ...]:
    """Return the numbers of the GPU's errors (Xid) in the kernel log."""
    if facts is None:
        return ()
    found = (re.search(r"NVRM: Xid \([^)]*\): (\d+)", line) for line in facts.kernel)
    return tuple(dict.fromkeys(match[1] for match in found if match))
