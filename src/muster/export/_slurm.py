"""Batch scripts for Slurm: the directives, and one launcher per node or one task per rank under srun."""

from __future__ import annotations

from muster.core.printable import line
from muster.errors import InvalidRequest
from muster.export._node import NodeLauncher, Place, launcher_env
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
    program,
    quote,
    require_secrets,
    setup,
    threads,
)
from muster.export.wanted import Wanted
from muster.linux import shell
from muster.runtimes import Inside, mount, mounts_of_code, runtime

_NAMES = 'scontrol show hostnames "$SLURM_JOB_NODELIST"'
_PORT = "$((20000 + SLURM_JOB_ID % 12000))"


def directives(wanted: Wanted, tasks: int, cpus: str) -> list[str]:
    """Return the lines with options of sbatch for so many tasks per node, each with `cpus` cores."""
    batch = wanted.batch
    words = [("job-name", wanted.name), ("nodes", str(len(wanted.nodes))), ("ntasks-per-node", str(tasks))]
    words += [(name, value) for name, value in batch.options if name not in ("cpus-per-task", "no-kill")]
    words += [("cpus-per-task", cpus)] if cpus else []
    words += [("chdir", wanted.job.cwd), ("output", batch.output or "%x-%j.out")]
    words += [("error", batch.error)] if batch.error else []
    words += [("open-mode", "append"), ("requeue", "")] if batch.requeue else []
    words += [("signal", batch.signal)] if batch.signal else []
    return [f"#SBATCH --{name}{f'={_value(name, value)}' if value else ''}" for name, value in words]


def _value(name: str, value: str) -> str:
    try:
        return shell.quote(value, shell.SBATCH)
    except ValueError:
        raise InvalidRequest(
            f"an #SBATCH line cannot hold a newline: --{name} {line(value)}", "leave it out, and edit the script"
        ) from None


def head(wanted: Wanted, how: str, tasks: int, cpus: str) -> list[str]:
    """Return the script up to the environment, with the rendezvous."""
    shell = "#!/bin/bash -l" if wanted.job.setup else "#!/bin/bash"
    lines = [shell, *directives(wanted, tasks, cpus), "#", *header(wanted, how), *checker(wanted)]
    lines += ["set -eo pipefail", "", *require_secrets(wanted), *setup(wanted), *exports(wanted)]
    address = quote(wanted.address) if wanted.address else f"$({_NAMES} | head -n 1)"
    lines += ["# node 0, and a port that another job on it does not have", f"master={address}"]
    number = str(wanted.port) if wanted.port is not None else _PORT
    return [*lines, f"port={number}", ""]


def srun(wanted: Wanted, cpus: str) -> list[str]:
    """Return the words of srun up to the command."""
    # since Slurm 22.05 srun does not take --cpus-per-task from the job
    own = [Sh('--cpus-per-task="$SLURM_CPUS_PER_TASK"')] if cpus else []
    job = wanted.job
    inside = Inside(job.runtime_value, mounts_of_code(job.cwd, job.program.path, tuple(map(mount, job.mounts))))
    return ["srun", "--kill-on-bad-exit=1", *own, *runtime(job.runtime).task_options(inside)]


def per_node(wanted: Wanted, launcher: NodeLauncher) -> str:
    """Return a batch script that starts a launcher as the only task of each node."""
    each = wanted.each(launcher.title)
    cpus = wanted.batch.get("cpus-per-task")
    lines = head(wanted, f"one task of srun per node, which is {launcher.title}", 1, cpus)
    lines += [*launcher_env(wanted), *threads(wanted, str(each))]
    lines += launcher.before(wanted, _NAMES)
    if launcher.before(wanted, "x"):
        # each node reads it, and /tmp is not shared
        lines = [line.replace("$(mktemp)", '"$PWD/hostfile.$SLURM_JOB_ID"') for line in lines]
        lines += ["trap 'rm -f \"$hostfile\"' EXIT"]
    words = launcher.words(wanted, Place(node='"$SLURM_NODEID"'))
    lines += ["export master port" + (" python" if '"$python"' in words[0] else "") + _exported(words)]
    lines += ["# in single quotes: SLURM_NODEID differs from task to task, and is 0 in this shell"]
    lines += heredoc("node_script", "NODE", [_exec(words)])
    return joined([*lines, command(srun(wanted, cpus), ["bash", "-c", Sh('"$node_script"')])])


def _exec(words: list[list[str]]) -> str:
    return command([Sh("exec"), *words[0]], *words[1:])


def _exported(words: list[list[str]]) -> str:
    return " hostfile" if any("$hostfile" in word for group in words for word in group) else ""


def per_rank(wanted: Wanted) -> str:
    """Return a batch script that starts one task per rank."""
    each = wanted.each("srun")
    whole = wanted.batch.get("cpus-per-task")
    cpus = str(max(1, int(whole) // each)) if whole.isdigit() else ""
    lines = head(wanted, "one task of srun per rank", each, cpus)
    lines += ["export MASTER_ADDR=$master MASTER_PORT=$port"]
    if not wanted.threads_chosen:
        lines += comment("the cores of a task are those of one rank")
        lines += ["export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"]
    lines += ["# what torchrun would tell each rank, from what srun tells each task"]
    lines += heredoc("rank_script", "RANK", rank_lines("srun", True))
    words = [["bash", "-c", Sh('"$rank_script"'), "rank"], program(wanted)]
    return joined([*lines, command(srun(wanted, cpus), *words)])
