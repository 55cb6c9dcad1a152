"""Scripts for mpirun of Open MPI and mpiexec of MPICH, on hosts, on this machine, or in a job of Slurm."""

from __future__ import annotations

from muster.core.hostlist import fold_hostlist
from muster.export import _slurm
from muster.export._ranks import rank_lines
from muster.export._shell import (
    Sh,
    checker,
    command,
    comment,
    exports,
    header,
    heredoc,
    joined,
    per_host,
    port,
    program,
    quote,
    require_secrets,
    setup,
    threads,
)
from muster.export.wanted import Wanted


def script(wanted: Wanted, starter: str) -> str:
    """Return the script for `openmpi` or `mpich`."""
    title = {"openmpi": "mpirun of Open MPI", "mpich": "mpiexec.hydra of MPICH"}[starter]
    shares = [len(node.ranks) for node in wanted.nodes]
    if wanted.slurm:
        each, cpus = wanted.each("mpirun in a job of Slurm"), wanted.batch.get("cpus-per-task")
        # as many tasks as ranks: MPI takes the slots of a node from them
        own = str(max(1, int(cpus) // each)) if cpus.isdigit() else ""
        lines = _slurm.head(wanted, f"started by {title}", each, own)
        lines += ['hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed ' + f"'s/$/:{each}/' | paste -sd, -)"]
    else:
        folded = fold_hostlist(node.host.name for node in wanted.nodes) if wanted.hosts else "this machine"
        lines = ["#!/usr/bin/env bash", *header(wanted, f"started by {title} on {folded}")]
        lines += [*checker(wanted), "set -eo pipefail", "", *require_secrets(wanted)]
        lines += [f"cd -- {quote(wanted.job.cwd)}", *exports(wanted)]
        if wanted.hosts:
            names = ",".join(f"{node.host.name}:{len(node.ranks)}" for node in wanted.nodes)
            lines += [f"hosts={quote(names)}", f"master={quote(wanted.address or wanted.nodes[0].host.name)}"]
        else:
            lines += [f"hosts=localhost:{wanted.world_size}", f"master={quote(wanted.address or '127.0.0.1')}"]
        lines += port(wanted)
    lines += ["export MASTER_ADDR=$master MASTER_PORT=$port"]
    uniform = len(set(shares)) == 1
    numbers = rank_lines(starter, uniform)
    body = [*numbers[:-1]]
    if not wanted.slurm:
        body += [*setup(wanted), *_gpus(wanted)]
    body += ["cores=$(($(nproc) / LOCAL_WORLD_SIZE))"] if not wanted.threads_chosen else []
    body += threads(wanted, "LOCAL_WORLD_SIZE")[-1:]
    body += [command([Sh("exec"), *program(wanted)])]
    passed = ["MASTER_ADDR", "MASTER_PORT", *wanted.open_env, *wanted.secrets]
    if wanted.slurm:
        passed += ["python"]
        lines += ["export python"]
    lines += ["# what torchrun would tell each rank, from what MPI tells each process"]
    lines += heredoc("rank_script", "RANK", body)
    return joined([*lines, *_start(wanted, starter, passed)])


def _gpus(wanted: Wanted) -> list[str]:
    """Return the lines for what single hosts have; a rank finds its node by its number."""
    lines = per_host(wanted)
    if not lines or len(wanted.nodes) == 1:
        return lines
    firsts = " ".join(str(node.ranks[0].rank) for node in wanted.nodes[1:])
    return ["node=0", f'for first in {firsts}; do [ "$RANK" -lt "$first" ] || node=$((node + 1)); done', *lines]


def _start(wanted: Wanted, starter: str, passed: list[str]) -> list[str]:
    """Return the lines that start MPI's program."""
    count = str(wanted.world_size)
    last = ["bash", "-c", Sh('"$rank_script"')]
    if starter == "mpich":
        return [
            *comment(
                "-genvlist names variables: their values appear on no command line; mpiexec may be that of another MPI"
            ),
            command(
                ["mpiexec.hydra", "-n", count, "-hosts", Sh('"$hosts"'), "-wdir", wanted.job.cwd],
                ["-genvlist", ",".join(passed)],
                [*wanted.job.launcher_args] if wanted.job.launcher == "mpirun" else [],
                last,
            ),
        ]
    return [
        *comment("mpirun refuses to run as root without these"),
        '[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1',
        # Open MPI would bind each rank to one core, and place ranks by sockets
        *comment("without --bind-to none each rank has one core; -x passes a variable with its value of here"),
        command(
            ["mpirun", "-np", count, "--host", Sh('"$hosts"'), "--map-by", "slot", "--bind-to", "none"],
            ["--wdir", wanted.job.cwd],
            *([word for name in passed[at : at + 5] for word in ("-x", name)] for at in range(0, len(passed), 5)),
            [*wanted.job.launcher_args] if wanted.job.launcher == "mpirun" else [],
            last,
        ),
    ]
