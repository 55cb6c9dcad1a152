"""What accounting recorded of a Slurm job (sacct): the command line, and a parser of its output. Tried with 22.05."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from muster.core.accounting import Recorded
from muster.errors import InvalidRequest
from muster.schedulers.slurm_values import SEPARATOR, number_of, unfold_nodes

_FIELDS = "JobID,State,End,ElapsedRaw,NNodes,NTasks,TotalCPU,MaxRSS,MaxRSSNode,AllocTRES,NodeList"
_DAY = 86400.0
_LATEST = 4e9
"""The latest Unix time that is passed to sacct: a damaged record may have any number."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_APART = ("batch", "extern")
"""Steps without ranks: the controller of the run, and what Slurm itself has on each node."""


class _Row(NamedTuple):
    """A line of sacct: the job's allocation, or one of its steps. Fields are text, as Slurm writes them."""

    job: str
    state: str
    end: str
    elapsed: str
    nodes: str
    tasks: str
    cpu: str
    memory: str
    memory_node: str
    resources: str
    hosts: str


def used(job: str, since: float) -> tuple[str, ...]:
    """Return the command that asks accounting what a job used; `recorded` parses its output.

    A requeued job has a record for each start (`--duplicates`). So has an earlier job with the same id, long ago, as
    ids are reused: `since` is the Unix time at which this one was submitted.
    """
    start = datetime.fromtimestamp(min(max(since - _DAY, 0.0), _LATEST)).strftime("%Y-%m-%dT%H:%M:%S")
    words = ("sacct", "--noheader", "--parsable2", "--noconvert", "--duplicates", f"--jobs={job}")
    return (*words, f"--starttime={start}", f"--format={_FIELDS}")


def recorded(out: str) -> Recorded | None:
    """Return what a job used over all its starts; None if it has not ended or accounting does not know it.

    MaxRSS is the memory of the largest task. The step of muster's agents has one task per node, of which all ranks are
    descendants, so that this is the memory of a whole node. With steps of several tasks per node, as of `--launcher
    srun`, the peak is unknown.
    """
    rows = [_Row(*cells) for line in out.splitlines() if len(cells := line.split(SEPARATOR)) == len(_Row._fields)]
    jobs = [row for row in rows if "." not in row.job]
    if not jobs or jobs[-1].end in ("Unknown", ""):
        return None
    last = next(
        (row for row in reversed(jobs) if row.resources), jobs[-1]
    )  # it may have been cancelled while it waited
    given = _resources(last.resources)
    steps = [row for row in rows if row.tasks and row.job.partition(".")[2] not in ("", *_APART)]
    whole = all(row.tasks == row.nodes for row in steps)
    peak, host = max(((_bytes(row.memory), row.memory_node) for row in steps if whole), default=(0, ""))
    return Recorded(
        seconds=float(sum(number_of(row.elapsed) for row in jobs)),
        hosts=_hosts(last.hosts),
        cores=number_of(given.get("cpu", "")),
        core_seconds=sum(_seconds(row.cpu) for row in jobs),
        memory=_bytes(given.get("mem", "")),
        peak=peak,
        peak_host=host,
        gpus=_gpus(last.resources),
    )


def _resources(text: str) -> dict[str, str]:
    """Return `{"cpu": "8", "mem": "64000M"}` from `cpu=8,mem=64000M`."""
    return {name: value for name, _, value in (item.partition("=") for item in text.split(","))}


def _gpus(text: str) -> int:
    """Return 2 from `gres/gpu=2,gres/gpu:a100=2`; without a total, the sum of the types."""
    found = _resources(text)
    by_type: Sequence[str] = [value for name, value in found.items() if name.startswith("gres/gpu:")]
    return number_of(found["gres/gpu"]) if "gres/gpu" in found else sum(map(number_of, by_type))


def _hosts(text: str) -> tuple[str, ...]:
    try:
        return tuple(unfold_nodes(text))
    except InvalidRequest:  # `None assigned`
        return ()


def _seconds(text: str) -> float:
    """Return CPU time in seconds: `00:05.434`, `01:02:03`, `2-01:02:03`."""
    found = re.fullmatch(r"(?:([0-9]{1,9})-)?(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]+)?)", text.strip())
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * _DAY + hours * 3600 + minutes * 60 + seconds


def _bytes(text: str) -> int:
    """Return `315637760`, `308240K` or `64000M` in bytes: `--noconvert` keeps the unit in which Slurm has it."""
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]+)?)([KMGTP]?)[nc]?", text.strip())
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
