"""Slurm batch jobs: command lines to submit, requeue and cancel them, and parsers of the output. Tested with 22.05."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.agent.bootstrap import shell_script
from muster.errors import InvalidRequest
from muster.linux.shell import SBATCH, quote
from muster.schedulers.scheduler import After, Answer, Ask, Request

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
    "array": "--array",
    "wrap": "",
    "parsable": "",
    "wait": "",
    "export": "--env",
}
"""The options of sbatch that muster sets itself, each with the option of muster to use instead; empty for none."""


def output_in(folder: str, array: bool = False) -> str:
    """Return a pattern for sbatch's `--output` for a file in this directory, whatever characters its name has.

    A backslash anywhere in a pattern disables all `%` patterns (and is written twice), so that file name has no job ID.
    """
    if "\\" in folder:
        return folder.replace("\\", "\\\\") + f"/{OUTPUTS[1]}"
    return folder.replace("%", "%%") + ("/slurm-%A_%a.out" if array else f"/{OUTPUTS[0]}")


OUTPUTS = ("slurm-%j.out", "slurm.out")
"""File names for the output of the batch script in the run directory; `%j` is the job ID. See `output_in`."""


def help_of_sbatch() -> tuple[str, ...]:
    """Return the command that lists sbatch's options; `options_of_sbatch` parses its output."""
    return ("sbatch", "--help")


def options_of_sbatch(out: str) -> set[str]:
    """Return the long names of all options, without leading hyphens."""
    return set(re.findall(r"^\s*(?:-\w,\s+)?--([a-z][\w-]*)", out, re.MULTILINE))


EXPEDITES = (25, 11)
"""The first version of Slurm with `sbatch --requeue=expedite`."""


def checked_version(request: Request) -> Ask[Request] | None:
    """Return the question for Slurm's version if a request needs a recent one.

    An older sbatch only says that `--requeue` takes no argument.
    """
    if request.requeue != "expedite":
        return None

    def read(answer: Answer) -> Request:
        found = re.search(r"([0-9]{1,4})\.([0-9]{1,4})[.0-9]*", answer.out)
        if found and (int(found[1]), int(found[2])) < EXPEDITES:
            raise InvalidRequest(
                f"--expedite requires Slurm 25.11, and sbatch here is that of Slurm {found[0]}",
                "leave it out: with `--requeue N` alone the job waits in the queue again",
            )
        return request

    return Ask(("sbatch", "--version"), read)


_CHOOSES = ("partition", "account", "qos", "reservation", "constraint", "nodelist", "clusters")
"""Options that select nodes."""


def probe_argv(request: Request, command: Sequence[str]) -> list[str]:
    """Return a command that runs another one on one node of the kind requested, if one is free now."""
    chosen = [f"--{name}={value}" for name, value in request.options if name in _CHOOSES and name != "nodelist"]
    return [
        *("srun", "--immediate=3", "--nodes=1", "--ntasks=1", "--time=1", "--job-name=muster-looks", "--mpi=none"),
        *("--input=none", "--quiet", *chosen, *command),
    ]


WARNING = "URG"
"""The signal with which Slurm warns before the time limit. In a short job it can arrive before the batch script has set
any handler, when SIGUSR1 would kill it; the default action of SIGURG is to ignore it."""


def options(request: Request) -> list[str]:
    """Return all options of sbatch, as they stand in the script and on the command line."""
    words = [f"--job-name={request.name}"]
    if request.nodes is not None:
        words.append(f"--nodes={request.nodes}")
    if request.tasks is not None:
        words.append(f"--ntasks={request.tasks}")
    elif request.nodes is not None:
        # one task per node, muster's agent; the ranks are its children
        words.append("--ntasks-per-node=1")
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in request.options]
    words += [f"--array={request.array}"] if request.array else []
    words += [f"--output={request.output}", "--open-mode=append"]
    if request.before:
        words.append(f"--signal=B:{WARNING}@{request.before}")
    ways = {"": "--no-requeue", "yes": "--requeue"}
    return [*words, ways.get(request.requeue, f"--requeue={request.requeue}")]


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script for sbatch: the directives, the user's setup lines, and muster.

    The first word of `command` is a Python; see `shell_script` for `keep_python`.
    """
    lines = ["#!/bin/bash -l" if setup else "#!/bin/bash"]
    for word in options(request):
        name, equals, value = word.partition("=")
        if "\n" not in value:  # which such a line cannot hold; all options are on the command line of sbatch, too
            lines.append(f"#SBATCH {name}{equals}{quote(value, SBATCH) if equals else ''}")
    lines.append("")
    if setup:
        return "\n".join([*lines, shell_script(command, setup, keep_python, "error: ")])
    return "\n".join([*lines, f"exec {' '.join(map(quote, command))}", ""])


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Return the command that submits a script; `job_id` parses its output.

    The options are repeated here because SBATCH_… variables take precedence over those in the script.
    """
    return ("sbatch", "--parsable", "--export=ALL", *options(request), script)


_REFUSED = (
    ("Invalid partition name specified", "list the partitions with `sinfo -s`"),
    (
        "Requested node configuration is not available",
        "no node has that many GPUs or cores, or that much memory; see `sinfo -Nel`",
    ),
    ("Invalid node name specified", "list the nodes with `sinfo -N`"),
    ("Invalid account", "list your accounts with `sacctmgr show assoc user=$USER`"),
    ("Invalid qos", "list them with `sacctmgr show qos`"),
    ("Invalid --time specification", "write it as 4:00:00, 90 (minutes) or 2-12 (days-hours)"),
    (
        "Invalid job array specification",
        "the cluster limits the numbers of points: `scontrol show config | grep MaxArraySize`",
    ),
    ("Invalid generic resource", "list the resources of each node with `sinfo -o '%N %G'`"),
    ("Unable to contact slurm controller", "slurmctld does not answer; try again later"),
)


def unknown_option(err: str) -> str:
    """Return the name in `sbatch: unrecognized option '--qoss=high'`; empty for other errors."""
    found = re.search(r"unrecognized option '--([\w-]+)", err)
    return found[1] if found else ""


def refused(err: str) -> tuple[str, str | None]:
    """Return (Slurm's message, a hint) for an sbatch that failed."""
    lines = [line.partition("error: ")[2] or line for line in err.strip().splitlines()]
    if len(lines) > 1 and lines[-1].startswith('Try "sbatch --help"'):
        del lines[-1]
    words = (lines or ["no error message"])[-1].removeprefix("sbatch: ").replace("Batch job submission failed: ", "")
    return words, next((hint for known, hint in _REFUSED if known.lower() in err.lower()), None)


def salloc_argv(nodes: int, options: Sequence[str], command: Sequence[str]) -> tuple[str, ...]:
    """Return a command that allocates nodes and runs another command here while it holds them."""
    return ("salloc", f"--nodes={nodes}", *(f"--{option}" for option in options), *command)


def requeue(job: str, ending: bool = False) -> tuple[str, ...]:
    """Return the command that requeues a running job, which keeps its ID.

    A completing job is requeued only if `ending`.
    """
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
    """Return True if Slurm will never requeue the job; other errors (no response) can be temporary."""
    return any(words in err for words in _NO_REQUEUE)


def start_now(job: str) -> tuple[str, ...]:
    """Return the command that lets a requeued job start at once, not only after two minutes."""
    return ("scontrol", "update", f"JobId={job}", "StartTime=now")


def array_task(job: str, index: str) -> str:
    """Return the ID of a task of a job array, `12_3`, or of several, `12_[1,4-6]`."""
    return f"{job}_{index}" if index.isdigit() else f"{job}_[{index}]"


_AFTER = {"ok": "afterok", "any": "afterany", "failed": "afternotok"}


def dependencies(after: Sequence[After], own: str = "") -> dict[str, str]:
    """Return sbatch's options for jobs to wait for, in addition to its `own` list of dependencies."""
    if not after:
        return {}
    words = [*([own] if own else []), *(f"{_AFTER[one.how]}:{one.job}" for one in after)]
    return {"dependency": ",".join(words), "kill-on-invalid-dep": "yes"}


def cancel(job: str) -> tuple[str, ...]:
    """Return the command that cancels a job."""
    return ("scancel", job)
