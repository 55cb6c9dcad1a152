"""Why a rank died: conclusions from facts of the kernel, and their wording. Lines of the kernel log are real."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muster.core.events import NAMES, RankExited, event_from_json
from muster.core.json_checks import Malformed
from muster.core.json_records import facts_from_json, usage_from_json
from muster.core.model import as_json
from muster.core.results import (
    DiskSpace,
    ExitFacts,
    Failure,
    FailureKind,
    MemoryCgroup,
    RankExit,
    RankUsage,
    ResourceLimit,
)
from muster.diagnostics.deaths import DeathCause, death_of
from muster.ui.death_text import facts_in_words
from muster.ui.reason_text import ended_in_words

GIB = 1 << 30

# Linux 6.18, in the order in which the kernel wrote them
OOM_LINES = (
    (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/slurm/uid_0/job_12,"
        "task_memcg=/slurm/uid_0/job_12/step_0/task_0,task=python3,pid=22420,uid=0"
    ),
    (
        "Memory cgroup out of memory: Killed process 22420 (python3) total-vm:119312kB, anon-rss:62914560kB, "
        "file-rss:3672kB, shmem-rss:0kB, UID:0 pgtables:152kB oom_score_adj:0"
    ),
)
GLOBAL_LINES = (
    (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        "task_memcg=/user.slice,task=python3,pid=22420,uid=1000"
    ),
    (
        "Out of memory: Killed process 22420 (python3) total-vm:3000000kB, anon-rss:2097152kB, file-rss:0kB, "
        "shmem-rss:0kB, UID:1000 pgtables:152kB oom_score_adj:0"
    ),
)
SEGFAULT = "python3[22420]: segfault at 0 ip 00007f8449574a1b sp 00007ffe1a1eb528 error 4 in libsick.so[1a1b,7f844]"
XID = "NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."

JOB = MemoryCgroup("/slurm/uid_0/job_12", 64 * GIB, GIB, 64 * GIB, kills=0, hits=7)
TASK = MemoryCgroup("/slurm/uid_0/job_12/step_0/task_0", 0, GIB, 63 * GIB, kills=1, hits=0)
ROOMY = MemoryCgroup("/box", 64 * GIB, GIB, 20 * GIB, kills=0, hits=0)
KNOWN = ExitFacts(22420, (TASK, JOB), 1, (251 * GIB, 100 * GIB), True, OOM_LINES)
QUIET = ExitFacts(22420, (ROOMY,), 0, (251 * GIB, 100 * GIB), kernel_log=True)
RAISED = Failure(FailureKind.EXCEPTION, 4.9, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ")


def exit_of(signal: int | None = 9, facts: ExitFacts | None = KNOWN, code: int | None = None, **more: Any) -> RankExit:
    return RankExit(1, 0, 5.0, code, signal, facts=facts, **more)


SPENT = RankUsage(peak_memory=3 * GIB, user=59.5, system=0.6)
CPU = (ResourceLimit("cpu", 50, 60), ResourceLimit("nofile", 1024, 4096))
FILE = (ResourceLimit("fsize", 1 << 20, None),)
SHM = DiskSpace("/dev/shm", 64 << 20, 0)

CASES: dict[str, tuple[RankExit, DeathCause, str]] = {
    "by the log, whose cgroup is the job's": (
        exit_of(),
        DeathCause.OOM,
        (
            "killed by the kernel's OOM killer (SIGKILL): the job's cgroup reached 64.0 of 64.0 GiB of memory, "
            "the process had 60 GiB"
        ),
    ),
    "by the counters of version 1, without a log": (
        exit_of(facts=KNOWN._replace(kernel_log=False, kernel=()), usage=SPENT),
        DeathCause.OOM,
        (
            "killed by the kernel's OOM killer (SIGKILL): the job's cgroup reached 64.0 of 64.0 GiB of memory, "
            "the process had 3.0 GiB"
        ),
    ),
    "by the counters of version 2, whose peak is unknown": (
        exit_of(
            facts=ExitFacts(
                22420, (MemoryCgroup("/pod/app", 8 * GIB, GIB, 0, 1, 1), MemoryCgroup("/pod", 0, GIB, 0, 1, 0)), 1
            )
        ),
        DeathCause.OOM,
        "killed by the kernel's OOM killer (SIGKILL): its cgroup reached 8.0 of 8.0 GiB of memory",
    ),
    "memory that counts for another cgroup, too": (
        exit_of(facts=KNOWN._replace(cgroups=(TASK._replace(limit=GIB, peak=GIB, hits=1),), kernel=OOM_LINES[1:])),
        DeathCause.OOM,
        "killed by the kernel's OOM killer (SIGKILL): its cgroup reached 1.0 of 1.0 GiB of memory",
    ),
    "by the log, and the cgroup is not visible": (
        exit_of(facts=KNOWN._replace(cgroups=())),
        DeathCause.OOM,
        "killed by the kernel's OOM killer (SIGKILL), the process had 60 GiB",
    ),
    "the whole machine": (
        exit_of(facts=QUIET._replace(kernel=GLOBAL_LINES, machine_kills=1)),
        DeathCause.OOM,
        "killed by the kernel's OOM killer (SIGKILL): the machine had no memory left, the process had 2.0 GiB",
    ),
    "a program in a wrapper": (
        exit_of(None, KNOWN._replace(pid=22419), code=137),
        DeathCause.OOM,
        (
            "exit status 137, its program was killed by the kernel's OOM killer (SIGKILL): the job's cgroup reached "
            "64.0 of 64.0 GiB of memory, the process had 60 GiB"
        ),
    ),
    "sent, by the log": (
        exit_of(facts=QUIET),
        DeathCause.SENT,
        "killed by SIGKILL: a process sent it, as `kill -9` does; the kernel's OOM killer did not",
    ),
    "sent, by the counter of the machine alone": (
        exit_of(facts=ExitFacts(22420, (), 0)),
        DeathCause.SENT,
        "killed by SIGKILL: a process sent it, as `kill -9` does; the kernel's OOM killer did not",
    ),
    "sent, while another process of the cgroup was killed": (
        exit_of(facts=KNOWN._replace(pid=22421)),
        DeathCause.SENT,
        "killed by SIGKILL: a process sent it, as `kill -9` does; the kernel's OOM killer did not",
    ),
    "unknown: nothing can be read": (
        exit_of(facts=ExitFacts(22420)),
        DeathCause.UNKNOWN,
        "killed by SIGKILL (whether by the OOM killer is unknown: see `dmesg`)",
    ),
    "unknown: somebody was killed on this machine": (
        exit_of(facts=ExitFacts(22420, (ROOMY,), 1)),
        DeathCause.UNKNOWN,
        "killed by SIGKILL (the OOM killer killed 1 process of this machine then: see `dmesg`)",
    ),
    "no facts, as in an older run": (
        exit_of(facts=None),
        DeathCause.UNKNOWN,
        "killed by SIGKILL (whether by the OOM killer is unknown: see `dmesg`)",
    ),
    "CPU time, hard limit": (
        exit_of(facts=QUIET._replace(limits=CPU), usage=SPENT),
        DeathCause.CPU_LIMIT,
        "killed by SIGKILL: it reached its CPU time limit of 1m (`ulimit -t`)",
    ),
    "CPU time, soft limit": (
        exit_of(24, QUIET._replace(limits=CPU), usage=SPENT),
        DeathCause.CPU_LIMIT,
        "killed by SIGXCPU: it reached its CPU time limit of 49s (`ulimit -t`)",
    ),
    "file size": (
        exit_of(25, QUIET._replace(limits=FILE)),
        DeathCause.FILE_LIMIT,
        "killed by SIGXFSZ: a file reached the size limit of 1.0 MiB (`ulimit -f`)",
    ),
    "a full tmpfs": (
        exit_of(7, QUIET._replace(full=(SHM,), shm=SHM)),
        DeathCause.FULL,
        "killed by SIGBUS: no space left for a mapped file in /dev/shm (64 MiB)",
    ),
    "a truncated file": (
        exit_of(7, QUIET._replace(shm=SHM._replace(free=64 << 20))),
        DeathCause.UNBACKED,
        "killed by SIGBUS: a mapped file was truncated, or could not be read (no local file system is full)",
    ),
    "broken memory": (
        exit_of(7, QUIET._replace(kernel=("mce: Uncorrected hardware memory error in user-access at 3f",))),
        DeathCause.HARDWARE,
        "killed by SIGBUS: the kernel has logged a memory error of the hardware",
    ),
    "a crash in a library": (
        exit_of(11, QUIET._replace(kernel=(SEGFAULT,))),
        DeathCause.UNKNOWN,
        "killed by SIGSEGV in libsick.so",
    ),
    "a crash after an error of the GPU": (
        exit_of(6, QUIET._replace(kernel=(XID,))),
        DeathCause.UNKNOWN,
        "killed by SIGABRT (abort, often from C++); the kernel log has GPU error Xid 79",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_conclusion_and_words(name: str) -> None:
    end, cause, words = CASES[name]
    assert (cause, words) == (death_of(end).cause, ended_in_words(end))


def test_a_child_that_the_oom_killer_has_killed() -> None:
    """The rank itself raised: what became of its worker is said on a line of its own."""
    end = exit_of(None, KNOWN._replace(pid=22400), code=1, failure=RAISED)
    assert DeathCause.OOM_NEARBY is death_of(end).cause
    cgroup = "the job's cgroup reached 64.0 of 64.0 GiB of memory"
    assert [f"the kernel's OOM killer had killed python3 (pid 22420, 60 GiB): {cgroup}"] == facts_in_words(end)
    unlogged = end._replace(facts=KNOWN._replace(kernel_log=False, kernel=()))
    assert [f"the kernel's OOM killer had killed a process of its cgroup: {cgroup}"] == facts_in_words(unlogged)
    assert "RuntimeError, exit status 1" == ended_in_words(end)
    (words,) = facts_in_words(end._replace(facts=QUIET))
    assert "not killed by the kernel's OOM killer: a process sent SIGKILL, as `kill -9` does" == words
    assert [] == facts_in_words(end._replace(facts=QUIET._replace(machine_kills=None)))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("OSError: [Errno 27] File too large", "limit of rank 1: 1.0 MiB (`ulimit -f`)"),
        ("MemoryError", "limit of rank 1: 4.0 GiB (`ulimit -v`)"),
        ("OSError: [Errno 24] Too many open files: 'x'", "limit of rank 1: 1024 (`ulimit -n`)"),
        ("ValueError: no", None),
    ],
)
def test_a_limit_is_named_with_the_error_that_it_causes(said: str, line: str | None) -> None:
    limits = (*FILE, ResourceLimit("as", 4 * GIB, None), ResourceLimit("nofile", 1024, 4096))
    end = exit_of(None, QUIET._replace(limits=limits), code=1, failure=RAISED._replace(summary=said))
    assert ([line] if line else []) == facts_in_words(end)


def test_a_hostile_name_cannot_forge_a_line() -> None:
    """The name of a process and the path of a cgroup are texts of others."""
    line = "Memory cgroup out of memory: Killed process 7 (py\n\x1b[2J) anon-rss:8kB"
    end = exit_of(None, KNOWN._replace(kernel=(line,)), code=1, failure=RAISED)
    (words,) = facts_in_words(end)
    assert "\n" not in words and "\x1b" not in words


def test_facts_and_usage_travel_as_json() -> None:
    event = RankExited(5.0, 1, 0, signal=9, usage=SPENT, facts=KNOWN._replace(limits=CPU, full=(SHM,), shm=SHM))
    fields = {name: as_json(value) for name, value in vars(event).items()}
    assert event == event_from_json(json.loads(json.dumps({"event": NAMES[RankExited], **fields})))
    del fields["usage"], fields["facts"]  # as an older version wrote it
    older = event_from_json({"event": NAMES[RankExited], **fields})
    assert isinstance(older, RankExited) and older.usage is None and older.facts is None


@pytest.mark.parametrize(
    "data", [{"cgroups": [{"limit": 1}]}, {"kernel": [1]}, {"limits": [{"name": "cpu"}]}, {"machine_kills": -1}, []]
)
def test_damaged_facts_are_refused(data: Any) -> None:
    with pytest.raises(Malformed):
        facts_from_json(data)
    with pytest.raises(Malformed):
        usage_from_json({"user": "much"})
