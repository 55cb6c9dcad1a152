"""Slurm: steps of a job (srun), and the GPUs that they may have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence

from muster.core.model import Text
from muster.errors import InvalidRequest
from muster.schedulers.slurm_values import gpus_of, unfold_nodes


def step(
    hosts: Sequence[str], command: Sequence[str], job: str = "", gpus: int | None = 0, stdin: bool = False
) -> list[str]:
    """One task on each of these hosts, whatever the job was made with; `stdin` goes to the first task.

    `gpus` are those of each host, None where that is not known: what Slurm gives then differs with how the job was
    made. For one host of a job whose nodes have not equally many, only `--gpus` can name all that it has.
    """
    words = ["srun", *([f"--jobid={job}"] if job else []), f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}"]
    words += ["--ntasks-per-node=1", f"--nodelist={','.join(hosts)}", "--overlap", "--mpi=none", "--export=ALL"]
    if gpus is not None:
        words.append("--gres=none" if not gpus else f"--gpus={gpus}" if len(hosts) == 1 else f"--gpus-per-node={gpus}")
    words += ["--cpu-bind=none"]  # the ranks share what the job has there; Slurm would give one core to one task
    words += ["--unbuffered", f"--input={'0' if stdin else 'none'}", "--kill-on-bad-exit=0", "--quiet"]
    return [*words, *command]


def ended_tasks(said: str) -> dict[str, str]:
    """The hosts on which a task of a step has failed, by what srun says while others still run: {host: how}."""
    found: dict[str, str] = {}
    for hosts, how in re.findall(r"^srun: error: (\S+): tasks? [\d,-]+: (.+)$", said, re.M):
        with contextlib.suppress(InvalidRequest):
            found.update(dict.fromkeys(unfold_nodes(hosts), how.strip()))
    return found


def tasks(job: Text, nodes: int, count: int, command: Sequence[str]) -> list[Text]:
    """So many tasks on the nodes of a job, laid out by the file that SLURM_HOSTFILE names."""
    words: list[Text] = ["srun", "--jobid=" + job, f"--nodes={nodes}", f"--ntasks={count}"]
    words += ["--distribution=arbitrary", "--overlap"]
    words += ["--overcommit"]  # the job may have been made for fewer tasks than it now gets ranks
    words += ["--mpi=none", "--export=ALL", "--cpu-bind=none"]
    words += [f"--input={'0' if count == 1 else 'none'}"]  # to several tasks srun would send a copy each
    words += ["--kill-on-bad-exit=1", "--unbuffered"]
    return [*words, *command]


def details(job: str) -> tuple[str, ...]:
    """Ask what a job has on each of its nodes; `gpus_there` reads the answer."""
    return ("scontrol", "show", "job", "--details", job)


def gpus_there(out: str, tasks: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many GPUs the job has on each node: `Nodes=n[1-2] CPU_IDs=0-1 Mem=0 GRES=gpu:a100:2(IDX:0-1)`.

    No more than were asked for: with `--exclusive` Slurm counts all GPUs of a node, and gives a step those that were
    (`TresPerNode=gres:gpu:2`). `tasks`: how many tasks the job has on each node.
    """
    found = {}
    for nodes, gres in re.findall(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", out):
        for host in unfold_nodes(nodes):
            found[host] = sum(gpus_of(gres).values())
    each, of_task, whole = (_gpus_asked(out, of) for of in ("Node", "Task", "Job"))
    for host, count in found.items():
        bounds = [count, *([each] if each else [])]
        if of_task and tasks is not None and host in tasks:
            bounds.append(of_task * tasks[host])
        found[host] = min(bounds)
    if whole and sum(found.values()) > whole:
        return {host: whole // len(found) + (number < whole % len(found)) for number, host in enumerate(found)}
    return found


def _gpus_asked(out: str, of: str) -> int:
    """`TresPerNode=gres:gpu:a100:2`, which newer ones write `gres/gpu:a100=2`: 2; 0 where that is not said."""
    said = re.search(rf"\bTresPer{of}=(\S+)", out)
    return sum(gpus_of(re.sub(r"gres[:/]", "", said[1]).replace("=", ":")).values()) if said else 0


def restarts(out: str) -> int:
    """`Requeue=1 Restarts=2 BatchFlag=1`, of the same answer: 2."""
    found = re.search(r"\bRestarts=(\d+)", out)
    return int(found[1]) if found else 0
