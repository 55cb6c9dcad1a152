"""Collecting exited children, with what the kernel still knows of each before it is forgotten."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from muster.linux import procfs


class Ended(NamedTuple):
    """A child that has exited and was collected."""

    pid: int
    code: int | None
    signal: int | None
    """The signal that killed it; one of `code` and `signal` is None."""
    usage: dict[str, Any]
    """What it has used: the fields of `results.RankUsage`."""
    limits: dict[str, list[int | None]]
    """Its resource limits by name, [soft, hard], without those that are unlimited; see `_LIMITS`."""
    cgroups: str
    """Its /proc/PID/cgroup. Version 1 names the root for a process that has exited, version 2 still its own."""


def reap() -> list[Ended]:
    """Collect the children that have exited."""
    ended: list[Ended] = []
    while True:
        found = next_exit(os.WNOHANG)
        if found is None:
            return ended
        ended.append(found)


def next_exit(flags: int = 0) -> Ended | None:
    """Collect one exited child, after waiting for it unless `flags` has WNOHANG; None if there is none."""
    try:
        # without collecting it: its files in /proc exist only as long as it is a zombie
        seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | flags)
        if seen is None:
            return None
        pid = seen.si_pid
        account, limits, cgroups = procfs.account(pid), procfs.limits(pid), procfs.cgroups(pid)
        _, status, used = os.wait4(pid, 0)
    except ChildProcessError:
        return None
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    usage: dict[str, Any] = {
        "peak_memory": used.ru_maxrss * 1024,
        "user": used.ru_utime,
        "system": used.ru_stime,
        "minor_faults": used.ru_minflt,
        "major_faults": used.ru_majflt,
        "voluntary_switches": used.ru_nvcsw,
        "involuntary_switches": used.ru_nivcsw,
        # getrusage(2): in blocks of 512 bytes
        "read": used.ru_inblock * 512,
        "written": used.ru_oublock * 512,
    }
    if account is not None:
        usage.update(account._asdict())
    return Ended(pid, None if signal is not None else os.WEXITSTATUS(status), signal, usage, limits, cgroups)
