"""Options that apply only to Slurm, and the names sbatch has for options that are not specific to Slurm."""

from __future__ import annotations

from collections.abc import Sequence

from muster.config import values
from muster.config.record import SHARED, Options, defaulted, flag, optional, repeated
from muster.schedulers import SchedulerOptions, Unlike

_GROUP = "Slurm"


def _distribution(value: str) -> str:
    if not value.startswith("block"):
        raise ValueError("`block`: muster numbers ranks node by node")
    return value


def _requeue(value: str) -> int:
    try:
        return values.whole(value)
    except ValueError as error:
        more = "; for an expedited requeue, `--requeue 5 --expedite`" if value == "expedite" else ""
        raise ValueError(f"{error}{more}") from None


class RUN(Options):
    """Options of `muster run` and `muster plan` for Slurm."""

    slurm = flag(
        ("--slurm",),
        "run as a Slurm job on `--nnodes` nodes; inside an allocation, run on its nodes",
        group=_GROUP,
    )
    partition = optional(("--partition",), "partition to submit to", "NAME", values.text, group=_GROUP)
    account = optional(("--account",), "account to charge", "NAME", values.text, group=SHARED)
    qos = optional(("--qos",), "quality of service", "NAME", values.text, group=_GROUP)
    time = optional(
        ("--time",),
        "time limit of the job, e.g. `4:00:00`, `4h` or `1-12` (days-hours); a number is minutes",
        "TIME",
        values.time_limit,
        group=SHARED,
    )
    mem = optional(("--mem",), "memory per node, e.g. `64G`", "SIZE", values.memory, group=SHARED)
    nodelist = optional(("--nodelist",), "nodes to request", "NODES", values.text, group=SHARED)
    constraint = optional(("--constraint",), "required features of nodes", "LIST", values.text, group=SHARED)
    comment = optional(("--comment",), "comment on the job", "TEXT", values.text, group=_GROUP)
    reservation = optional(("--reservation",), "reservation to use", "NAME", values.text, group=_GROUP)
    gpus_per_node = optional(
        ("--gpus-per-node",), "GPUs per node, e.g. `8` or `a100:8`", "N", values.text, group=SHARED
    )
    gres = optional(
        ("--gres",), "generic resources per node: `gpu:8` is `--gpus-per-node 8`", "LIST", values.text, group=_GROUP
    )
    gpus_per_task = optional(
        ("--gpus-per-task",), "GPUs per rank; only 1 is supported", "N", values.positive, group=_GROUP
    )
    dependency = optional(("--dependency",), "jobs to wait for, e.g. `afterok:1234`", "LIST", values.text, group=_GROUP)
    mail_type = optional(
        ("--mail-type",), "events to send mail about, e.g. `END,FAIL`", "LIST", values.text, group=_GROUP
    )
    mail_user = optional(("--mail-user",), "mail address for these events", "ADDRESS", values.text, group=_GROUP)
    cpus_per_task = optional(
        ("--cpus-per-task",),
        "cores per node in total, not per rank: in Slurm, each node runs one task for all of its ranks",
        "N",
        values.positive,
        "one per rank",
        group=SHARED,
    )
    exclusive = flag(("--exclusive",), "allocate whole nodes", group=SHARED)
    signal_before = defaulted(
        ("--signal-before",),
        "send SIGUSR1 to ranks that handle it this long before the time limit; `USR2@60` for another signal, 0 for "
        "none",
        "[SIGNAL@]DURATION",
        values.warning,
        default="120s",
        default_text="120s, or a quarter of a limit below 8 minutes",
        group=_GROUP,
    )
    requeue = defaulted(
        ("--requeue",),
        "requeue the job up to N times after its time limit or a preemption; it continues as the next attempt",
        "N",
        _requeue,
        default="0",
        group=_GROUP,
    )
    expedite = flag(
        ("--expedite",),
        "let Slurm (25.11 or later) restart the job at once after a node failure, on nodes held for it",
        group=_GROUP,
    )
    wait_all_nodes = optional(
        ("--wait-all-nodes",),
        "start the job only when all its nodes are ready: 1 for yes, 0 for no",
        "N",
        values.whole,
        group=_GROUP,
    )
    distribution = optional(
        ("--distribution",),
        "order of ranks; only `block` is supported: node by node",
        "NAME",
        _distribution,
        group=_GROUP,
    )
    output = optional(
        ("--output",),
        "file for the output of all ranks, or with `%t` one file per rank, named by Slurm's patterns: `%x-%j.%t.out`",
        "PATTERN",
        values.text,
        group=_GROUP,
    )
    error = optional(
        ("--error",), "file for stderr, in the same patterns", "PATTERN", values.text, "same as --output", group=_GROUP
    )
    slurm_opt = repeated(
        ("--slurm-opt",),
        "any other option of sbatch; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )


class DOCTOR(Options):
    """Options of `muster doctor` for Slurm."""

    slurm = flag(
        ("--slurm",),
        "check nodes of Slurm; inside an allocation, its nodes are checked by default",
        group=_GROUP,
    )
    partition = optional(("-p", "--partition"), "partition to allocate nodes from", "NAME", values.text, group=_GROUP)
    slurm_opt = repeated(
        ("--slurm-opt",),
        "any other option of salloc; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )
    gpus_per_node = optional(("--gpus-per-node",), "GPUs per node to allocate", "N", values.text, group=_GROUP)


_LIMIT_IN_MINUTES = "with --slurm, -t {minutes} is a time limit of {minutes} minutes; for -t of torchrun use --tee"


def _note(words: Sequence[str], options: Options) -> str:
    minutes = options.value(RUN.time)
    if minutes is not None and minutes.isdigit() and options.typed(RUN.time) and "-t" in words:
        return _LIMIT_IN_MINUTES.format(minutes=minutes)
    return ""


OPTIONS = SchedulerOptions(
    run=RUN,
    doctor=DOCTOR,
    program="sbatch",
    # -N and -n have the same meaning in sbatch
    names={
        "partition": ("-p",),
        "account": ("-A",),
        "time": ("-t",),
        "nodelist": ("-w",),
        "constraint": ("-C",),
        "cpus_per_task": ("-c",),
        "gpus": ("-G",),
        "signal_before": ("--signal",),
        "output": ("-o",),
        "error": ("-e",),
        "name": ("-J", "--job-name"),
        "array": ("-a",),
        "nnodes": ("--nodes",),
        "np": ("--ntasks",),
        "nproc_per_node": ("--ntasks-per-node",),
    },
    unlike={
        "-d": Unlike("--dependency"),
        "-q": Unlike("--qos"),
        # any other value is a module
        "-m": Unlike("--distribution", r"(block|cyclic|fcyclic|arbitrary|plane|\*)([:=,]|$)"),
        "-H": Unlike("--hold"),
    },
    note=_note,
)
