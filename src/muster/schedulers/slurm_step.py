"""Slurm's job steps (srun), and the GPUs that a step can have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence

from muster.core.accounting import Granted
from muster.core.layout import unfold
from muster.core.model import Text
from muster.errors import InvalidRequest
from muster.schedulers.slurm_values import gpus_of, unfold_nodes


def step(
    hosts: Sequence[str], command: Sequence[str], job: str = "", gpus: int | None = 0, stdin: bool = False
) -> list[str]:
    """Return an srun command with one task on each of these hosts, independent of how the job was submitted.

    `stdin` goes to the first task. `gpus` is the number per host, None if unknown: Slurm's default then depends on how
    the job was submitted. For one host of a job with different numbers per node, only `--gpus` requests all that it
    has.
    """
    words = _one_task_each(hosts, job, gpus)
    words += ["--unbuffered", f"--input={'0' if stdin else 'none'}", "--kill-on-bad-exit=0", "--quiet"]
    return [*words, *command]


def shell(host: str, command: Sequence[str], job: str, gpus: int | None) -> list[str]:
    """Return an srun command with one task on this host, in a pseudo-terminal connected to the one of srun."""
    return [*_one_task_each((host,), job, gpus), "--pty", "--quiet", *command]


def _one_task_each(hosts: Sequence[str], job: str, gpus: int | None) -> list[str]:
    words = ["srun", *([f"--jobid={job}"] if job else []), f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}"]
    words += ["--ntasks-per-node=1", f"--nodelist={','.join(hosts)}", "--overlap", "--mpi=none", "--export=ALL"]
    if gpus is not None:
        words.append("--gres=none" if not gpus else f"--gpus={gpus}" if len(hosts) == 1 else f"--gpus-per-node={gpus}")
    # the ranks share the job's cores there; Slurm would bind the one task to one core
    return [*words, "--cpu-bind=none"]


def ended_tasks(said: str) -> dict[str, str]:
    """Return the failed tasks of a step as {host: error}, from what srun prints while others still run."""
    found: dict[str, str] = {}
    for hosts, how in re.findall(r"^srun: error: (\S+): tasks? [\d,-]+: (.+)$", said, re.M):
        with contextlib.suppress(InvalidRequest):
            found.update(dict.fromkeys(unfold_nodes(hosts), how.strip()))
    return found


def tasks(job: Text, nodes: int, count: int, command: Sequence[str]) -> list[Text]:
    """Return an srun command with so many tasks on a job's nodes, placed by the file that SLURM_HOSTFILE names."""
    words: list[Text] = ["srun", "--jobid=" + job, f"--nodes={nodes}", f"--ntasks={count}"]
    words += ["--distribution=arbitrary", "--overlap"]
    words += ["--overcommit"]  # the job may have been submitted for fewer tasks than it has ranks now
    words += ["--mpi=none", "--export=ALL", "--cpu-bind=none"]
    words += [f"--input={'0' if count == 1 else 'none'}"]  # srun would send a copy to each of several tasks
    words += ["--kill-on-bad-exit=1", "--unbuffered"]
    return [*words, *command]


def details(job: str) -> tuple[str, ...]:
    """Return the command that shows a job's resources on each node; `gpus_there` parses its output."""
    return ("scontrol", "show", "job", "--details", job)


def gpus_there(out: str, tasks: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the job's number of GPUs by node, from `Nodes=n[1-2] CPU_IDs=0-1 Mem=0 GRES=gpu:a100:2(IDX:0-1)`.

    At most as many as were requested: with `--exclusive` Slurm counts all GPUs of a node, but gives a step only those
    requested (`TresPerNode=gres:gpu:2`). `tasks` is the number of tasks by node from the environment: that of the job,
    or that of a step in which muster was started.
    """
    found = {}
    for nodes, gres in re.findall(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", out):
        for host in unfold_nodes(nodes):
            found[host] = sum(gpus_of(gres).values())
    each, of_task, whole = (_gpus_asked(out, of) for of in ("Node", "Task", "Job"))
    for host, count in found.items():
        bounds = [count, *([each] if each else [])]
        if of_task and (there := _tasks_on(host, out, tasks or {})):
            bounds.append(of_task * there)
        found[host] = min(bounds)
    if whole and sum(found.values()) > whole:
        return {host: whole // len(found) + (number < whole % len(found)) for number, host in enumerate(found)}
    return found


def _tasks_on(host: str, out: str, tasks: Mapping[str, int]) -> int:
    """Return the maximum number of the job's tasks on a node, from `NumTasks=4`, `NtasksPerN:B:S:C=2:0:*:*`, or `tasks`
    if these are tasks of the job or the record does not tell; 0 if it is unknown."""
    whole, each = re.search(r"\bNumTasks=(\d{1,9})\b", out), re.search(r"\bNtasksPerN:B:S:C=(\d{1,9}):", out)
    if whole and int(whole[1]) == sum(tasks.values()):
        return tasks.get(host, 0)
    return int(each[1]) if each and int(each[1]) else tasks.get(host, 0)


def granted(out: str) -> dict[str, Granted]:
    """Return what a job has on each node, from the same lines. `Mem` is in MiB, 0 where Slurm allocates no memory."""
    gpus, found = gpus_there(out), {}
    for nodes, cores, memory in re.findall(r"\bNodes=(\S+) CPU_IDs=([0-9,-]*) Mem=([0-9]{1,12})", out):
        for host in unfold_nodes(nodes):
            found[host] = Granted(len(unfold(cores, "CPU_IDs")) if cores else 0, int(memory) << 20, gpus.get(host, 0))
    return found


def gpus_requested(out: str) -> str:
    """Return the job's request for GPUs, `gres:gpu:6` from `TresPerJob=gres:gpu:6`; empty if there is none."""
    said = re.findall(r"\bTresPer(Job|Node|Socket|Task)=(\S+)", out)
    return next((words for of, words in said if _gpus_asked(out, of)), "")


def _gpus_asked(out: str, of: str) -> int:
    """Return 2 from `TresPerNode=gres:gpu:a100:2`, or newer Slurm's `gres/gpu:a100=2`; 0 if there is none."""
    said = re.search(rf"\bTresPer{of}=(\S+)", out)
    return sum(gpus_of(re.sub(r"gres[:/]", "", said[1]).replace("=", ":")).values()) if said else 0


def restarts(out: str) -> int:
    """Return the restart count from `Requeue=1 Restarts=2 BatchFlag=1`, in the output of `details`: 2."""
    found = re.search(r"\bRestarts=([0-9]{1,9})", out)
    return int(found[1]) if found else 0
