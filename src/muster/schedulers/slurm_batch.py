"""Slurm: submitting a batch script, and what is done to a job: command lines and what they answer. Tried with 22.05."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote

from muster.agent.bootstrap import shell_script
from muster.schedulers.scheduler import Request

OURS: Mapping[str, str] = {
    "job-name": "--name",
    "nodes": "--nnodes",
    "ntasks": "--np",
    "ntasks-per-node": "--nproc-per-node",
    "output": "--output",
    "error": "--error",
    "signal": "--signal-before",
    "requeue": "--requeue",
    "no-requeue": "--requeue",
    "chdir": "--cwd",
    "open-mode": "",
    "array": "",
    "wrap": "",
    "parsable": "",
    "wait": "",
    "export": "--env",
    "clusters": "",
    "cluster": "",
}
"""Options of sbatch that muster writes itself, and its own option for that."""


def output_in(folder: str) -> str:
    """The pattern for sbatch's --output of a file in this folder, whatever its name holds.

    A backslash anywhere takes the meaning of all patterns, and is itself written twice; then the file has no number.
    """
    if "\\" in folder:
        return folder.replace("\\", "\\\\") + f"/{OUTPUTS[1]}"
    return folder.replace("%", "%%") + f"/{OUTPUTS[0]}"


OUTPUTS = ("slurm-%j.out", "slurm.out")
"""Where the batch script's output goes in the run directory, `%j` is the number of the job; see `output_in`."""


def help_of_sbatch() -> tuple[str, ...]:
    """Ask sbatch for its options; `options_of_sbatch` reads the answer."""
    return ("sbatch", "--help")


def options_of_sbatch(out: str) -> set[str]:
    """The long names of all options, without hyphens in front."""
    return set(re.findall(r"^\s*(?:-\w,\s+)?--([a-z][\w-]*)", out, re.MULTILINE))


_CHOOSES = ("partition", "account", "qos", "reservation", "constraint", "nodelist", "clusters")
"""Options that say which nodes are meant."""


def probe_argv(request: Request, command: Sequence[str]) -> list[str]:
    """Run something on one such node, if one is free now."""
    chosen = [f"--{name}={value}" for name, value in request.options if name in _CHOOSES and name != "nodelist"]
    return [
        *("srun", "--immediate=3", "--nodes=1", "--ntasks=1", "--time=1", "--job-name=muster-looks", "--mpi=none"),
        *("--input=none", "--quiet", *chosen, *command),
    ]


WARNING = "URG"
"""The signal by which Slurm says that the end of the time is near. In a short job it may come before the batch script
has done anything, and SIGUSR1 would end it; nobody who does not handle SIGURG ends of that."""


def options(request: Request) -> list[str]:
    """All options of sbatch, as they stand in the script and on the command line."""
    words = [f"--job-name={request.name}"]
    if request.nodes is not None:
        words.append(f"--nodes={request.nodes}")
    if request.tasks is not None:
        words.append(f"--ntasks={request.tasks}")
    elif request.nodes is not None:
        # one task a node is muster's agent; the ranks are its children
        words.append("--ntasks-per-node=1")
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in request.options]
    words += [f"--output={request.output}", "--open-mode=append"]
    if request.before:
        words.append(f"--signal=B:{WARNING}@{request.before}")
    return [*words, "--requeue" if request.requeue else "--no-requeue"]


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """The script for sbatch: what it asks for, the person's shell lines, and muster.

    The first word of `command` is a Python; see `shell_script` for `keep_python`.
    """
    lines = ["#!/bin/bash -l" if setup else "#!/bin/bash"]
    for word in options(request):
        name, equals, value = word.partition("=")
        lines.append(f"#SBATCH {name}{equals}{quote(value) if equals else ''}")
    lines.append("")
    if setup:
        return "\n".join([*lines, shell_script(command, setup, keep_python, "muster: ")])
    return "\n".join([*lines, f"exec {' '.join(map(quote, command))}", ""])


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Hand a script in; `submitted` reads what it says.

    The options are said here too: SBATCH_… variables would come before those in the script.
    """
    return ("sbatch", "--parsable", "--export=ALL", *options(request), script)


def submitted(out: str) -> str:
    """The number of the job; with federations `12;cluster` is said."""
    return out.strip().splitlines()[-1].partition(";")[0]


_REFUSED = (
    ("Invalid partition name specified", "`sinfo -s` lists the partitions"),
    (
        "Requested node configuration is not available",
        "no node has so many GPUs, cores or so much memory; `sinfo -Nel`",
    ),
    ("Invalid node name specified", "`sinfo -N` lists the nodes"),
    ("Invalid account", "`sacctmgr show assoc user=$USER` lists your accounts"),
    ("Invalid qos", "`sacctmgr show qos` lists them"),
    ("Invalid --time specification", "write it as 4:00:00, 90 (minutes) or 2-12 (days-hours)"),
    ("Invalid generic resource", "`sinfo -o '%N %G'` shows what the nodes have"),
    ("Unable to contact slurm controller", "slurmctld does not answer; try again later"),
)


def unknown_option(err: str) -> str:
    """The option that sbatch does not know: `sbatch: unrecognized option '--qoss=high'`; empty when it was another."""
    found = re.search(r"unrecognized option '--([\w-]+)", err)
    return found[1] if found else ""


def refused(err: str) -> tuple[str, str | None]:
    """(Slurm's own words, a hint) of an sbatch that failed."""
    lines = [line.partition("error: ")[2] or line for line in err.strip().splitlines()]
    words = (lines or ["it said nothing"])[-1].replace("Batch job submission failed: ", "")
    return words, next((hint for known, hint in _REFUSED if known.lower() in err.lower()), None)


def salloc_argv(nodes: int, options: Sequence[str], command: Sequence[str]) -> tuple[str, ...]:
    """Run a command here that has so many nodes while it runs."""
    return ("salloc", f"--nodes={nodes}", *(f"--{option}" for option in options), *command)


def requeue(job: str, ending: bool = False) -> tuple[str, ...]:
    """Put a running job back into the queue; it keeps its number. One that is `ending` is not touched, unless said."""
    return ("scontrol", "requeue", *(() if ending else ("incomplete",)), job)


_NO_REQUEUE = (
    "already completing or completed",
    "is pending execution",
    "Invalid job id",
    "Only batch jobs",
    "presently disabled",
    "Access/permission denied",
)


def refuses_requeue(err: str) -> bool:
    """It will not put the job back, however often it is asked. All else may pass: no answer, a job in transition."""
    return any(words in err for words in _NO_REQUEUE)


def start_now(job: str) -> tuple[str, ...]:
    """Have a requeued job start as soon as it can, and not only after two minutes."""
    return ("scontrol", "update", f"JobId={job}", "StartTime=now")


def cancel(job: str) -> tuple[str, ...]:
    """End a job."""
    return ("scancel", job)
