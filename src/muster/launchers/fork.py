"""One preloaded interpreter (fork server) per node; the agent has it fork that node's ranks."""

from __future__ import annotations

from muster.core.model import Command, Job, Node, Plan
from muster.core.rank_env import of_ranks
from muster.errors import InvalidRequest
from muster.launchers._python import python_argv


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per node, for all its ranks."""
    if job.program.kind == "command":
        raise InvalidRequest(
            f"`{job.program.argv[0]}` is not a Python script, and only Python can be forked from a warm interpreter",
            "use `--launcher exec`, or leave `--launcher` out",
        )
    if job.wrap:
        raise InvalidRequest(
            f"`--wrap {' '.join(job.wrap)}` needs a process of its own for each rank, and `fork` makes none",
            "use `--launcher exec`, or leave `--launcher` out",
        )
    commands = tuple(
        Command(
            node=node.number,
            argv=python_argv(job),
            ranks=node.ranks,
            cwd=job.cwd,
            fork_server=True,
        )
        for node in nodes
    )
    return Plan(job, nodes, commands, of_ranks(job, nodes, run_id))
