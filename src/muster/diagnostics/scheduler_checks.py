"""Doctor's check of the scheduler's view of the machines. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from muster.core.plurals import plural
from muster.diagnostics.findings import ClusterFacts, Finding
from muster.schedulers import get_scheduler, title


def scheduler(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a scheduler that does not answer, counts other GPUs than there are, or withholds nodes."""
    machines = get_scheduler(cluster.scheduler).machines if cluster.scheduler else None
    if machines is None:
        return
    name, remedies = title(cluster.scheduler), machines.remedies
    if cluster.scheduler_silent:
        yield Finding(
            "warning",
            next(iter(cluster.facts), name),
            f"no answer from {name}: {cluster.scheduler_silent}",
            "jobs cannot be submitted, and their states are unknown",
            remedies.silent,
        )
    for node, count in cluster.gres.items():
        there = len(cluster.facts[node]["gpus"]) if node in cluster.facts else 0
        if there and there != count:
            yield Finding(
                "warning",
                node,
                f"{name} is configured with {plural(count, 'GPU')}, the node has {there}",
                "jobs are allocated GPUs that do not exist, or some are never used",
                remedies.gpus,
            )
    for node, (state, reason) in cluster.nodes.items():
        bad = ("down", "drain", "fail", "unk")
        if state.lower().startswith(bad) or state.endswith("*"):
            yield Finding(
                "error",
                node,
                f"its state in {name} is {state}" + (f": {reason}" if reason else ""),
                "no job starts on it",
                remedies.node.format(node=node),
            )
