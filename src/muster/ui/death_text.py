"""The wording of deaths by a signal, with what the kernel's facts prove. No code parses these sentences."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import SIGKILL, MemoryCgroup, RankExit
from muster.diagnostics.deaths import Death, DeathCause, crashed_in, death_of, gpu_errors, signal_of
from muster.ui.formatting import seconds, share_in_words, size_in_words

SIGNALS: Mapping[int, tuple[str, str]] = {
    1: ("SIGHUP", "terminal closed"),
    2: ("SIGINT", "interrupted"),
    3: ("SIGQUIT", "quit"),
    4: ("SIGILL", "illegal instruction, often code for another CPU"),
    6: ("SIGABRT", "abort, often from C++"),
    7: ("SIGBUS", "bus error: no page behind a mapped file"),
    8: ("SIGFPE", "arithmetic error in native code"),
    9: ("SIGKILL", "whether by the OOM killer is unknown: see `dmesg`"),
    10: ("SIGUSR1", "unhandled signal"),
    11: ("SIGSEGV", "segmentation fault in native code"),
    12: ("SIGUSR2", "unhandled signal"),
    13: ("SIGPIPE", "broken pipe"),
    14: ("SIGALRM", "alarm timer expired"),
    15: ("SIGTERM", "termination request"),
    24: ("SIGXCPU", "CPU time limit"),
    25: ("SIGXFSZ", "file size limit"),
}
"""Signals by number: the name, and the most frequent cause."""


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGKILL` for 9."""
    return SIGNALS.get(number, (f"signal {number}", ""))[0]


def killed_in_words(end: RankExit) -> str:
    """Return which signal killed a rank, and what is proved about it, as the end of a sentence."""
    number, death = signal_of(end) or 0, death_of(end)
    name, why = SIGNALS.get(number, (f"signal {number}", ""))
    library = crashed_in(end.facts) if death.cause is DeathCause.UNKNOWN else ""
    if death.cause is DeathCause.OOM:
        words = f"killed by the kernel's OOM killer ({name}){_reached(death)}{_own_memory(end, death)}"
    elif death.cause is DeathCause.SENT:
        words = f"killed by {name}: a process sent it, as `kill -9` does; the kernel's OOM killer did not"
    elif death.cause is DeathCause.CPU_LIMIT and death.limit is not None:
        most = death.limit.hard if number == SIGKILL else death.limit.soft
        words = f"killed by {name}: it reached its CPU time limit of {seconds(most or 0)} (`ulimit -t`)"
    elif death.cause is DeathCause.FILE_LIMIT and death.limit is not None:
        size = size_in_words(death.limit.soft or 0)
        words = f"killed by {name}: a file reached the size limit of {size} (`ulimit -f`)"
    elif death.cause is DeathCause.FULL and end.facts is not None:
        full = " and ".join(f"{safe(disk.path)} ({size_in_words(disk.size)})" for disk in end.facts.full)
        words = f"killed by {name}: no space left for a mapped file in {full}"
    elif death.cause is DeathCause.HARDWARE:
        words = f"killed by {name}: the kernel has logged a memory error of the hardware"
    elif death.cause is DeathCause.UNBACKED:
        words = f"killed by {name}: a mapped file was truncated, or could not be read (no local file system is full)"
    elif library:
        words = f"killed by {name} in {safe(library)}"
    elif number == SIGKILL and end.facts is not None and end.facts.machine_kills:
        killed = plural(end.facts.machine_kills, "process", "processes")
        words = f"killed by {name} (the OOM killer killed {killed} of this machine then: see `dmesg`)"
    else:
        words = f"killed by {name}" + (f" ({why})" if why else "")
    errors = gpu_errors(end.facts)
    return words + (f"; the kernel log has GPU error Xid {', '.join(errors)}" if errors else "")


def _reached(death: Death) -> str:
    """Return which memory was exhausted, after a colon; empty if that is unknown."""
    if death.machine:
        return ": the machine had no memory left"
    return f": {_cgroup_in_words(death.cgroup)}" if death.cgroup is not None else ""


def _cgroup_in_words(cgroup: MemoryCgroup) -> str:
    level = cgroup.path.rpartition("/")[2]
    whose = "the job's" if level.startswith("job_") else "the job step's" if level.startswith("step_") else "its"
    used = min(cgroup.peak or cgroup.limit, cgroup.limit)
    return f"{whose} cgroup reached {share_in_words(used, cgroup.limit)} of memory"


def _own_memory(end: RankExit, death: Death) -> str:
    """Return how much of it the killed process had: a small share points at other processes."""
    own = death.killed.memory if death.killed is not None else 0
    own = own or (end.usage.peak_memory if end.usage is not None else 0)
    # pages that it shares with others may count for another cgroup
    comparable = own and (death.cgroup is None or own <= death.cgroup.limit)
    return f", the process had {size_in_words(own)}" if comparable else ""


def facts_in_words(end: RankExit) -> list[str]:
    """Return what else the kernel's facts prove about a failure, a line each."""
    death, facts = death_of(end), end.facts
    if facts is None:
        return []
    lines = []
    if death.cause is DeathCause.OOM_NEARBY:
        killed = death.killed
        memory = f", {size_in_words(killed.memory)}" if killed is not None and killed.memory else ""
        what = f"{safe(killed.name)} (pid {killed.pid}{memory})" if killed is not None else "a process of its cgroup"
        lines.append(f"the kernel's OOM killer had killed {what}{_reached(death)}")
    said = end.failure.summary if end.failure is not None else ""
    told = (said, *(end.failure.frames if end.failure is not None else ()))
    if facts.machine_kills == 0 and any("is killed by signal: Killed" in line for line in told):
        lines.append("not killed by the kernel's OOM killer: a process sent SIGKILL, as `kill -9` does")
    for limit in facts.limits:
        option, errors = _LIMITS.get(limit.name, ("", ()))
        if option and limit.soft is not None and any(error in said for error in errors):
            size = size_in_words(limit.soft) if limit.name != "nofile" else str(limit.soft)
            lines.append(f"limit of rank {end.rank}: {size} (`ulimit {option}`)")
    if facts.full and "No space left on device" in said:
        lines.append("full: " + ", ".join(f"{safe(disk.path)} ({size_in_words(disk.size)})" for disk in facts.full))
    return lines


_LIMITS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fsize": ("-f", ("File too large",)),
    "as": ("-v", ("MemoryError", "bad_alloc", "Cannot allocate memory", "not enough memory")),
    "data": ("-d", ("MemoryError", "bad_alloc", "Cannot allocate memory", "not enough memory")),
    "nofile": ("-n", ("Too many open files",)),
}
"""Resource limits by name: the option of `ulimit`, and the errors that they cause."""
