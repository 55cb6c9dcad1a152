"""`muster nodes`: the machines of a Slurm cluster, what is free on them, and who waits."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence

from muster.commands.common import read
from muster.fold import by_value
from muster.hosts import fold_hosts
from muster.options import NodesOptions
from muster.plurals import plural
from muster.report import table
from muster.schedulers import slurm
from muster.world.queue import ask


def nodes(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print one table of nodes, equal ones folded, and one of the queue."""
    asked = read(
        NodesOptions, "nodes", words, env, "the machines of a Slurm cluster, what is free on them, and who waits", ""
    )
    if asked is None:
        return 0
    options, _, _ = asked
    found = slurm.nodes(ask(slurm.machines()))
    used = slurm.used_gpus(ask(slurm.in_use()))
    queue = slurm.jobs(ask(slurm.everybody()))
    if options.json:
        records = [{**node._asdict(), "gpus_in_use": used.get(node.name, {})} for node in found]
        print(json.dumps({"nodes": records, "jobs": [job._asdict() for job in queue]}, indent=1))
        return 0
    print(table(_machines(found, used)))
    me = env.get("USER") or getpass.getuser()
    mine = [job for job in queue if job.user == me]
    waiting = [job for job in queue if job.state == "PENDING" and job.user != me]
    others = plural(len(waiting), "of others waits", "of others wait")
    print(f"\n{plural(len(queue), 'job')}, {len(mine)} of them yours; {others}")
    if mine:
        rows = [("JOB", "PARTITION", "STATE", "NODES", "GPUS", "USED", "LIMIT", "WHY")]
        for job in mine:
            why = job.reason if job.state == "PENDING" else ""
            gpus = job.gpus.replace("gres:", "").replace("gpu:", "") if job.gpus != "N/A" else ""
            rows.append((job.job, job.partition, job.state, str(job.nodes), gpus, job.used, job.limit, why))
        print(table(rows))
    return 0


def _machines(found: Sequence[slurm.NodeSeen], used: Mapping[str, Mapping[str, int]]) -> list[Sequence[str]]:
    """Nodes in rows; those that differ by nothing but their names share one."""
    rows: list[tuple[str, tuple[str, ...]]] = []
    for node in found:
        free = {kind: count - used.get(node.name, {}).get(kind, 0) for kind, count in node.gpus.items()}
        gpus = ", ".join(
            f"{free[kind] if node.takes_jobs else 0} of {count}{' ' + kind if kind else ''}"
            for kind, count in node.gpus.items()
        )
        cores = f"{node.free_cores if node.takes_jobs else 0} of {node.cores}"
        row = (",".join(node.partitions), node.state, gpus, cores, f"{node.memory // 1000} GB", node.reason)
        rows.append((node.name, row))
    head: list[Sequence[str]] = [("NODES", "PARTITIONS", "STATE", "FREE GPUS", "FREE CORES", "MEMORY", "WHY")]
    return head + [(fold_hosts(names), *row) for row, names in by_value(rows).items()]
