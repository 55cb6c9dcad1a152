"""PBS's jobs and nodes (qstat, pbsnodes): the command lines, and parsers of the output.

The plain form of `-f` is read, not the one of `-F json`: versions differ in which values that one writes as numbers (a
job named `1e5`), and in how it writes environment variables. From the manuals of OpenPBS 23.06; not tried on a real
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from muster.core.results import RunState
from muster.schedulers._shared import megabytes, number, seconds_of
from muster.schedulers.scheduler import Final, JobEnd, JobRecord, JobStatus, NodeStatus, Phase, QueueEntry

Attributes = Mapping[str, str]

STATES: Mapping[str, Phase] = {
    **dict.fromkeys(("Q", "H", "W", "T"), Phase.PENDING),
    **dict.fromkeys(("R", "S", "U", "B"), Phase.RUNNING),
    "E": Phase.COMPLETING,
}
"""Phase of a job by the letter of its state: queued, held, waiting, in transit; running, suspended; exiting."""

ENDS: Mapping[str, JobEnd] = {
    "time limit": JobEnd(RunState.TIMED_OUT, 124, "it reached its time limit"),
    "deleted": JobEnd(RunState.KILLED, 137, "it was deleted", cancelled=True),
    "killed": JobEnd(RunState.KILLED, 137, "it was killed: deleted, or over one of its limits"),
    "not started": JobEnd(RunState.ERROR, 125, "PBS could not start it"),
    "failed": JobEnd(RunState.ERROR, 125, "its batch script failed", failed=True),
    "done": JobEnd(RunState.ERROR, 125, "its batch script succeeded"),
}
"""Final states of a job, which `final_state` returns."""

_OVER_LIMIT, _DELETED, _SIGNALLED = -29, "91", 256
"""`Exit_status` of a job over its walltime, `substate` of a deleted one; from 256 on, that plus the signal (job.h)."""


def records(out: str) -> dict[str, dict[str, str]]:
    """Return the attributes by job or node in the output of `qstat -f` or `pbsnodes -av`; values may be continued in
    lines that begin with a tab."""
    found: dict[str, dict[str, str]] = {}
    own: dict[str, str] = {}
    last = ""
    for line in out.splitlines():
        if line.startswith("\t") and last:
            own[last] += line.strip()
        elif line[:1].isspace():
            name, between, value = line.partition(" = ")
            if between:
                last = name.strip()
                own[last] = value.strip()
        elif line.strip():
            own, last = {}, ""
            found[line.removeprefix("Job Id: ").strip()] = own
    return found


_UNLESS_ENDED = "code=$?; case $code in 35|153) ;; *) exit $code ;; esac"
"""Shell lines after qstat: that a job has ended is an answer, and qstat shows all others. 35: the server keeps a
history of it (PBSE_HISTJOBID); 153: it knows it no longer (PBSE_UNKJOBID)."""

MINE = f'jobs=$(qselect -u "$(id -un)") || exit 1; [ -n "$jobs" ] || exit 0; qstat -f -w $jobs; {_UNLESS_ENDED}'
"""Shell lines that list the jobs of this user."""


def mine() -> tuple[str, ...]:
    """Return the command that lists the user's jobs; `jobs` parses its output."""
    return ("sh", "-c", MINE, "qstat")


def _hosts(told: Attributes) -> tuple[str, ...]:
    """Return the nodes of `exec_host`, such as `n1/0*8+n2/1*8`."""
    pieces = re.split(r"[+]", told.get("exec_host", ""))
    return tuple(dict.fromkeys(piece.partition("/")[0] for piece in pieces if piece))


def jobs(out: str) -> dict[str, JobStatus]:
    """Return the jobs by id."""
    found = {}
    for job, told in records(out).items():
        state = told.get("job_state", "")
        if state in ("F", "X", "M", ""):
            continue
        comment = told.get("comment", "")
        why = comment or {"H": "held: it waits for another job, or for `qrls`", "W": "it waits for its start time"}.get(
            state, ""
        )
        found[job] = JobStatus(
            job,
            told.get("Job_Name", ""),
            state,
            _hosts(told),
            reason=comment,
            why=why if STATES.get(state) is Phase.PENDING else "",
            hopeless="Can Never Run" in comment,
        )
    return found


def one(job: str) -> tuple[str, ...]:
    """Return the command that shows a job, also one that has ended; `record_of` and `final_state` parse its output."""
    return ("sh", "-c", _ONE, "qstat", job)


_ONE = f'qstat -x -f -w "$1"; {_UNLESS_ENDED}'
"""Shell lines that show a job."""


def _time(text: str | None) -> float | None:
    """Return the Unix time of `Fri Nov 27 10:00:00 2026`."""
    try:
        return datetime.strptime(text or "", "%a %b %d %H:%M:%S %Y").timestamp()
    except (ValueError, OverflowError):
        return None


def record_of(out: str) -> JobRecord | None:
    """Return the record of a job; None if there is none."""
    told = next(iter(records(out).values()), None)
    if told is None or "job_state" not in told:
        return None
    running = STATES.get(told["job_state"]) is not Phase.PENDING
    start = _time(told.get("stime")) if running else _time(told.get("estimated.start_time"))
    limit = seconds_of(told.get("Resource_List.walltime", ""))
    return JobRecord(
        told["job_state"],
        told.get("comment", ""),
        start,
        start + limit if start and limit else None,
        preempted=False,
        submitted=_time(told.get("qtime")) or _time(told.get("ctime")),
        partition=told.get("queue", ""),
        priority=told.get("Priority", ""),
        hosts=_hosts(told),
    )


def final_state(out: str) -> Final:
    """Return how a job ended, from the history of jobs that many servers keep for some days."""
    told = next(iter(records(out).values()), {})
    if told.get("job_state") not in ("F", "X"):
        return Final()
    status = told.get("Exit_status", "")
    used, limit = (seconds_of(told.get(f"{kind}.walltime", "")) for kind in ("resources_used", "Resource_List"))
    if not re.fullmatch("-?[0-9]{1,9}", status):
        return Final("deleted" if told.get("substate") == _DELETED else "")
    code = int(status)
    if code == _OVER_LIMIT or (code >= _SIGNALLED and used and limit and used >= limit):
        return Final("time limit")
    if told.get("substate") == _DELETED:
        return Final("deleted")
    if code < 0:
        return Final("not started")
    return Final("killed" if code >= _SIGNALLED else "failed" if code else "done")


# ---- all jobs, and the nodes ----------------------------------------------------------------------------------------


def everything() -> tuple[str, ...]:
    """Return the command that lists the jobs of all users; `queue` parses its output."""
    return ("qstat", "-f", "-w")


def queue(out: str) -> list[QueueEntry]:
    """Return the jobs of all users."""
    found = []
    for job, told in records(out).items():
        hosts = _hosts(told)
        gpus = told.get("Resource_List.ngpus", "")
        found.append(
            QueueEntry(
                job,
                told.get("Job_Owner", "").partition("@")[0],
                told.get("queue", ""),
                told.get("job_state", ""),
                number(told.get("Resource_List.nodect", "")) or len(hosts),
                f"ngpus={gpus}" if number(gpus) else "",
                told.get("resources_used.walltime", ""),
                told.get("Resource_List.walltime", ""),
                told.get("comment", "") if not hosts else "",
                told.get("Job_Name", ""),
                ",".join(hosts),
                told.get("estimated.start_time", "") if not hosts else "",
            )
        )
    return found


def all_nodes() -> tuple[str, ...]:
    """Return the command that lists all nodes; `nodes` and `used_gpus` parse its output."""
    return ("pbsnodes", "-av")


_REFUSING = re.compile("down|offline|stale|unknown|provisioning|unresolvable|sleep|maintenance")
_GPUS = "ngpus"


def nodes(out: str) -> list[NodeStatus]:
    """Return the nodes; `resources_available` holds all that they have, `resources_assigned` what is in use."""
    found = []
    for name, told in records(out).items():
        if "state" not in told:
            continue
        have, used = (
            {key.partition(".")[2]: value for key, value in told.items() if key.startswith(f"resources_{kind}.")}
            for kind in ("available", "assigned")
        )
        cores, gpus = number(have.get("ncpus", told.get("pcpus", ""))), number(have.get(_GPUS, ""))
        queues = (told.get("queue") or have.get("Qlist") or told.get("partition") or "").split(",")
        refuses = _REFUSING.search(told["state"]) is not None
        found.append(
            NodeStatus(
                name,
                tuple(filter(None, queues)),
                told["state"],
                cores,
                max(cores - number(used.get("ncpus", "")), 0),
                megabytes(have.get("mem", "")),
                {"": gpus} if gpus else {},
                told.get("comment", "") if refuses else "",
                not refuses,
            )
        )
    return found


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """Return the number of GPUs in use by node."""
    counts = {name: number(told.get(f"resources_assigned.{_GPUS}", "")) for name, told in records(out).items()}
    return {name: {"": count} for name, count in counts.items() if count}
