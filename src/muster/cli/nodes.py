"""`muster nodes`: the nodes of a scheduler's cluster, free resources, and the queue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence, Set

from muster.cli.common import parse_command
from muster.config.command_options import NodesOptions
from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.plurals import plural
from muster.errors import InvalidRequest, MusterError, Unreachable
from muster.linux.identity import user_name
from muster.schedulers import SCHEDULERS, get_scheduler
from muster.schedulers.client import SchedulerClient, client
from muster.schedulers.scheduler import Machines, NodeStatus, PartitionStatus, Phase, QueueEntry
from muster.ui.formatting import size_in_words, table


def nodes(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print a table of nodes, with equal ones grouped, and a table of the queue."""
    asked = parse_command(NodesOptions, "nodes", words, env)
    if asked is None:
        return 0
    options, _, _ = asked
    here, machines, found = _answering(env)
    partitions = here.ask(machines.partitions) if machines.partitions is not None and options.all else []
    used, queue = here.ask(machines.gpus_in_use), here.ask(machines.queue)
    if options.json:
        records = [{**node._asdict(), "gpus_in_use": used.get(node.name, {})} for node in found]
        told = {"nodes": records, "jobs": [job._asdict() for job in queue]}
        if options.all:
            told["partitions"] = [partition._asdict() for partition in partitions]
        print(json.dumps(told, indent=1))
        return 0
    print(table(_machines(found, used)))
    me = env.get("USER") or user_name(os.getuid())
    mine = [job for job in queue if job.user == me]
    pending = {job.job for job in queue if here.scheduler.phase(job.state) is Phase.PENDING}
    waiting = [job for job in queue if job.job in pending and job.user != me]
    others = plural(len(waiting), "pending job", "pending jobs")
    print(f"\n{plural(len(queue), 'job')}, {len(mine)} yours; {others} of other users")
    listed = queue if options.all else mine
    if listed:
        print(table(_jobs(listed, pending, options.all)))
    if partitions:
        print(f"\n{table(_partitions(partitions))}")
    return 0


def _jobs(listed: Sequence[QueueEntry], pending: Set[str], everybody: bool) -> list[Sequence[str]]:
    """Return the table of these jobs; with the users, names and nodes of jobs if they are `everybody`'s."""
    head = ("JOB", "PARTITION", "STATE", "NODES", "GPUS", "TIME", "LIMIT")
    rows: list[Sequence[str]] = [
        (head[0], "USER", "NAME", *head[1:], "NODELIST OR REASON") if everybody else (*head, "REASON")
    ]
    for job in listed:
        why = job.reason if job.job in pending else ""
        why += f", expected {job.start}" if why and job.start else ""
        gpus = job.gpus.replace("gres:", "").replace("gpu:", "") if job.gpus != "N/A" else ""
        use = (job.partition, job.state, str(job.nodes), gpus, job.used, job.limit)
        rows.append((job.job, job.user, job.name, *use, job.hosts or why) if everybody else (job.job, *use, why))
    return rows


def _partitions(found: Sequence[PartitionStatus]) -> list[Sequence[str]]:
    """Return the table of partitions and their limits."""
    rows: list[Sequence[str]] = [
        ("PARTITION", "STATE", "TIME LIMIT", "DEFAULT TIME", "NODES PER JOB", "NODES", "NODELIST")
    ]
    for one in found:
        name = f"{one.name} (default)" if one.default else one.name
        rows.append((name, one.state, one.limit, one.usual_limit, one.sizes, str(one.nodes), one.hosts))
    return rows


def _answering(env: Mapping[str, str]) -> tuple[SchedulerClient, Machines, list[NodeStatus]]:
    """Return the first installed scheduler that answers, its questions, and its nodes.

    Raises the error of the first one in the table if none does: a machine may have commands of several, and be part of
    one's cluster.
    """
    known = {name: machines for name in SCHEDULERS if (machines := get_scheduler(name).machines) is not None}
    here = [name for name, machines in known.items() if shutil.which(machines.nodes.argv[0], path=env.get("PATH"))]
    errors: list[MusterError] = []
    for name in here or [*known][:1]:
        try:
            return client(name), known[name], client(name).ask(known[name].nodes)
        except (InvalidRequest, Unreachable) as error:
            errors.append(error)
    raise errors[0]


def _machines(found: Sequence[NodeStatus], used: Mapping[str, Mapping[str, int]]) -> list[Sequence[str]]:
    """Return the table of nodes; nodes that differ only in their names share a row."""
    rows: list[tuple[str, tuple[str, ...]]] = []
    for node in found:
        free = {kind: count - used.get(node.name, {}).get(kind, 0) for kind, count in node.gpus.items()}
        gpus = ", ".join(
            f"{free[kind] if node.takes_jobs else 0} of {count}{' ' + kind if kind else ''}"
            for kind, count in node.gpus.items()
        )
        cores = f"{node.free_cores if node.takes_jobs else 0} of {node.cores}"
        row = (",".join(node.partitions), node.state, gpus, cores, size_in_words(node.memory << 20), node.reason)
        rows.append((node.name, row))
    # the list of names comes last: in a large cluster it is longer than a line
    head: list[Sequence[str]] = [
        ("NODES", "PARTITIONS", "STATE", "FREE GPUS", "FREE CORES", "MEMORY", "REASON", "NODELIST")
    ]
    return head + [(str(len(names)), *row, fold_hostlist(names)) for row, names in by_value(rows).items()]
