"""Grid Engine's jobs (qstat, qacct): the command lines, and parsers of the output. Tested with 8.1.9."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from muster.core.results import RunState
from muster.schedulers._shared import seconds_of
from muster.schedulers.scheduler import Final, JobEnd, JobRecord, JobStatus, Phase

KILL_WAIT = 60.0
"""Grid Engine's default time between SIGUSR2 and SIGKILL with `-notify`, in seconds."""

STATES: Mapping[str, Phase] = {
    "pending": Phase.PENDING,
    "held": Phase.PENDING,
    "error": Phase.PENDING,
    "running": Phase.RUNNING,
    "suspended": Phase.RUNNING,
    "deleting": Phase.COMPLETING,
}
"""Phase of a job by the state that `state_of` returns."""

ENDS: Mapping[str, JobEnd] = {
    "time limit": JobEnd(RunState.TIMED_OUT, 124, "it reached its time limit"),
    "deleted": JobEnd(RunState.KILLED, 137, "it was deleted", cancelled=True),
    "killed": JobEnd(RunState.KILLED, 137, "it was killed: deleted, or over one of its limits"),
    "not started": JobEnd(RunState.ERROR, 125, "Grid Engine could not start it"),
    "failed": JobEnd(RunState.ERROR, 125, "its batch script failed", failed=True),
    "done": JobEnd(RunState.ERROR, 125, "its batch script succeeded"),
}
"""Final states of a job, which `final` returns."""


def state_of(letters: str) -> str:
    """Return the state in one word: `qw`, `hqw`, `Eqw`, `r`, `t`, `Rr`, `S`, `dr` (sge_status(5)); empty for `z`."""
    if "z" in letters:
        return ""
    if "E" in letters:
        return "error"
    if "q" in letters or "w" in letters:
        return "held" if "h" in letters else "pending"
    if "d" in letters:
        return "deleting"
    if re.search("[sST]", letters):
        return "suspended"
    return "running" if re.search("[rt]", letters) else letters


_WHY = {
    "pending": "waiting for free slots; details: `qstat -j {job}`",
    "held": "held: it waits for another job, or for `qrls {job}`",
    "error": "in an error state, so it never starts; see `qstat -j {job}`, and clear it with `qmod -cj {job}`",
}


def queue(user: str) -> tuple[str, ...]:
    """Return the command that lists the jobs of a user by queue and node; `$user` is the one who asks."""
    return ("qstat", "-xml", "-f", "-r", "-ne", "-u", user)


def parsed(out: str) -> ElementTree.Element:
    """Return the XML in the output of a command; an empty element if it is none."""
    try:
        return ElementTree.fromstring(re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", out))
    except ElementTree.ParseError:
        return ElementTree.Element("none")


def text_of(element: ElementTree.Element, name: str) -> str:
    """Return the text of an element's child; empty if there is none."""
    return (element.findtext(name) or "").strip()


def jobs(out: str) -> dict[str, JobStatus]:
    """Return the jobs in the output of `queue` by id, each with all its nodes."""
    found: dict[str, JobStatus] = {}
    tree = parsed(out)
    placed = [(text_of(place, "name").partition("@")[2], place) for place in tree.iter("Queue-List")]
    for host, place in (*placed, *(("", waiting) for waiting in tree.findall("job_info"))):
        for job in place.findall("job_list"):
            number, state = text_of(job, "JB_job_number"), state_of(text_of(job, "state"))
            if not state or not number:
                continue
            before = found.get(number)
            hosts = before.hosts if before is not None else ()
            name = text_of(job, "full_job_name") or text_of(job, "JB_name")
            found[number] = JobStatus(
                number,
                name,
                state,
                (*hosts, host) if host and host not in hosts else hosts,
                why=_WHY.get(state, "").format(job=number),
                hopeless=state == "error",
            )
    return found


FINAL = 'qacct -j "$1" 2>&1; qstat -s z -u "*" 2>&1'
"""Shell lines that ask accounting for the end of a job, and qmaster for the last jobs that have ended."""


def final(job: str) -> tuple[str, ...]:
    """Return the command for the end of a job that is no longer listed; `final_state` parses its output."""
    return ("sh", "-c", FINAL, "qacct", job)


def final_state(out: str, job: str) -> Final:
    """Return how a job ended; a job that was deleted before it started is listed, but has no accounting."""
    records = re.split(r"^=+$", out, flags=re.MULTILINE)[1:]
    for record in reversed(records):
        keys = dict(line.split(None, 1) for line in record.splitlines() if len(line.split(None, 1)) == 2)
        if keys.get("jobnumber", "").strip() == job and "failed" in keys:
            return Final(_end(keys["failed"], keys.get("exit_status", "0")))
    listed = re.search(rf"^\s*{re.escape(job)}\s.*\sz\s", out, re.MULTILINE)
    return Final("deleted") if listed and "not found" in out else Final()


def _end(failed: str, status: str) -> str:
    """Return a key of `ENDS` for `failed  37 : qmaster enforced h_rt` and `exit_status  137` of qacct."""
    numbers = (re.match("[0-9]{1,9}", text.strip()) for text in (failed, status))
    code, exit_status = (int(found[0]) if found else 0 for found in numbers)
    if "h_rt" in failed or "s_rt" in failed:
        return "time limit"
    if code == 0 or code in (12, 13, 14, 15, 25, 30):  # the script itself ran to its end
        return "failed" if exit_status or code in (25, 30) else "done"
    return "killed" if code in (17, 100) else "not started"


def record(job: str) -> tuple[str, ...]:
    """Return the command that shows a job; `record_of` parses its output."""
    return ("qstat", "-xml", "-j", job)


def record_of(out: str) -> JobRecord | None:
    """Return the record of a job with its time limit, and what the scheduler says about it; None if there is none."""
    tree = parsed(out)
    job = next(tree.iter("JB_job_number"), None)
    if job is None:
        return None
    seconds = {name: _seconds(next(tree.iter(name), None)) for name in ("JAT_start_time", "JB_submission_time")}
    start, limit = seconds["JAT_start_time"], None
    for wanted in tree.iter("qstat_l_requests"):
        if text_of(wanted, "CE_name") == "h_rt":
            limit = seconds_of(text_of(wanted, "CE_stringval"))
    said = [(message.text or "").strip() for message in tree.iter("MES_message")]
    priority = next(tree.iter("JB_priority"), None)
    return JobRecord(
        "running" if start else "pending",
        "; ".join(dict.fromkeys(said)),
        start,
        start + limit if start and limit else None,
        preempted=False,
        submitted=seconds["JB_submission_time"],
        partition=",".join(one.text or "" for one in tree.iter("QR_name")),
        priority=(priority.text or "") if priority is not None else "",
    )


def _seconds(element: ElementTree.Element | None) -> float | None:
    """Return a time; Univa's and later versions write milliseconds."""
    text = ((element.text if element is not None else "") or "").strip()
    if not re.fullmatch("[0-9]{1,18}", text):
        return None
    found = float(text)
    return found / 1000 if found > 1e11 else found or None


def configuration() -> tuple[str, ...]:
    """Return the command that shows all queues; `kill_wait` parses its output."""
    return ("qconf", "-sq", "*")


def kill_wait(out: str) -> float:
    """Return the shortest time between SIGUSR2 and SIGKILL of any queue, from `notify  00:00:60`."""
    found = [seconds_of(text) for text in re.findall(r"^notify\s+([\d:]+)", out, re.MULTILINE)]
    return min((one for one in found if one is not None), default=KILL_WAIT)
