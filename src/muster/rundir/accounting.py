"""What a run used, from what its agents measured and what its scheduler gave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from muster.core.accounting import Granted, NodeUse, RunUse
from muster.core.json_checks import Malformed, checked, table, whole
from muster.core.results import RankUsage, RunResult
from muster.rundir.resources import NodeResources, RankResources, resources_of
from muster.rundir.run import Run, Unreadable

GRANTED = "granted.json"
"""The file with what the scheduler gave the job, by host."""

_GRANTED = dict.fromkeys(Granted._fields, whole)


def granted_of(run: Run) -> Mapping[str, Granted]:
    """Return what the scheduler gave the run's job on each host; empty without a scheduler."""
    try:
        found = table(run.read(GRANTED) or {})
        return {host: Granted(**checked(of, _GRANTED, ())) for host, of in found.items()}
    except (Malformed, Unreadable):
        return {}


def use_of(run: Run, outcome: RunResult) -> RunUse | None:
    """Return what a run used; None if nothing was measured, as of runs of older versions. Raises `Unreadable`."""
    plan, granted = run.plan, granted_of(run)
    attempts = [resources_of(run, attempt) for attempt in run.attempts()]
    if plan is None or not (any(attempts) or any(end.usage is not None for end in outcome.exits)):
        return None
    usage = {end.rank: end.usage for end in outcome.exits if end.usage is not None}
    nodes = []
    for node in plan.nodes:
        ranks = [usage[rank.rank] for rank in node.ranks if rank.rank in usage]
        measured = [of for attempt in attempts for of in attempt if of.node == node.number]
        before = [of for of in measured if not ranks or of.attempt != outcome.attempt]
        gave = granted.get(node.host.name)
        gpus = [gpu for of in measured for gpu in of.gpus]
        used = [value for gpu in gpus for value in gpu.utilization if value is not None]
        last = measured[-1] if measured else None
        cores, memory = (last.cores, last.total) if last is not None else (0, 0)
        nodes.append(
            NodeUse(
                host=node.host.name,
                cores=gave.cores or cores if gave else cores,
                core_seconds=sum(map(_cpu_time, ranks)) + sum(map(_core_seconds, before)),
                memory=gave.memory or memory if gave else memory,
                peak=max([_peak(ranks), *map(_peak_of_samples, measured)]),
                gpus=gave.gpus if gave else len(last.gpus) if last is not None else 0,
                gpu_use=sum(used) / len(used) / 100 if used else None,
                allocated=gave is not None and bool(gave.memory or gave.cores),
            )
        )
    return RunUse(outcome.duration, tuple(nodes))


def _cpu_time(used: RankUsage) -> float:
    return used.user + used.system + used.children_cpu


def _peak(ranks: Sequence[RankUsage]) -> int:
    """Return the most that these ranks can have had together: their peaks need not have been at the same time."""
    return sum(used.peak_memory + used.children_peak for used in ranks)


def _core_seconds(node: NodeResources) -> float:
    """Return the CPU time of the ranks from samples of their usage in percent of a core."""
    spans = [later - earlier for earlier, later in zip(node.times, node.times[1:])]
    return sum(
        (value or 0.0) / 100 * span for rank in node.ranks for value, span in zip(rank.cpu[1:], spans) if span > 0
    )


def _peak_of_samples(node: NodeResources) -> int:
    return max((int(sum(_memory(rank, at) for rank in node.ranks)) for at in range(len(node.times))), default=0)


def _memory(rank: RankResources, at: int) -> float:
    return (rank.memory[at] or 0.0) + (rank.children_memory[at] or 0.0)
