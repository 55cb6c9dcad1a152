"""One warmed interpreter a node; its agent has it fork that node's ranks."""

from __future__ import annotations

from muster.errors import Impossible
from muster.launchers.common import python_argv
from muster.model import Command, Job, Node, Plan
from muster.rank_env import of_ranks


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """One command a node, which carries all its ranks."""
    if job.program.kind == "command":
        raise Impossible(
            f"`{job.program.argv[0]}` is not a Python script, and only Python can be forked from a warm interpreter",
            "use `--launcher exec`, or leave `--launcher` out",
        )
    if job.wrap:
        raise Impossible(
            f"`--wrap {' '.join(job.wrap)}` needs a process of its own for each rank, and `fork` makes none",
            "use `--launcher exec`, or leave `--launcher` out",
        )
    commands = tuple(
        Command(
            node=node.number,
            argv=python_argv(job),
            ranks=node.ranks,
            cwd=job.cwd,
            forks=True,
        )
        for node in nodes
    )
    return Plan(job, nodes, commands, of_ranks(job, nodes, run_id))
