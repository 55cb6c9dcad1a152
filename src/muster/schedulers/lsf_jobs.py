"""LSF's jobs and hosts (bjobs, bhosts): the command lines, and parsers of the output.

After the options of IBM Spectrum LSF 10.1, which has `-json` since 10.1.0.8; not tried on a real one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.results import RunState
from muster.schedulers._shared import megabytes, number
from muster.schedulers.scheduler import JOB_ID, Final, JobEnd, JobRecord, JobStatus, NodeStatus, Phase, QueueEntry

Record = Mapping[str, str]

STATES: Mapping[str, Phase] = {
    **dict.fromkeys(("PEND", "PSUSP", "PROV", "WAIT"), Phase.PENDING),
    **dict.fromkeys(("RUN", "USUSP", "SSUSP"), Phase.RUNNING),
}
"""Phase of a job by its state; `UNKWN` (no contact to the host) is not known, and `ZOMBI` neither."""

ENDS: Mapping[str, JobEnd] = {
    "time limit": JobEnd(RunState.TIMED_OUT, 124, "it reached its time limit"),
    "deleted": JobEnd(RunState.KILLED, 137, "it was killed with bkill", cancelled=True),
    "killed": JobEnd(RunState.KILLED, 137, "it was killed: over one of its limits, or preempted"),
    "EXIT": JobEnd(RunState.ERROR, 125, "its batch script failed", failed=True),
    "DONE": JobEnd(RunState.ERROR, 125, "its batch script succeeded"),
}
"""Final states of a job, which `jobs` and `final_state` return."""

_REASONS = (
    ("TERM_RUNLIMIT", "time limit"),
    ("TERM_OWNER", "deleted"),
    ("TERM_ADMIN", "deleted"),
    ("TERM_FORCE", "deleted"),
    ("TERM_", "killed"),
)
"""Beginnings of `exit_reason`, and the state that they mean."""

_FIELDS = (
    "jobid stat user queue job_name exec_host nexec_host pend_reason submit_time start_time finish_time "
    "estimated_start_time run_time runtimelimit exit_code exit_reason gpu_num effective_resreq"
)

_ASK = """
out=$(bjobs "$@" 2>&1); code=$?
case $out in
  *"No unfinished job found"*|*"No job found"*|*"is not found"*) echo '{"RECORDS": []}' ;;
  *) printf '%s\\n' "$out"; exit $code ;;
esac
"""
"""Shell lines: bjobs without jobs fails, which must not look like no answer."""


def mine() -> tuple[str, ...]:
    """Return the command that lists the user's jobs, with those that have ended lately; `jobs` parses its output."""
    return ("sh", "-c", _ASK, "bjobs", "-a", "-o", _FIELDS, "-json")


def one(job: str) -> tuple[str, ...]:
    """Return the command that shows a job; `record_of` and `final_state` parse its output."""
    return ("sh", "-c", _ASK, "bjobs", "-o", _FIELDS, "-json", job)


def everything() -> tuple[str, ...]:
    """Return the command that lists the jobs of all users; `queue` parses its output."""
    return ("sh", "-c", _ASK, "bjobs", "-u", "all", "-o", _FIELDS, "-json")


def records(out: str) -> list[Record]:
    """Return the records in the JSON output of a command; a site may print text before it."""
    try:
        found: Any = json.loads(out[out.index("{") :], strict=False)
        rows = list(found["RECORDS"])
    except NOT_UNDERSTOOD:
        return []
    return [{str(key): str(value) for key, value in row.items()} for row in rows if isinstance(row, dict)]


def _of_jobs(out: str) -> list[tuple[str, Record]]:
    """Return the job ids with the records of jobs; a record without a usable id is skipped."""
    return [(told["JOBID"], told) for told in records(out) if JOB_ID.fullmatch(told.get("JOBID", ""))]


def _state(told: Record) -> str:
    """Return the state of a job, with the reason of its end."""
    state = told.get("STAT", "")
    if state != "EXIT":
        return state
    reason = told.get("EXIT_REASON", "")
    return next((meaning for begin, meaning in _REASONS if reason.startswith(begin)), state)


def _hosts(told: Record) -> tuple[str, ...]:
    """Return the hosts of `8*n1:8*n2` or `n1:n1:n2`."""
    pieces = [piece.rpartition("*")[2] for piece in told.get("EXEC_HOST", "").split(":")]
    return tuple(dict.fromkeys(piece for piece in pieces if piece and piece != "-"))


def jobs(out: str) -> dict[str, JobStatus]:
    """Return the jobs by id."""
    found = {}
    for job, told in _of_jobs(out):
        state, why = _state(told), " ".join(told.get("PEND_REASON", "").split())
        pending = STATES.get(state) is Phase.PENDING
        held = "held: see `bresume`" if state == "PSUSP" else ""
        found[job] = JobStatus(
            job,
            told.get("JOB_NAME", ""),
            state,
            _hosts(told),
            reason=why,
            why=(held or why.strip("- ")) if pending else "",
            hopeless="dependency condition invalid or never satisfied" in why,
        )
    return found


def _time(text: str) -> float | None:
    """Return the Unix time of `Nov 27 10:00:00 2026`; one without a year is not known. Letters follow an estimate."""
    found = re.match(r"\w{3}\s+\d+ \d+:\d+(:\d+)? \d{4}", text.strip())
    if not found:
        return None
    form = "%b %d %H:%M:%S %Y" if found[1] else "%b %d %H:%M %Y"
    try:
        return datetime.strptime(" ".join(found[0].split()), form).timestamp()
    except (ValueError, OverflowError):  # `Foo 99 10:00:00 2026`
        return None


def _limit(told: Record) -> float | None:
    """Return the time limit in seconds of `240.0` minutes, or of `4:00`."""
    text = told.get("RUNTIMELIMIT", "").partition("/")[0].strip()
    if re.fullmatch("[0-9]{1,12}:[0-9]{1,12}", text):
        hours, minutes = text.split(":")
        return float(int(hours) * 3600 + int(minutes) * 60)
    return float(text) * 60 if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text) else None


def record_of(out: str) -> JobRecord | None:
    """Return the record of a job; None if there is none."""
    told = next(iter(records(out)), None)
    if told is None:
        return None
    pending = STATES.get(told.get("STAT", "")) is Phase.PENDING
    start, limit = _time(told.get("ESTIMATED_START_TIME" if pending else "START_TIME", "")), _limit(told)
    return JobRecord(
        told.get("STAT", ""),
        " ".join(told.get("PEND_REASON", "").split()).strip("- "),
        start,
        start + limit if start and limit else None,
        preempted=False,
        submitted=_time(told.get("SUBMIT_TIME", "")),
        partition=told.get("QUEUE", ""),
        hosts=_hosts(told),
    )


def final_state(out: str) -> Final:
    """Return how a job ended, as long as mbatchd knows it (`CLEAN_PERIOD`, an hour)."""
    told = next(iter(records(out)), None)
    state = _state(told) if told is not None else ""
    return Final(state if state in ENDS else "")


def queue(out: str) -> list[QueueEntry]:
    """Return the jobs of all users."""
    found = []
    for job, told in _of_jobs(out):
        hosts = _hosts(told)
        gpus = number(told.get("GPU_NUM", ""))
        found.append(
            QueueEntry(
                job,
                told.get("USER", ""),
                told.get("QUEUE", ""),
                told.get("STAT", ""),
                len(hosts),
                f"gpu={gpus}" if gpus else "",
                told.get("RUN_TIME", "").strip("- "),
                told.get("RUNTIMELIMIT", "").strip("- "),
                " ".join(told.get("PEND_REASON", "").split()).strip("- "),
                told.get("JOB_NAME", ""),
                ",".join(hosts),
                told.get("ESTIMATED_START_TIME", "").strip("- ") if not hosts else "",
            )
        )
    return found


# ---- hosts -----------------------------------------------------------------------------------------------------------


def all_hosts() -> tuple[str, ...]:
    """Return the command that lists all hosts; `nodes` and `used_gpus` parse its output."""
    return ("bhosts", "-o", "host_name status max njobs comments ngpus ngpus_alloc total_mem", "-json")


def nodes(out: str) -> list[NodeStatus]:
    """Return the hosts. Slots stand for cores."""
    found = []
    for told in records(out):
        slots, gpus, state = number(told.get("MAX", "")), number(told.get("NGPUS", "")), told.get("STATUS", "")
        takes = state in ("ok", "closed_Full", "closed_Excl", "closed_Busy", "closed")
        note = told.get("COMMENTS", "").strip("- ")
        found.append(
            NodeStatus(
                told.get("HOST_NAME", ""),
                (),
                state,
                slots,
                max(slots - number(told.get("NJOBS", "")), 0),
                megabytes(told.get("TOTAL_MEM", "").replace(" ", "")),
                {"": gpus} if gpus else {},
                "" if takes else note,
                takes,
            )
        )
    return found


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """Return the number of GPUs in use by host."""
    counts = {told.get("HOST_NAME", ""): number(told.get("NGPUS_ALLOC", "")) for told in records(out)}
    return {name: {"": count} for name, count in counts.items() if count}
