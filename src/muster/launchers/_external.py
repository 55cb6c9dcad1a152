"""Code shared by external launchers: they start a shim per rank, which asks the agent of its machine what to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from muster.core.model import Command, Job, Late, Node, Plan, RankCommand, Text, TextFile, Variables
from muster.core.rank_env import defaults_of_launcher, of_external_ranks, of_launcher
from muster.errors import InvalidRequest
from muster.launchers._python import python_argv

_NOTHING: Variables = MappingProxyType({})


def shim_argv(run_id: str) -> tuple[Text, ...]:
    """Return what a launcher gets in place of the script and its arguments."""
    return (Late.SHIM, run_id)


def own_file(name: str, text: Text) -> TextFile:
    """Return a file in the launcher's own directory."""
    return TextFile(Late.FOLDER + f"/{name}", text)


def rank_command(job: Job, tasks: bool = False) -> RankCommand:
    """Return what each rank finally runs. Raises `InvalidRequest` for options that need ranks started by muster."""
    for option, value in (("--wrap", job.wrap), ("--preload", job.preload), ("--stdin", job.stdin is not None)):
        if value:
            raise InvalidRequest(
                f"{option} is not supported with --launcher {job.launcher}, which starts the ranks itself",
                "use `--launcher fork` or `--launcher exec`",
            )
    python = job.program.kind != "command"
    argv = python_argv(job) if python else job.program.argv
    # only Python scripts know `--local-rank`
    args_index = len(argv) - len(job.program.argv) + 1 if python else None
    return RankCommand(
        argv=argv, python_index=0 if python else None, args_index=args_index, signal_group=not python, tasks=tasks
    )


def per_node(
    job: Job,
    nodes: tuple[Node, ...],
    run_id: str,
    words: Mapping[int, Sequence[Text]],
    files: Sequence[TextFile] = (),
    external_rendezvous: bool = True,
    env: Variables = _NOTHING,
) -> Plan:
    """Return a plan with one launcher per node; `words` are command lines by node, `env` are additional variables."""
    commands = tuple(
        _command(job, node, words[node.number], files, of_launcher(job, node, run_id, env, elastic=True))
        for node in nodes
    )
    return Plan(
        job,
        nodes,
        commands,
        of_external_ranks(job, nodes, run_id, external_rendezvous),
        rank_command(job),
        external_rendezvous,
    )


def on_head_node(
    job: Job,
    nodes: tuple[Node, ...],
    run_id: str,
    words: Sequence[Text],
    files: Sequence[TextFile] = (),
    unset: str = "",
    env: Variables = _NOTHING,
    external_rendezvous: bool = False,
    tasks: bool = False,
) -> Plan:
    """Return a plan with one launcher on node 0 that starts all ranks, as `tasks` of the scheduler if set."""
    other = [node.host for node in nodes if node.host.python not in ("", job.python)]
    if other:
        raise InvalidRequest(
            f"--python {other[0].name}:{other[0].python}: {job.launcher} starts the same Python on all hosts",
            "use `--launcher torchrun`, or one path for all hosts",
        )
    command = _command(job, nodes[0], words, files, of_launcher(job, nodes[0], run_id, env, unset), unset)
    environments = of_external_ranks(job, nodes, run_id, external_rendezvous, tasks)
    return Plan(job, nodes, (command,), environments, rank_command(job, tasks), external_rendezvous)


def _command(
    job: Job, node: Node, words: Sequence[Text], files: Sequence[TextFile], env: Variables, unset: str = ""
) -> Command:
    return Command(
        node=node.number,
        argv=tuple(words),
        ranks=(),
        cwd=job.cwd,
        python_index=None,
        launcher=job.launcher,
        files=tuple(files),
        env=env,
        env_defaults=defaults_of_launcher(node),
        unset_pattern=unset,
    )


def require_uniform(job: Job, nodes: Sequence[Node]) -> int:
    """Return the number of ranks per node. Raises `InvalidRequest` if the nodes differ."""
    shares = {len(node.ranks) for node in nodes}
    if len(shares) > 1:
        raise InvalidRequest(
            f"{job.launcher} requires the same number of ranks on each node, got {min(shares)} to {max(shares)}",
            "set the same number with `-g`, or use another launcher",
        )
    return shares.pop()
