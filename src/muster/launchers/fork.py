"""One warmed interpreter a node; its agent has it fork that node's ranks."""

from __future__ import annotations

from muster.errors import Impossible
from muster.launchers.common import node_defaults, node_environment, python_argv
from muster.model import Command, Job, Node, Plan


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
            env=node_environment(job, node, run_id),
            defaults=node_defaults(job, node),
            cwd=job.cwd,
            forks=True,
        )
        for node in nodes
    )
    return Plan(job, nodes, commands)
