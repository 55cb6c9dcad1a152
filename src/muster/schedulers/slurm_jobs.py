"""Slurm's job states (squeue, sacct, scontrol): the command lines, and parsers of the output. Tested with 22.05."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.schedulers.scheduler import JobEnd, JobRecord, Phase
from muster.schedulers.slurm_values import SEPARATOR, time_of, unfold_nodes

KILL_WAIT = 30.0
"""Slurm's default time between SIGTERM and SIGKILL, in seconds."""


def configuration() -> tuple[str, ...]:
    """Return the command that shows Slurm's configuration; `kill_wait` and `name_of_cluster` parse its output."""
    return ("scontrol", "show", "config")


def kill_wait(out: str) -> float:
    """Return the time between SIGTERM and SIGKILL in seconds, from `KillWait = 30 sec`."""
    found = re.search(r"^KillWait\s*=\s*([0-9]{1,9})", out, re.MULTILINE)
    return float(found[1]) if found else KILL_WAIT


def name_of_cluster(out: str) -> str:
    """Return the cluster name from `ClusterName = far`, in the output of `configuration`; empty if it is missing."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", out, re.MULTILINE)
    return found[1] if found else ""


LONGEST_WARNING = 65535
"""Slurm's maximum number of seconds before the time limit for a warning signal."""


def record(job: str) -> tuple[str, ...]:
    """Return the command that shows the record of a job; `record_of` parses its output."""
    return ("scontrol", "show", "job", job)


_RECORDED = "JobState|Reason|StartTime|EndTime|PreemptTime|SubmitTime|Partition|Priority|NodeList"


def record_of(out: str) -> JobRecord:
    """Return the record in `JobState=RUNNING Reason=None …`; missing fields are empty."""
    found = dict(re.findall(rf"(?:^|(?<=\s))({_RECORDED})=(\S+)", out))
    state, reason, start, end = (found.get(name, "") for name in ("JobState", "Reason", "StartTime", "EndTime"))
    at = found.get("PreemptTime", "")
    # it may have been preempted before it was last started
    try:
        hosts = tuple(unfold_nodes(nodes)) if (nodes := found.get("NodeList", "(null)"))[:1] != "(" else ()
    except InvalidRequest:  # not today's format
        hosts = ()
    return JobRecord(
        state,
        reason,
        time_of(start),
        time_of(end),
        preempted=at[:1].isdigit() and at >= start,
        submitted=time_of(found.get("SubmitTime", "")),
        partition=found.get("Partition", ""),
        priority=found.get("Priority", ""),
        hosts=hosts,
    )


_DUE = {
    "TIME LIMIT": "time limit",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued",
    "NODE FAILURE": "node failure",
}

_CANCELLED = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+?(?: DUE TO ([A-Za-z ]+))?(?:,[^*]*)? \*\*\*")


def why_ended(said: str, found: JobRecord | None) -> str:
    """Return why a job is being ended, one of `events.JOB_ENDS`; empty if that is not known yet.

    `said` is what slurmstepd wrote about the job and its steps: `*** JOB 7 ON n1 CANCELLED AT … DUE TO TIME LIMIT ***`.
    During a GraceTime, or if a step was cancelled by its own ID, it writes about the step alone.
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


_FIELDS = ("%A", "%T", "%r", "%N", "%S", "%L", "%i", "%j")
"""Output fields of squeue. SLURM_JOB_ID of an array task is a job ID of its own, `%A`, while `%i` is `12_3`. All tasks
of an array that are pending have its ID as `%A`."""


class SqueueRow(NamedTuple):
    """A job in the output of squeue."""

    job: str
    state: str
    reason: str
    hosts: tuple[str, ...]
    start: str
    """Expected or actual start time; `N/A` if Slurm does not know it yet."""
    left: str
    name: str


def queue(job: str = "", cluster: str = "", everybody: bool = False) -> tuple[str, ...]:
    """Return the command that lists the states of the user's jobs, or of one job; `queued` parses its output.

    Jobs that ended recently are included. `cluster` is for another cluster than the default; `everybody` includes other
    users' jobs, for root.
    """
    which = [f"--jobs={job}"] if job else []
    which += [f"--clusters={cluster}"] if cluster else []
    which += [] if everybody else ["--me"]
    return ("squeue", "--noheader", "--array", *which, "--states=all", "--format=" + SEPARATOR.join(_FIELDS))


def no_such_job(err: str) -> bool:
    """Return True if squeue failed because the job ID is unknown, as it is once a job is older than MinJobAge."""
    return "Invalid job id specified" in err


def queued(out: str) -> dict[str, SqueueRow]:
    """Return the rows of squeue's output by job ID; a task of an array has two IDs, once it has started."""
    found = {}
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR, len(_FIELDS) - 1)
        if len(cells) == len(_FIELDS):
            try:
                hosts = tuple(unfold_nodes(cells[3])) if cells[3] and not cells[3].startswith("(") else ()  # `(null)`
            except InvalidRequest:  # not today's format; one job must not hide all others
                hosts = (cells[3],)
            row = SqueueRow(cells[0], cells[1], cells[2], hosts, cells[4], cells[5], cells[7])
            if cells[6] != cells[0]:
                found[cells[6]] = row
            if cells[6] == cells[0] or row.state != "PENDING":
                found[cells[0]] = row
    return found


STATES: Mapping[str, Phase] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        Phase.PENDING,
    ),
    **dict.fromkeys(("RUNNING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"), Phase.RUNNING),
    "COMPLETING": Phase.COMPLETING,
}
"""Phase of a job that has not ended, by state."""

_REASONS = {
    "None": "not yet considered by the scheduler",
    "Resources": "waiting for free nodes",
    "Priority": "other jobs have a higher priority",
    "BeginTime": "Slurm delays the restart",
    "Dependency": "waiting for another job",
    "DependencyNeverSatisfied": "a job that it depends on failed, so it never starts",
    "JobHeldUser": "held by you; release it with `scontrol release`",
    "JobHeldAdmin": "held by an administrator",
    "PartitionNodeLimit": "the partition does not have that many nodes, so it never starts",
    "PartitionTimeLimit": "the time limit exceeds the limit of the partition, so it never starts",
    "PartitionConfig": "the partition has no such nodes, so it never starts",
    "ReqNodeNotAvail": "a requested node is down or reserved",
    "QOSMaxGRESPerUser": "you have reached your limit of GPUs",
    "AssocGrpGRES": "your group has reached its limit of GPUs",
    "QOSMaxJobsPerUserLimit": "you have reached your limit of running jobs",
    "AssocMaxJobsLimit": "you have reached your limit of running jobs",
    "Licenses": "waiting for a licence",
    "JobArrayTaskLimit": "other points of the sweep run, as many as may at the same time",
}


NEVER = frozenset({"DependencyNeverSatisfied", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig"})
"""Pending reasons with which a job never starts."""


def why_pending(seen: SqueueRow) -> str:
    """Return why a job has not started, in words, with the start time that Slurm expects."""
    reason = seen.reason.strip("()")
    if reason == "None":
        return _REASONS["None"]
    words = _REASONS.get(reason.partition(",")[0], "")
    when = f"; expected start: {seen.start}" if seen.start not in ("N/A", "Unknown", "") else ""
    return (f"{words} ({reason})" if words else reason) + when


def past(job: str) -> tuple[str, ...]:
    """Return the command that asks accounting for a job's final state; `past_state` parses its output."""
    return ("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State")


def past_state(out: str) -> str:
    """Return the state of the job (`CANCELLED by 0` is CANCELLED); empty if accounting has none."""
    lines = out.strip().splitlines()
    return lines[-1].split()[0] if lines and lines[-1].split() else ""


def cancelled_by(out: str) -> str:
    """Return the ID of the user who cancelled a job, from `CANCELLED by 1000`; empty if accounting does not say."""
    found = re.search(r"^CANCELLED by (\d+)", out, re.MULTILINE)
    return found[1] if found else ""


ENDS: Mapping[str, JobEnd] = {
    "TIMEOUT": JobEnd(RunState.TIMED_OUT, 124, "it reached its time limit"),
    "CANCELLED": JobEnd(RunState.KILLED, 137, "it was cancelled", cancelled=True),
    "NODE_FAIL": JobEnd(RunState.ERROR, 125, "a node failed"),
    "OUT_OF_MEMORY": JobEnd(RunState.ERROR, 125, "it exceeded its memory limit"),
    "PREEMPTED": JobEnd(RunState.KILLED, 137, "it was preempted"),
    "BOOT_FAIL": JobEnd(RunState.ERROR, 125, "a node failed to boot"),
    "DEADLINE": JobEnd(RunState.TIMED_OUT, 124, "it reached its deadline"),
    "FAILED": JobEnd(RunState.ERROR, 125, "its batch script failed", failed=True),
    "COMPLETED": JobEnd(RunState.ERROR, 125, "its batch script succeeded"),
}
"""Final states of a job. REVOKED is not one: in a federation the job then runs on another cluster."""
