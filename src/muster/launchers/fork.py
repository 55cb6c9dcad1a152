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
            f"--launcher fork requires a Python script, got `{job.program.argv[0]}`",
            "use `--launcher exec`, or leave out `--launcher`",
        )
    if job.wrap:
        raise InvalidRequest(
            f"`--wrap {' '.join(job.wrap)}` requires one process per rank, and `--launcher fork` starts one per node",
            "use `--launcher exec`, or leave out `--launcher`",
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
