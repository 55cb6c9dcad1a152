"""Slurm: the states of jobs (squeue, sacct, scontrol): what is asked, and what the answer means. Tried with 22.05."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.schedulers.scheduler import JobEnd, JobRecord, Phase
from muster.schedulers.slurm_values import SEPARATOR, time_of, unfold_nodes

KILL_WAIT = 30.0
"""What Slurm leaves between SIGTERM and SIGKILL when nobody has configured it."""


def configuration() -> tuple[str, ...]:
    """Ask how Slurm is configured; `kill_wait` and `name_of_cluster` read the answer."""
    return ("scontrol", "show", "config")


def kill_wait(out: str) -> float:
    """`KillWait = 30 sec`."""
    found = re.search(r"^KillWait\s*=\s*(\d+)", out, re.MULTILINE)
    return float(found[1]) if found else KILL_WAIT


def name_of_cluster(out: str) -> str:
    """`ClusterName = far`, of the same answer; empty where it is not said."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", out, re.MULTILINE)
    return found[1] if found else ""


LONGEST_WARNING = 65535
"""The most seconds before the end of its time at which Slurm signals a job."""


def record(job: str) -> tuple[str, ...]:
    """Ask for the record of a job; `record_of` reads the answer."""
    return ("scontrol", "show", "job", job)


def record_of(out: str) -> JobRecord:
    """`JobState=RUNNING Reason=None …`; empty where a field is missing."""
    found = dict(re.findall(r"\b(JobState|Reason|StartTime|EndTime|PreemptTime)=(\S+)", out))
    state, reason, start, end = (found.get(name, "") for name in ("JobState", "Reason", "StartTime", "EndTime"))
    at = found.get("PreemptTime", "")
    # it may have had to make room before it was started again
    return JobRecord(state, reason, time_of(start), time_of(end), preempted=at[:1].isdigit() and at >= start)


_DUE = {
    "TIME LIMIT": "time limit",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued",
    "NODE FAILURE": "node failure",
}

_CANCELLED = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+?(?: DUE TO ([A-Za-z ]+))?(?:,[^*]*)? \*\*\*")


def why_ended(said: str, found: JobRecord | None) -> str:
    """Why a job is being ended, one of `events.JOB_ENDS`; empty where that cannot be told yet.

    `said` is what slurmstepd wrote about the job and its steps: `*** JOB 7 ON n1 CANCELLED AT … DUE TO TIME LIMIT ***`.
    A step alone hears of a GraceTime, or is cancelled by its own number.
    """
    notes = _CANCELLED.findall(said)
    for _, due in notes:
        if due.strip().upper() in _DUE:
            return _DUE[due.strip().upper()]
    if found is not None and found.reason == "TimeLimit":
        return "time limit"
    if found is not None and found.preempted:
        return "preempted"
    if found is not None and found.reason == "NodeDown":
        return "node failure"
    if any(kind == "JOB" for kind, _ in notes) or (notes and found is not None):
        return "cancelled"
    return ""


_FIELDS = ("%A", "%T", "%r", "%N", "%S", "%L", "%j")
"""`%A` and not `%i`: a task of an array has a number of its own in SLURM_JOB_ID, which `%i` writes as `12_3`."""


class SqueueRow(NamedTuple):
    """A job, as squeue shows it."""

    job: str
    state: str
    reason: str
    hosts: tuple[str, ...]
    start: str
    """When it is expected to start or has started; `N/A` when Slurm does not know yet."""
    left: str
    name: str


def queue(job: str = "", cluster: str = "", everybody: bool = False) -> tuple[str, ...]:
    """Ask for the states of one's jobs, or of one job, those that ended lately too; `queued` reads the answer.

    `cluster` is another one than the default. `everybody`: a job of another user is good too, as it is for root.
    """
    which = [f"--jobs={job}"] if job else []
    which += [f"--clusters={cluster}"] if cluster else []
    which += [] if everybody else ["--me"]
    return ("squeue", "--noheader", *which, "--states=all", "--format=" + SEPARATOR.join(_FIELDS))


def no_such_job(err: str) -> bool:
    """Whether squeue failed because no job has that number, which it does once the job is older than MinJobAge."""
    return "Invalid job id specified" in err


def queued(out: str) -> dict[str, SqueueRow]:
    """What squeue said, by the number of the job."""
    found = {}
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR, len(_FIELDS) - 1)
        if len(cells) == len(_FIELDS):
            try:
                hosts = tuple(unfold_nodes(cells[3])) if cells[3] and not cells[3].startswith("(") else ()  # `(null)`
            except InvalidRequest:  # not as Slurm writes it today; one job must not hide all others
                hosts = (cells[3],)
            found[cells[0]] = SqueueRow(cells[0], cells[1], cells[2], hosts, cells[4], cells[5], cells[6])
    return found


STATES: Mapping[str, Phase] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        Phase.PENDING,
    ),
    **dict.fromkeys(("RUNNING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"), Phase.RUNNING),
    "COMPLETING": Phase.COMPLETING,
}
"""What a job does that has not ended."""

_REASONS = {
    "None": "not yet considered by the scheduler",
    "Resources": "it waits for nodes to become free",
    "Priority": "others come first",
    "BeginTime": "Slurm lets some time pass before it starts again",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job that it waits for failed, so it never starts",
    "JobHeldUser": "it is held; `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionNodeLimit": "the partition has not so many nodes, so it never starts",
    "PartitionTimeLimit": "the partition allows less time, so it never starts",
    "PartitionConfig": "the partition has no such nodes, so it never starts",
    "ReqNodeNotAvail": "a node that it asked for is down or reserved",
    "QOSMaxGRESPerUser": "you use as many GPUs as you may",
    "AssocGrpGRES": "your group uses as many GPUs as it may",
    "QOSMaxJobsPerUserLimit": "you run as many jobs as you may",
    "AssocMaxJobsLimit": "you run as many jobs as you may",
    "Licenses": "it waits for a licence",
}


NEVER = frozenset({"DependencyNeverSatisfied", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig"})
"""The reasons for which a job waits for ever."""


def why_pending(seen: SqueueRow) -> str:
    """Why a job has not started, in words, with what Slurm expects."""
    reason = seen.reason.strip("()")
    if reason == "None":
        return _REASONS["None"]
    words = _REASONS.get(reason.partition(",")[0], "")
    when = f"; expected at {seen.start}" if seen.start not in ("N/A", "Unknown", "") else ""
    return (f"{words} ({reason})" if words else reason) + when


def past(job: str) -> tuple[str, ...]:
    """Ask accounting how a job ended that squeue knows no more; `past_state` reads the answer."""
    return ("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State")


def past_state(out: str) -> str:
    """`CANCELLED by 0` is CANCELLED; empty where accounting says nothing."""
    lines = out.strip().splitlines()
    return lines[-1].split()[0] if lines and lines[-1].split() else ""


def cancelled_by(out: str) -> str:
    """The number of the user who cancelled a job, of `CANCELLED by 1000`; empty where accounting does not say."""
    found = re.search(r"^CANCELLED by (\d+)", out, re.MULTILINE)
    return found[1] if found else ""


ENDS: Mapping[str, JobEnd] = {
    "TIMEOUT": JobEnd(RunState.TIMED_OUT, 124, "its time was over"),
    "CANCELLED": JobEnd(RunState.KILLED, 137, "it was cancelled", cancelled=True),
    "NODE_FAIL": JobEnd(RunState.BROKEN, 125, "a node failed"),
    "OUT_OF_MEMORY": JobEnd(RunState.BROKEN, 125, "it needed more memory than it had asked for"),
    "PREEMPTED": JobEnd(RunState.KILLED, 137, "it had to make room for another job"),
    "BOOT_FAIL": JobEnd(RunState.BROKEN, 125, "a node did not start"),
    "DEADLINE": JobEnd(RunState.TIMED_OUT, 124, "its deadline was over"),
    "FAILED": JobEnd(RunState.BROKEN, 125, "its batch script failed", failed=True),
    "COMPLETED": JobEnd(RunState.BROKEN, 125, "its batch script ended well"),
}
"""States from which a job does not come back. REVOKED is none: in a federation the job then runs on another cluster."""
