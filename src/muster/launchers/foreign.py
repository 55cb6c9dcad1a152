"""What foreign launchers share: they start a shim for each rank, and it asks the agent of its machine what to run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from muster.errors import Impossible
from muster.launchers.common import python_argv
from muster.model import Command, Guests, Job, Node, Plan

PYTHON = "$MUSTER_PYTHON"
"""Stands for the interpreter on the node. Such words are filled in when an attempt starts."""
SHIM = "$MUSTER_RANK"
FOLDER = "$MUSTER_FOLDER"
"""Where the files of a command lie."""
SCRATCH = "$MUSTER_SCRATCH"
"""A folder with a short name, on each machine, that goes with the run."""
ADDRESS, PORT = "$MASTER_ADDR", "$MASTER_PORT"


def shim(run_id: str) -> tuple[str, ...]:
    """What a launcher is given in place of the script and its arguments."""
    return (SHIM, run_id)


def guests(job: Job, run_id: str) -> Guests:
    """What each rank runs in the end; raises `Impossible` for options that need ranks of muster's own."""
    for option, value in (("--wrap", job.wrap), ("--preload", job.preload), ("--stdin", job.stdin is not None)):
        if value:
            raise Impossible(
                f"{option} needs ranks that muster starts itself, and {job.launcher} starts its own",
                "use `--launcher exec`, or `fork`",
            )
    python = job.program.kind != "command"
    argv = python_argv(job) if python else job.program.argv
    # a program that is no Python knows nothing of `--local-rank`
    args_at = len(argv) - len(job.program.argv) + 1 if python else None
    return Guests(
        argv=argv,
        python_at=0 if python else None,
        args_at=args_at,
        env={"TORCHELASTIC_RUN_ID": run_id, "TORCHELASTIC_MAX_RESTARTS": str(job.max_restarts), **job.env},
        group=not python,
    )


def each_node(
    job: Job,
    nodes: tuple[Node, ...],
    run_id: str,
    words: Mapping[int, Sequence[str]],
    files: Mapping[str, str] | None = None,
    own_meeting: bool = True,
) -> Plan:
    """A plan of one launcher on each node; `words` are its command line there."""
    # what is built on torchrun kills the other ranks after a time of its own
    grace = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(job.grace))}
    commands = tuple(_command(job, node.number, node, run_id, words[node.number], files or {}) for node in nodes)
    commands = tuple(command._replace(env={**grace, **command.env}) for command in commands)
    return Plan(job, nodes, commands, guests(job, run_id), own_meeting)


def at_head(
    job: Job,
    nodes: tuple[Node, ...],
    run_id: str,
    words: Sequence[str],
    files: Mapping[str, str] | None = None,
    unset: str = "",
    env: Mapping[str, str] | None = None,
    own_meeting: bool = False,
) -> Plan:
    """A plan of one launcher, on node 0, which starts the ranks of all nodes."""
    other = [node.host for node in nodes if node.host.python not in ("", job.python)]
    if other:
        raise Impossible(
            f"--python {other[0].name}:{other[0].python}: {job.launcher} starts the same Python on all hosts",
            "use `--launcher torchrun`, or one path for all",
        )
    command = _command(job, 0, nodes[0], run_id, words, files or {})
    command = command._replace(unset=unset, env={**command.env, **(env or {})})
    return Plan(job, nodes, (command,), guests(job, run_id), own_meeting)


def _command(job: Job, number: int, node: Node, run_id: str, words: Sequence[str], files: Mapping[str, str]) -> Command:
    env = {"TORCHELASTIC_RUN_ID": run_id}
    if node.host.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(node.host.gpus)
    return Command(
        node=number,
        argv=tuple(words),
        ranks=(),
        env={**env, **job.env},
        # else torchrun and others choose one thread and say so
        defaults={"OMP_NUM_THREADS": str(node.host.threads)} if node.host.threads else {},
        cwd=job.cwd,
        python_at=None,
        launcher=job.launcher,
        files=files,
    )


def equal_shares(job: Job, nodes: Sequence[Node]) -> int:
    """The number of ranks of each node; raises `Impossible` where they differ and the launcher knows no such thing."""
    shares = {len(node.ranks) for node in nodes}
    if len(shares) > 1:
        raise Impossible(
            f"{job.launcher} starts equally many ranks on each node, and here are {min(shares)} to {max(shares)}",
            "ask for equally many by `-g`, or use another launcher",
        )
    return shares.pop()
