"""Flux's jobs and nodes (flux jobs, flux resource): the command lines, and parsers of the output.

From the manual pages of flux-core 0.7x, whose `flux jobs` has `--json` since 0.47; not tried on a real one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from muster.config.values import clock_of
from muster.core.hostlist import parse_nodelist
from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.schedulers._shared import number
from muster.schedulers.scheduler import Final, JobEnd, JobRecord, JobStatus, NodeStatus, Phase, QueueEntry

STATES: Mapping[str, Phase] = {
    **dict.fromkeys(("NEW", "DEPEND", "PRIORITY", "SCHED"), Phase.PENDING),
    "RUN": Phase.RUNNING,
    "CLEANUP": Phase.COMPLETING,
}

ENDS: Mapping[str, JobEnd] = {
    "TIMEOUT": JobEnd(RunState.TIMED_OUT, 124, "it reached its time limit"),
    "CANCELED": JobEnd(RunState.KILLED, 137, "it was cancelled", cancelled=True),
    "FAILED": JobEnd(RunState.ERROR, 125, "its batch script failed", failed=True),
    "COMPLETED": JobEnd(RunState.ERROR, 125, "its batch script succeeded"),
}
"""Results of an inactive job."""

_OUTSIDE = 'exec flux ${FLUX_ENCLOSING_ID:+--parent} "$@"'
"""Commands in a batch job are about the instance that is the job; its own job is known to the one around it."""


def outside(*words: str) -> tuple[str, ...]:
    """Return a command of Flux for the instance that runs muster's jobs, from inside and outside of them."""
    return ("sh", "-c", _OUTSIDE, "flux", *words)


def mine() -> tuple[str, ...]:
    """Return the command that lists the user's jobs, with those that have ended lately; `jobs` parses its output."""
    return outside("jobs", "-a", "--json")


def one(job: str) -> tuple[str, ...]:
    """Return the command that shows a job; `record_of` and `final_state` parse its output."""
    return outside("jobs", "--json", job)


def everything() -> tuple[str, ...]:
    """Return the command that lists the jobs of all users; `queue` parses its output."""
    return outside("jobs", "-A", "--json", "--count=0")


_LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def f58(number: int) -> str:
    """Return a job id as Flux shows it to users: base 58, after an `f` (RFC 19)."""
    text = ""
    while number:
        number, rest = divmod(number, 58)
        text = _LETTERS[rest] + text
    return "f" + (text or "1")


def records(out: str) -> list[Mapping[str, Any]]:
    """Return the jobs in the output of `flux jobs --json`, which for a single one is that alone."""
    try:
        found = json.loads(out)
        rows = list(found.get("jobs", [found]))
    except NOT_UNDERSTOOD:
        return []
    return [row for row in rows if isinstance(row, dict) and _is_id(row.get("id"))]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _text(told: Mapping[str, Any], name: str) -> str:
    """Return a field as text; empty if it is missing or something else."""
    value = told.get(name)
    return str(value) if isinstance(value, (str, int)) else ""


def _time(told: Mapping[str, Any], name: str) -> float | None:
    """Return a Unix time; None if it is missing, 0 or none."""
    value = told.get(name)
    return float(value) if isinstance(value, (int, float)) and 0 < value < _LATEST else None


_LATEST = 1e11
"""The latest Unix time that counts as one: later years have no date."""


def _inside(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that is an object; an empty one if it is missing or something else."""
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _state(told: Mapping[str, Any]) -> str:
    return _text(told, "result" if told.get("state") == "INACTIVE" else "state")


def _hosts(told: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return tuple(parse_nodelist(listed, "nodelist")) if (listed := _text(told, "nodelist")) else ()
    except InvalidRequest:
        return ()


def _sched(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the scheduler has noted about a job."""
    return _inside(_inside(told, "annotations"), "sched")


def _day(when: float | None) -> str:
    """Return a Unix time for users; empty for none."""
    return datetime.fromtimestamp(when).strftime("%Y-%m-%dT%H:%M:%S") if when else ""


def _why(told: Mapping[str, Any]) -> str:
    """Return why a job has not started."""
    waits = told.get("dependencies")
    if waits and isinstance(waits, list):
        return f"waits for {', '.join(map(str, waits))}"
    if told.get("urgency") == 0:
        return "held: its urgency is 0; see `flux job urgency`"
    sched = _sched(told)
    return _text(sched, "reason_pending") or "waiting for free resources"


def jobs(out: str) -> dict[str, JobStatus]:
    """Return the jobs by id."""
    found = {}
    for told in records(out):
        job, state = f58(told["id"]), _state(told)
        pending = STATES.get(state) is Phase.PENDING
        found[job] = JobStatus(job, _text(told, "name"), state, _hosts(told), why=_why(told) if pending else "")
    return found


def record_of(out: str) -> JobRecord | None:
    """Return the record of a job; None if there is none."""
    told = next(iter(records(out)), None)
    if told is None:
        return None
    pending = STATES.get(_state(told)) is Phase.PENDING
    start = _time(_sched(told), "t_estimate") if pending else _time(told, "t_run")
    return JobRecord(
        _state(told),
        _why(told) if pending else "",
        start,
        _time(told, "expiration"),
        preempted=_inside(told, "exception").get("type") == "preempt",
        submitted=_time(told, "t_submit"),
        partition=_text(told, "queue"),
        priority=_text(told, "priority"),
        hosts=_hosts(told),
    )


def final_state(out: str) -> Final:
    """Return how a job ended, as long as Flux keeps inactive jobs."""
    told = next(iter(records(out)), None)
    state = _state(told) if told is not None else ""
    return Final(state if state in ENDS else "")


def queue(out: str) -> list[QueueEntry]:
    """Return the jobs of all users."""
    found = []
    for told in records(out):
        pending = STATES.get(_state(told)) is Phase.PENDING
        found.append(
            QueueEntry(
                f58(told["id"]),
                _text(told, "username"),
                _text(told, "queue"),
                _state(told),
                number(told.get("nnodes", 0)),
                "",
                clock_of(number(told.get("runtime", 0))) if told.get("runtime") else "",
                clock_of(number(told["duration"])) if told.get("duration") else "",
                _why(told) if pending else "",
                _text(told, "name"),
                _text(told, "nodelist"),
                _day(_time(_sched(told), "t_estimate")) if pending else "",
            )
        )
    return found


# ---- nodes -----------------------------------------------------------------------------------------------------------


def all_nodes() -> tuple[str, ...]:
    """Return the command that lists all nodes, in groups; `nodes` and `used_gpus` parse its output.

    In a batch job these are the nodes of the job.
    """
    columns = "{state}|{queue}|{nnodes}|{ncores}|{ngpus}|{nodelist}"
    return ("flux", "resource", "list", "-n", "-s", "free,allocated,down", "-o", columns)


def _groups(out: str) -> list[tuple[str, tuple[str, ...], int, int, tuple[str, ...]]]:
    """Return for each group its state, its queues, the cores and GPUs of each node, and the nodes."""
    found = []
    for line in out.splitlines():
        pieces = line.strip().split("|")
        if len(pieces) != 6 or not number(pieces[2]):
            continue
        state, queues, count, cores, gpus, text = pieces
        try:
            names = tuple(parse_nodelist(text, "nodelist"))
        except InvalidRequest:
            continue
        each = number(count)
        found.append(
            (state, tuple(filter(None, queues.split(","))), number(cores) // each, number(gpus) // each, names)
        )
    return found


def nodes(out: str) -> list[NodeStatus]:
    """Return the nodes; one that jobs use in part is in two groups, with the free and the allocated part of it."""
    found: dict[str, NodeStatus] = {}
    for state, queues, cores, gpus, names in _groups(out):
        for name in names:
            before = found.get(name)
            free = cores if state == "free" else 0
            down = state == "down"
            if before is None:
                found[name] = NodeStatus(
                    name, queues, state, cores, free, 0, {"": gpus} if gpus else {}, "", takes_jobs=not down
                )
            elif not down:
                total = gpus + before.gpus.get("", 0)
                found[name] = before._replace(
                    state="mixed",
                    cores=before.cores + cores,
                    free_cores=before.free_cores + free,
                    gpus={"": total} if total else {},
                )
    return list(found.values())


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """Return the number of GPUs in use by node."""
    return {
        name: {"": gpus} for state, _, _, gpus, names in _groups(out) if state == "allocated" and gpus for name in names
    }
