"""Slurm's nodes, their GPUs and the whole queue: the command lines, and parsers of the output. Tested with 22.05."""

from __future__ import annotations

import re

from muster.schedulers.scheduler import NodeStatus, PartitionStatus, QueueEntry
from muster.schedulers.slurm_values import SEPARATOR, gpus_of, number_of

_NODE_FIELDS = ("%N", "%P", "%T", "%c", "%m", "%G", "%C", "%E")


def _takes_jobs(state: str) -> bool:
    """Return True if Slurm starts jobs on nodes in this state; a trailing `*` marks a node that does not respond."""
    return not state.endswith("*") and not re.match(r"down|drain|fail|unk|maint|power|future|reboot", state)


def machines() -> tuple[str, ...]:
    """Return the command that lists all nodes; `nodes` parses its output."""
    return ("sinfo", "--noheader", "--Node", "--format=" + SEPARATOR.join(_NODE_FIELDS))


def nodes(out: str) -> list[NodeStatus]:
    """Return the nodes in sinfo's output, each once, however many partitions it is in."""
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
    """Return the command that lists the GPUs in use by running jobs; `used_gpus` parses its output."""
    return ("sinfo", "--noheader", "--Node", "--Format=NodeList:128,GresUsed:256")


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """Return the number of GPUs in use by node and type, from `n1   gpu:toy:2(IDX:0-1)`."""
    found = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 2:
            found[words[0]] = gpus_of(words[1])
    return found


_JOB_FIELDS = ("%i", "%u", "%P", "%T", "%D", "%b", "%M", "%l", "%r", "%N", "%S", "%j")
"""Output fields of squeue. The job name stands last, because it may contain the separator."""


def everybody() -> tuple[str, ...]:
    """Return the command that lists the whole queue; `jobs` parses its output."""
    return ("squeue", "--noheader", "--format=" + SEPARATOR.join(_JOB_FIELDS))


def jobs(out: str) -> list[QueueEntry]:
    """Return the jobs of all users in squeue's output."""
    found = []
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR, len(_JOB_FIELDS) - 1)
        if len(cells) == len(_JOB_FIELDS):
            job, user, partition, state, count, gpus, used, limit, reason, hosts, start, name = cells
            hosts = "" if hosts.startswith("(") else hosts
            start = start if state == "PENDING" and start not in ("N/A", "Unknown") else ""
            nodes = number_of(count)
            found.append(QueueEntry(job, user, partition, state, nodes, gpus, used, limit, reason, name, hosts, start))
    return found


_PARTITION_FIELDS = ("%P", "%a", "%l", "%L", "%s", "%D", "%N")


def groups() -> tuple[str, ...]:
    """Return the command that lists the partitions and their limits; `partitions` parses its output."""
    return ("sinfo", "--noheader", "--format=" + SEPARATOR.join(_PARTITION_FIELDS))


def partitions(out: str) -> list[PartitionStatus]:
    """Return the partitions in sinfo's output; `*` marks the default one."""
    found = []
    for line in out.splitlines():
        cells = line.strip().split(SEPARATOR)
        if len(cells) == len(_PARTITION_FIELDS):
            name, state, limit, usual, sizes, count, hosts = cells
            default = name.endswith("*")
            found.append(
                PartitionStatus(name.rstrip("*"), state, default, limit, usual, sizes, number_of(count), hosts)
            )
    return found
