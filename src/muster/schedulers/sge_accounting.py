"""What accounting recorded of a Grid Engine job (qacct): the command line, and a parser. Tried with 8.1.9."""

from __future__ import annotations

import re

from muster.core.accounting import Recorded

USED = 'qacct -j "$1" 2>/dev/null; exit 0'
"""Shell lines that print the records of a job; nothing while there are none, as in the first 15 s after its end."""


def used(job: str, since: float) -> tuple[str, ...]:
    """Return the command that asks accounting what a job used; `recorded` parses its output."""
    return ("sh", "-c", USED, "qacct", job)


def recorded(out: str) -> Recorded | None:
    """Return what a job used; None if accounting does not know it yet.

    A job has one record, or one for each task on a node if its parallel environment has `accounting_summary FALSE`.
    Memory is left to muster's own measurements: `ru_maxrss` is that of a single process, and `maxvmem` is virtual.
    Ids are used again after ten million jobs, so the last one counts.
    """
    records = [_fields(text) for text in re.split(r"^=+$", out, flags=re.MULTILINE)[1:]]
    records = [one for one in records if one.get("jobnumber")]
    if not records:
        return None
    own = [one for one in records if one.get("qsub_time") == records[-1].get("qsub_time")]
    slots = max(int(_number(one, "slots")) for one in own)
    hosts = tuple(dict.fromkeys(one.get("hostname", "") for one in own))
    return Recorded(
        seconds=max(_number(one, "ru_wallclock") for one in own),
        hosts=hosts if len(own) > 1 or slots == 1 else (),  # a summary names the first host only
        cores=slots,
        core_seconds=sum(_number(one, "cpu") for one in own),
        memory=0,
        peak=0,
        peak_host="",
        gpus=0,
    )


def _fields(text: str) -> dict[str, str]:
    lines = (line.split(None, 1) for line in text.splitlines())
    return {words[0]: words[1].strip() for words in lines if len(words) == 2}


def _number(record: dict[str, str], name: str) -> float:
    """Return `3.448s`, or `3.448` as older versions write it; 0 if there is none."""
    found = re.match(r"[0-9]{1,15}(\.[0-9]+)?", record.get(name, ""))
    return float(found[0]) if found else 0.0
