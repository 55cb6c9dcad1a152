"""Grid Engine's nodes and the whole queue, of one command and its parser. Tested with 8.1.9."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from muster.schedulers import _shared
from muster.schedulers.scheduler import NodeStatus, QueueEntry
from muster.schedulers.sge_jobs import parsed, state_of, text_of

_GPU = re.compile(r"n?gpus?(_.*)?|cuda(_.*)?", re.IGNORECASE)
"""What clusters call GPUs: the resource has no fixed name."""


def everything() -> tuple[str, ...]:
    """Return the command that lists all queues by node with their resources and jobs, and the pending jobs.

    Not qhost: it tells neither what jobs request nor whether a queue is disabled without another call.
    """
    return ("qstat", "-xml", "-f", "-r", "-F", "-u", "*")


class _Place(NamedTuple):
    """A queue on a node."""

    host: str
    queue: str
    state: str
    element: ElementTree.Element


def _places(tree: ElementTree.Element) -> Iterator[_Place]:
    for element in tree.iter("Queue-List"):
        queue, _, host = text_of(element, "name").partition("@")
        yield _Place(host, queue, text_of(element, "state"), element)


_WORDS = {"u": "unreachable", "E": "error", "d": "disabled", "D": "disabled", "s": "suspended", "S": "suspended"}


def _state(letters: str, used: int) -> str:
    """Return the state of a queue on a node in words: `au` is unreachable."""
    for letter, words in _WORDS.items():
        if letter in letters:
            return words
    return "in use" if used else "idle"


def nodes(out: str) -> list[NodeStatus]:
    """Return the nodes, each once, however many queues it has. Slots stand for cores."""
    tree, found = parsed(out), dict[str, NodeStatus]()
    in_use = used_gpus(out)
    for host, queue, letters, element in _places(tree):
        values = {one.get("name", ""): (one.text or "").strip() for one in element.findall("resource")}
        counted = {one.get("name", "") for one in element.findall("resource") if one.get("type", "").endswith("c")}
        total, used = _shared.number(text_of(element, "slots_total")), _shared.number(text_of(element, "slots_used"))
        state = _state(letters, used)
        gpus = {kind: _shared.number(values[kind]) for kind in sorted(counted) if _GPU.fullmatch(kind)}
        named = {"" if len(gpus) == 1 else kind: count for kind, count in gpus.items()}
        busy = in_use.get(host, {})
        before = found.get(host)
        takes = state in ("idle", "in use")
        found[host] = NodeStatus(
            host,
            (*(before.partitions if before is not None else ()), queue),
            state if before is None or not before.takes_jobs else before.state,
            max(total, before.cores if before is not None else 0),
            max(total - used, 0) if before is None else min(max(total - used, 0), before.free_cores),
            _shared.megabytes(values.get("mem_total", "")),
            {kind: count + busy.get(kind, 0) for kind, count in named.items()},
            text_of(element, "alarm") if not takes else "",
            takes or (before is not None and before.takes_jobs),
        )
    return list(found.values())


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """Return the number of GPUs in use by node: what jobs request per slot, times their slots there."""
    found: dict[str, dict[str, int]] = {}
    for host, _, _, element in _places(parsed(out)):
        kinds = {
            one.get("name", "")
            for one in element.findall("resource")
            if _GPU.fullmatch(one.get("name", "")) and one.get("type", "").endswith("c")
        }
        for job in element.findall("job_list"):
            for wanted in job.findall("hard_request"):
                name = wanted.get("name", "")
                if name in kinds:
                    own = found.setdefault(host, {})
                    key = "" if len(kinds) == 1 else name
                    own[key] = own.get(key, 0) + _shared.number(wanted.text or "") * _shared.number(
                        text_of(job, "slots")
                    )
    return found


def queue(out: str) -> list[QueueEntry]:
    """Return the jobs of all users, each once."""
    tree, found = parsed(out), dict[str, QueueEntry]()
    placed = [(place.host, place.queue, place.element) for place in _places(tree)]
    for host, queue_name, element in (*placed, *(("", "", waiting) for waiting in tree.findall("job_info"))):
        for job in element.findall("job_list"):
            number, state = text_of(job, "JB_job_number"), state_of(text_of(job, "state"))
            if not state or not number:
                continue
            wanted = {one.get("name", ""): (one.text or "").strip() for one in job.findall("hard_request")}
            before = found.get(number)
            hosts = [
                *(before.hosts.split(",") if before is not None and before.hosts else []),
                *([host] if host else []),
            ]
            found[number] = QueueEntry(
                number,
                text_of(job, "JB_owner"),
                queue_name,
                state,
                len(hosts),
                next((f"{name}={count} per slot" for name, count in wanted.items() if _GPU.fullmatch(name)), ""),
                "",
                wanted.get("h_rt", ""),
                "" if host else f"{text_of(job, 'slots')} slots requested",
                text_of(job, "full_job_name") or text_of(job, "JB_name"),
                ",".join(hosts),
            )
    return list(found.values())
