"""The options that say something to Slurm, and what sbatch calls those that others have too."""

from __future__ import annotations

from collections.abc import Sequence

from muster.config import values
from muster.config.record import WHERE, Options, defaulted, flag, optional, repeated
from muster.schedulers import SchedulerOptions, Unlike


class RUN(Options):
    """Of `muster run` and `muster plan`."""

    slurm = flag(("--slurm",), "as a job of Slurm on `--nnodes` nodes; inside an allocation, on its nodes", group=WHERE)
    partition = optional(("--partition",), "of Slurm: the partition", "NAME", values.text, group=WHERE)
    account = optional(("--account",), "of Slurm: the account", "NAME", values.text, group=WHERE)
    qos = optional(("--qos",), "of Slurm: the quality of service", "NAME", values.text, group=WHERE)
    time = optional(("--time",), "of Slurm: the time limit, `4:00:00`", "LIMIT", values.text, group=WHERE)
    mem = optional(("--mem",), "of Slurm: memory of each node, `64G`", "SIZE", values.text, group=WHERE)
    nodelist = optional(("--nodelist",), "of Slurm: these nodes", "NODES", values.text, group=WHERE)
    constraint = optional(("--constraint",), "of Slurm: features of the nodes", "LIST", values.text, group=WHERE)
    comment = optional(("--comment",), "of Slurm: a comment", "TEXT", values.text, group=WHERE)
    reservation = optional(("--reservation",), "of Slurm: a reservation", "NAME", values.text, group=WHERE)
    gpus_per_node = optional(
        ("--gpus-per-node",), "of Slurm: GPUs of each node, `8` or `a100:8`", "N", values.text, group=WHERE
    )
    gres = optional(("--gres",), "of Slurm: the same as `gpu:8`", "LIST", values.text, group=WHERE)
    gpus_per_task = optional(
        ("--gpus-per-task",), "of Slurm: GPUs of each rank, only 1", "N", values.positive, group=WHERE
    )
    dependency = optional(
        ("--dependency",),
        "of Slurm: start after other jobs, `afterok:1234`",
        "LIST",
        values.text,
        group=WHERE,
    )
    mail_type = optional(
        ("--mail-type",),
        "of Slurm: events to send mail about, `END,FAIL`",
        "LIST",
        values.text,
        group=WHERE,
    )
    mail_user = optional(("--mail-user",), "of Slurm: where to send it", "ADDRESS", values.text, group=WHERE)
    cpus_per_task = optional(
        ("--cpus-per-task",),
        "of Slurm: cores of each node",
        "N",
        values.positive,
        "one a rank",
        group=WHERE,
    )
    exclusive = flag(("--exclusive",), "of Slurm: whole nodes", group=WHERE)
    signal_before = defaulted(
        ("--signal-before",),
        "of Slurm: so long before the time limit ranks that catch SIGUSR1 get it; 0 for never; another "
        "signal: `USR2@60`",
        "[SIG@]TIME",
        values.warning,
        default="120s",
        otherwise="120s, or a quarter of a limit below 8 minutes",
        group=WHERE,
    )
    requeue = defaulted(
        ("--requeue",),
        "of Slurm: when the time is over or the job had to make room, go on as the next attempt, at most so many times",
        "N",
        values.whole,
        default="0",
        group=WHERE,
    )
    output = optional(
        ("--output",),
        "of Slurm: a file for the output of all ranks, or with `%t` of each, named by Slurm's patterns: `%x-%j.%t.out`",
        "PATTERN",
        values.text,
        group=WHERE,
    )
    error = optional(
        ("--error",),
        "of Slurm: the same for stderr alone, which else goes where --output says",
        "PATTERN",
        values.text,
        group=WHERE,
    )
    slurm_opt = repeated(
        ("--slurm-opt",),
        "any other option of sbatch, `NAME=VALUE`; may be repeated",
        "OPT",
        values.text,
        group=WHERE,
    )


class DOCTOR(Options):
    """Of `muster doctor`."""

    slurm = flag(("--slurm",), "nodes of Slurm; inside an allocation its nodes, without being asked", group=WHERE)
    partition = optional(("-p", "--partition"), "of this partition", "NAME", values.text, group=WHERE)
    slurm_opt = repeated(
        ("--slurm-opt",),
        "any other option of salloc, `NAME=VALUE`; may be repeated",
        "OPT",
        values.text,
        group=WHERE,
    )
    gpus_per_node = optional(("--gpus-per-node",), "and with so many GPUs", "N", values.text, group=WHERE)


_LIMIT_IN_MINUTES = "-t {minutes} is a time limit of {minutes} min with --slurm; torchrun's -t is --tee"


def _note(words: Sequence[str], options: Options) -> str:
    minutes = options.value(RUN.time)
    if minutes is not None and minutes.isdigit() and options.typed(RUN.time) and "-t" in words:
        return _LIMIT_IN_MINUTES.format(minutes=minutes)
    return ""


OPTIONS = SchedulerOptions(
    run=RUN,
    doctor=DOCTOR,
    program="sbatch",
    # -N and -n mean the same to sbatch anyway
    names={
        "partition": ("-p",),
        "account": ("-A",),
        "time": ("-t",),
        "nodelist": ("-w",),
        "constraint": ("-C",),
        "cpus_per_task": ("-c",),
        "gpus": ("-G",),
        "output": ("-o",),
        "error": ("-e",),
        "name": ("-J", "--job-name"),
        "nnodes": ("--nodes",),
        "np": ("--ntasks",),
        "nproc_per_node": ("--ntasks-per-node",),
    },
    unlike={
        "-d": Unlike("--dependency"),
        "-q": Unlike("--qos"),
        # anything else is a module
        "-m": Unlike("--distribution", r"(block|cyclic|fcyclic|arbitrary|plane|\*)([:=,]|$)"),
        "-H": Unlike("--hold"),
    },
    note=_note,
)
