"""Options of the commands other than `run`, in the manner of `options.py`, and the tables of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.config import values
from muster.config.options import (
    AS_JSON,
    FAILURE,
    HELP,
    OUTPUT,
    RANKS,
    RUN,
    FindOptions,
    RunDirOptions,
    RunOptions,
    least_of,
)
from muster.config.record import LAUNCHER, WHERE, Included, Option, Options, defaulted, flag, optional, repeated
from muster.schedulers import SCHEDULERS, chosen, options_of


class PsOptions(FindOptions):
    """Options of `muster ps`."""

    all = flag(("-a", "--all"), "list all runs instead of the newest 20", group=OUTPUT)
    running = flag(("--running",), "list only runs that are running or pending", group=OUTPUT)
    failed = flag(("--failed",), "list only runs that finished with a nonzero exit code", group=OUTPUT)
    name = optional(("--name",), "list only runs with this name", "NAME", values.text, group=OUTPUT)
    since = optional(
        ("--since",), "list only runs that started within this time, e.g. `7d`", "DURATION", values.age, group=OUTPUT
    )
    stats = flag(
        ("--stats",), "show the number of runs by state, and their core hours and GPU hours in total", group=OUTPUT
    )
    json = AS_JSON


class ShowOptions(FindOptions):
    """Options of `muster show`."""

    slow = flag(("--slow",), "show which ranks arrive late at the collectives, and why", group=OUTPUT)
    metric = optional(
        ("--metric",),
        "order the points of a sweep by the last number that was printed with this name, e.g. `loss`",
        "NAME",
        values.text,
        group=OUTPUT,
    )
    json = AS_JSON


class DiffOptions(FindOptions):
    """Options of `muster diff`."""

    json = AS_JSON


class ReportOptions(FindOptions):
    """Options of `muster report`."""

    output = optional(
        ("-o", "--output"), "file to write", "PATH", values.text, "report.html in the run directory", group=OUTPUT
    )
    open = flag(("--open",), "open the report in a browser", group=OUTPUT)


class TopOptions(FindOptions):
    """Options of `muster top`."""

    once = flag(("--once",), "print one screen and exit", "only without a terminal", group=OUTPUT)


class LogsOptions(FindOptions):
    """Options of `muster logs`."""

    follow = flag(("-f", "--follow"), "print new output until the run finishes", group=OUTPUT)
    rank = optional(
        ("--rank", "--ranks"), "print only the output of these ranks, e.g. `0,4-7`", "RANKS", values.ranks, group=OUTPUT
    )
    role = optional(("--role",), "print only the output of this role's ranks", "NAME", values.text, group=OUTPUT)
    stderr = flag(("--stderr",), "print only stderr", group=OUTPUT)
    stdout = flag(("--stdout",), "print only stdout", group=OUTPUT)
    since = optional(
        ("--since",),
        "print only output written within the last DURATION, e.g. `10m`",
        "DURATION",
        values.seconds,
        group=OUTPUT,
    )
    tail = optional(
        ("--tail",), "print only the last N lines, counted over all selected ranks", "N", values.whole, group=OUTPUT
    )
    fold = flag(
        ("--fold",),
        "print lines that several ranks wrote only once, also if numbers in them differ (marked with `…`)",
        group=OUTPUT,
    )
    timestamps = flag(("--timestamps",), "print the time of each line before it", group=OUTPUT)
    attempt = optional(("--attempt",), "attempt to print", "N", values.whole, "the last", group=OUTPUT)
    prefix = optional(
        ("--prefix",),
        "text before each line, e.g. `{time} {rank}: `; same fields as in `muster run`",
        "TEXT",
        values.text,
        group=OUTPUT,
    )


class WaitOptions(FindOptions):
    """Options of `muster wait`."""

    timeout = optional(
        ("--timeout",), "give up after this time, with exit code 124", "DURATION", values.seconds, group=FAILURE
    )


_HOSTS_OR_HERE = (
    optional(("-H", "--hosts"), "hosts to reach over ssh", "HOSTS", values.text, "this machine", group=WHERE),
    optional(("--hostfile",), "file with one host per line", "PATH", values.text, group=WHERE),
    defaulted(("--ssh",), "ssh command", "COMMAND", values.text, default="ssh", group=WHERE),
)


class NodesOptions(RunDirOptions):
    """Options of `muster nodes`."""

    all = flag(
        ("-a", "--all"),
        "list the jobs of all users with their names and nodes, and the limits of each partition",
        group=OUTPUT,
    )
    json = AS_JSON


class LaunchersOptions(RunDirOptions):
    """Options of `muster launchers`."""

    json = AS_JSON


class DoctorOptions(RunDirOptions):
    """Options of `muster doctor`."""

    hosts, hostfile, ssh = _HOSTS_OR_HERE
    scheduler = optional(
        ("--scheduler",),
        "check nodes of this scheduler; inside an allocation, its nodes are checked by default",
        "NAME",
        values.text,
        choices={name: row.title for name, row in SCHEDULERS.items()},
        group=WHERE,
    )
    of_schedulers = Included(*(options_of(name).doctor for name in SCHEDULERS))
    nnodes = RunOptions.nnodes
    python, setup, cwd = RunOptions.python, RunOptions.setup, RunOptions.cwd
    pass_file = optional(
        ("--pass-file",), "write hosts without errors to this file, for --hostfile", "PATH", values.text, group=OUTPUT
    )
    fail_file = optional(("--fail-file",), "write hosts with errors to this file", "PATH", values.text, group=OUTPUT)
    json = AS_JSON

    @property
    def scheduled(self) -> str:
        """Name of the scheduler whose nodes are checked; empty for none."""
        return chosen(self)

    @property
    def nodes(self) -> int | None:
        """Minimum number of nodes given by `--nnodes`, or None."""
        return least_of(self.nnodes)


class LintOptions(Options):
    """Options of `muster lint`."""

    fix = flag(("--fix",), "correct what can be corrected safely, and report the rest", group=OUTPUT)
    format = defaulted(
        ("--format",),
        "text, json or sarif",
        "FORMAT",
        values.report_format,
        default="text",
        choices={"text": "for people", "json": "for programs", "sarif": "for code scanning"},
        group=OUTPUT,
    )
    rule = repeated(("--rule",), "use only this rule; repeatable", "RULE", values.text, group=OUTPUT)
    ignore = repeated(("--ignore",), "do not use this rule; repeatable", "RULE", values.text, group=OUTPUT)
    explain = optional(("--explain",), "describe a rule, with examples", "RULE", values.text, group=OUTPUT)
    help = HELP


class CompletionOptions(Options):
    """Options of `muster completion`."""

    help = HELP


class DocsOptions(Options):
    """Options of `muster docs`."""

    help = HELP


class CleanOptions(RunDirOptions):
    """Options of `muster clean`."""

    hosts, hostfile, ssh = _HOSTS_OR_HERE
    python = optional(("--python",), "Python interpreter on the hosts", "PATH", values.text, "python3", group=LAUNCHER)
    environments = flag(
        ("--environments",),
        "also remove environments that `--ship-env` copied, if no process uses them and no run did so in the last 10 "
        "minutes",
        group=OUTPUT,
    )
    env_dir = RunOptions.env_dir
    dry_run = flag(("-n", "--dry-run"), "list orphaned processes without killing them", group=OUTPUT)


class AttachOptions(FindOptions):
    """Options of `muster attach`."""

    ranks = optional(
        ("--ranks",), "show only the output of these ranks, e.g. `0,4-7`", "RANKS", values.ranks, group=OUTPUT
    )
    all = flag(("--all",), "show output from the start instead of only the last lines", group=OUTPUT)
    prefix = optional(
        ("--prefix",),
        "text before each line, e.g. `{rank}: `; same fields as in `muster run`",
        "TEXT",
        values.text,
        group=OUTPUT,
    )
    json = flag(("--json",), "print events as JSON lines (machine-readable)", group=OUTPUT)


class KillOptions(FindOptions):
    """Options of `muster kill`."""

    all = flag(("--all",), "terminate all of your runs that are running or pending", group=FAILURE)
    yes = flag(("-y", "--yes"), "skip the confirmation of --all; required without a terminal", group=FAILURE)


class WhyOptions(FindOptions):
    """Options of `muster why`."""

    json = AS_JSON


class StacksOptions(FindOptions):
    """Options of `muster stacks`."""

    rank = optional(
        ("--rank", "--ranks"), "show only the stacks of these ranks, e.g. `0,4-7`", "RANKS", values.ranks, group=OUTPUT
    )
    all_threads = flag(("--all-threads",), "include idle threads of libraries", group=OUTPUT)


class RmOptions(FindOptions):
    """Options of `muster rm`."""

    force = flag(
        ("-f", "--force"),
        "delete also what is here of runs whose state is unknown, because their host does not answer",
        group=OUTPUT,
    )


class PruneOptions(RunDirOptions):
    """Options of `muster prune`."""

    older_than = optional(
        ("--older-than",),
        "delete runs that started longer ago than this, e.g. `30d`",
        "AGE",
        values.age,
        group=FAILURE,
    )
    keep = defaulted(
        ("--keep",), "keep the newest N runs, whatever their age", "N", values.whole, default="0", group=FAILURE
    )
    dry_run = flag(("-n", "--dry-run"), "list runs without deleting them", group=OUTPUT)
    yes = flag(("-y", "--yes"), "skip the confirmation; required without a terminal", group=OUTPUT)


class HoldOptions(RunOptions):
    """`muster hold`: its own options and those of `muster run` that choose hosts and interpreters."""

    idle = defaulted(
        ("--idle",),
        "release the session by itself after this time without a run; 0 for never",
        "DURATION",
        values.seconds,
        default="30m",
        group=FAILURE,
    )
    help = HELP


_HELD: tuple[Option[Any], ...] = (
    *(HoldOptions.idle, RunOptions.name),
    *(RunOptions.hosts, RunOptions.hostfile, RunOptions.nnodes, RunOptions.nproc_per_node, RunOptions.gpus),
    *(RunOptions.python, RunOptions.setup, RunOptions.preload, RunOptions.cwd, RunOptions.ssh),
    *(RunOptions.ship_env, RunOptions.env_dir),
    *(RunOptions.lease, RunOptions.run_dir, RunOptions.profile, HELP),
)
_HELD_IN_JOBS = (
    *("slurm", "partition", "account", "qos", "time", "mem", "nodelist", "constraint", "reservation", "gpus_per_node"),
    *("gres", "cpus_per_task", "exclusive", "signal_before", "slurm_opt"),
)
"""The same of schedulers, by key."""
HOLD = tuple(option for option in HoldOptions.table if option in _HELD or option.key in _HELD_IN_JOBS)
"""Options of `muster hold` that its help lists."""


class ShellOptions(FindOptions):
    """Options of `muster shell`."""

    node = optional(("-w", "--node"), "host of the session to log in to", "NAME", values.text, "node 0", group=WHERE)


class ReleaseOptions(FindOptions):
    """Options of `muster release`."""

    force = flag(("-f", "--force"), "also kill the run that is on the session", group=FAILURE)


class CheckOptions(RunOptions):
    """`muster check`: its own options and those of `muster run` that choose hosts and launcher."""

    backend = optional(
        ("--backend",),
        "torch.distributed backend: gloo or nccl",
        "NAME",
        values.backend,
        "nccl with GPUs, otherwise gloo",
        choices={"gloo": "for CPUs", "nccl": "for GPUs"},
        group=LAUNCHER,
    )
    timeout = defaulted(
        RunOptions.timeout.names,
        "terminate the check after this time, with exit code 124",
        "DURATION",
        values.some_seconds,
        default="10m",
        group=FAILURE,
    )
    html = optional(
        ("--html",),
        "write the HTML report to this file too; a copy is always kept with the run",
        "PATH",
        values.text,
        group=OUTPUT,
    )
    json = flag(("--json",), "print the whole result as JSON", group=OUTPUT)
    help = HELP


class ExportOptions(RunOptions):
    """`muster export`: its own options and those of `muster run`."""

    write = optional(("-o", "--write"), "file to write", "PATH", values.text, "stdout", group=OUTPUT)
    image = optional(
        ("--image",), "container image, for kinds that run in Kubernetes", "IMAGE", values.text, group=LAUNCHER
    )

    @property
    def gpus_each(self) -> str:
        """The number of GPUs per node that a scheduler is asked for; empty if it is not given as a number."""
        option = self.option("gpus_per_node")
        count = str(self.value(option) or "").rpartition(":")[2] if option is not None else ""
        return count if count.isdecimal() and int(count) else ""


class AdoptOptions(Options):
    """Options of `muster adopt`."""

    sbatch = repeated(
        ("--sbatch",),
        "options with which the script is submitted, e.g. `'--nodes 2 --gpus 16'`; repeatable",
        "OPTIONS",
        values.text,
        group=WHERE,
    )
    json = AS_JSON
    help = HELP


OF_CHECK = CheckOptions.table
CHECK = tuple(option for option in OF_CHECK if option not in RUN or option is HELP)
"""Options that only `muster check` has."""
EXPORT = tuple(option for option in ExportOptions.table if option not in RUN or option is HELP)
"""Options that only `muster export` has."""

COMMANDS: Mapping[str, type[Options]] = {
    "run": RunOptions,
    "plan": RunOptions,
    "ps": PsOptions,
    "show": ShowOptions,
    "diff": DiffOptions,
    "report": ReportOptions,
    "top": TopOptions,
    "logs": LogsOptions,
    "wait": WaitOptions,
    "nodes": NodesOptions,
    "launchers": LaunchersOptions,
    "doctor": DoctorOptions,
    "lint": LintOptions,
    "completion": CompletionOptions,
    "docs": DocsOptions,
    "clean": CleanOptions,
    "attach": AttachOptions,
    "kill": KillOptions,
    "why": WhyOptions,
    "stacks": StacksOptions,
    "rm": RmOptions,
    "prune": PruneOptions,
    "check": CheckOptions,
    "export": ExportOptions,
    "hold": HoldOptions,
    "release": ReleaseOptions,
    "shell": ShellOptions,
    "adopt": AdoptOptions,
}
"""Options of each command."""


class LabOptions(Options):
    """Options of all `muster lab` commands."""

    lab_dir = defaulted(
        ("--lab-dir",), "directory of the lab", "PATH", values.text, default="/var/lib/muster-lab", group=OUTPUT
    )
    help = HELP


LAB_SCHEDULER = defaulted(
    ("--scheduler",),
    "scheduler of the cluster: `slurm`, or `sge` for Grid Engine",
    "NAME",
    values.text,
    default="slurm",
    group=RANKS,
)


class LabUpOptions(LabOptions):
    """Options of `muster lab up`."""

    nodes = defaulted(
        ("--nodes",), "number of hosts in addition to the head node", "N", values.positive, default="3", group=RANKS
    )
    gpus = defaulted(
        ("--gpus",), "GPUs per node in the scheduler's configuration", "N", values.whole, default="4", group=RANKS
    )
    cpus = defaulted(
        ("--cpus",), "cores per node in the scheduler's configuration", "N", values.positive, default="8", group=RANKS
    )
    scheduler = LAB_SCHEDULER
    no_shared_home = flag(
        ("--no-shared-home",), "give each node a home directory of its own, empty at first", group=RANKS
    )
    share = optional(
        ("--share",), "directories in /tmp that all hosts share, `/tmp/a,/tmp/b`", "PATHS", values.text, group=RANKS
    )
    accounting = flag(("--accounting",), "record jobs in a database, as sacct reads them; takes longer", group=RANKS)


class LabStatusOptions(LabOptions):
    """Options of `muster lab status`."""

    json = AS_JSON


class LabUserOptions(LabOptions):
    """Options of `muster lab exec` and `muster lab shell`."""

    user = optional(("--user",), "run as this user: root or ada", "NAME", values.text, "root", group=RANKS)


class LabInstallOptions(Options):
    """Options of `muster lab install`."""

    scheduler = LAB_SCHEDULER
    accounting = flag(("--accounting",), "also install what `muster lab up --accounting` needs", group=RANKS)
    help = HELP


LAB: Mapping[str, type[Options]] = {
    "up": LabUpOptions,
    "down": LabOptions,
    "status": LabStatusOptions,
    "exec": LabUserOptions,
    "shell": LabUserOptions,
    "ssh-config": LabOptions,
    "fault": LabOptions,
    "install": LabInstallOptions,
}
"""Options of each `muster lab` command."""
