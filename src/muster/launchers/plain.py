"""One plain process per rank, started by the node's agent: any program, or a new Python interpreter."""

from __future__ import annotations

from muster.core.layout import fill
from muster.core.model import Command, Job, Node, Plan, Rank
from muster.core.rank_env import of_ranks
from muster.launchers._python import python_argv


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per rank."""
    python = job.program.kind != "command"
    argv = python_argv(job) if python else job.program.argv
    commands = tuple(
        Command(
            node=node.number,
            argv=tuple(_filled(word, rank, run_id) for word in job.wrap) + argv,
            ranks=(rank,),
            cwd=job.cwd,
            python_index=len(job.wrap) if python else None,
            # a shell or a profiler does not forward signals to its children, so the whole group gets them
            signal_group=not python or bool(job.wrap),
        )
        for node in nodes
        for rank in node.ranks
    )
    return Plan(job, nodes, commands, of_ranks(job, nodes, run_id))


def _filled(word: str, rank: Rank, run_id: str) -> str:
    values = {
        "rank": rank.rank,
        "local_rank": rank.local_rank,
        "node": rank.node,
        "world_size": rank.world_size,
        "run": run_id,
    }
    return fill(word, values, "--wrap")
