"""Slurm: its nodes, their GPUs, and the whole queue: what is asked, and what the answer means. Tried with 22.05."""

from __future__ import annotations

import re

from muster.schedulers.scheduler import NodeStatus, QueueEntry
from muster.schedulers.slurm_values import SEPARATOR, gpus_of, number_of

_NODE_FIELDS = ("%N", "%P", "%T", "%c", "%m", "%G", "%C", "%E")


def _takes_jobs(state: str) -> bool:
    """Slurm starts jobs there; `*` after a state says that the node does not respond."""
    return not state.endswith("*") and not re.match(r"down|drain|fail|unk|maint|power|future|reboot", state)


def machines() -> tuple[str, ...]:
    """Ask for all nodes; `nodes` reads the answer."""
    return ("sinfo", "--noheader", "--Node", "--format=" + SEPARATOR.join(_NODE_FIELDS))


def nodes(out: str) -> list[NodeStatus]:
    """What sinfo said, a node once whatever the number of its partitions."""
    found: dict[str, NodeStatus] = {}
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR)
        if len(cells) < len(_NODE_FIELDS):
            continue
        name, partition, state, cores, memory, gres, use, reason = cells[: len(_NODE_FIELDS)]
        before = found.get(name)
        partitions = (*(before.partitions if before else ()), partition.rstrip("*"))
        free = use.split("/")[1] if use.count("/") == 3 else "0"
        found[name] = NodeStatus(
            name,
            partitions,
            state,
            number_of(cores),
            number_of(free),
            number_of(memory),
            gpus_of(gres),
            "" if reason == "none" else reason,
            _takes_jobs(state),
        )
    return list(found.values())


def in_use() -> tuple[str, ...]:
    """Ask which GPUs running jobs have; `used_gpus` reads the answer."""
    return ("sinfo", "--noheader", "--Node", "--Format=NodeList:128,GresUsed:256")


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """GPUs in use, by node and type: `n1   gpu:toy:2(IDX:0-1)`."""
    found = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 2:
            found[words[0]] = gpus_of(words[1])
    return found


_JOB_FIELDS = ("%i", "%u", "%P", "%T", "%D", "%b", "%M", "%l", "%r")


def everybody() -> tuple[str, ...]:
    """Ask for the whole queue; `jobs` reads the answer."""
    return ("squeue", "--noheader", "--format=" + SEPARATOR.join(_JOB_FIELDS))


def jobs(out: str) -> list[QueueEntry]:
    """What squeue said of everybody's jobs."""
    found = []
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR)
        if len(cells) >= len(_JOB_FIELDS):
            job, user, partition, state, count, gpus, used, limit, reason = cells[: len(_JOB_FIELDS)]
            found.append(QueueEntry(job, user, partition, state, number_of(count), gpus, used, limit, reason))
    return found
