"""All options, each declared once. The parser, `--help`, completion, the keys of muster.toml, the environment
variables, the reference and the option records of commands are derived from these classes."""

from __future__ import annotations

from collections.abc import Mapping

from muster.config import values
from muster.config.record import LAUNCHER, WHERE, Included, Options, defaulted, flag, optional, repeated
from muster.core.model import ENDING, GRACE, RESTART_DELAY, ROLE
from muster.core.results import OnHang
from muster.runtimes import RUNTIMES, runtime
from muster.schedulers import SCHEDULERS, chosen, options_of

RANKS, FAILURE, OUTPUT = "Ranks", "Failure and shutdown", "Output"

HELP = flag(("-h", "--help"), "show this help", group=OUTPUT)
_AS_JSON = flag(("--json",), "print JSON", group=OUTPUT)
_HOME = "$MUSTER_HOME or ~/.muster"


class RunDirOptions(Options):
    """Options of a command that needs the directory of runs."""

    run_dir = optional(("--run-dir",), "directory that contains all runs", "PATH", values.text, _HOME, group=OUTPUT)
    help = HELP


class FindOptions(RunDirOptions):
    """Options of a command that finds runs."""

    run_dir = optional(
        ("--run-dir",), "search for runs only in this directory", "PATH", values.text, "all your runs", group=OUTPUT
    )


class RunOptions(RunDirOptions):
    """Options of `muster run` and `muster plan`."""

    hosts = optional(
        ("-H", "--hosts", "--host"),
        "hosts to reach over ssh, e.g. `n1,n[2-4],gpu5:4,gpu6:0,1` (4 ranks on gpu5; GPUs 0 and 1 of gpu6)",
        "HOSTS",
        values.text,
        "this machine",
        group=WHERE,
    )
    hostfile = optional(
        ("--hostfile",),
        "file with one host per line, `n1 slots=4` or `n1:4`; `#` starts a comment",
        "PATH",
        values.text,
        group=WHERE,
    )
    nnodes = optional(
        ("-N", "--nnodes"),
        "use only the first N hosts; with a scheduler, the number of nodes to request",
        "N",
        values.node_count,
        "all hosts",
        group=WHERE,
    )
    spare_nodes = defaulted(
        ("--spare-nodes", "--spare"),
        "keep the last N hosts as spares: one takes the place of a host that fails its checks at the start or is lost, "
        "and all ranks restart; with --nnodes, the N hosts after those",
        "N",
        values.whole,
        default="0",
        group=WHERE,
    )
    include = optional(
        ("--include",), "use only these hosts, in DeepSpeed's syntax: `n1@n2:0,2`", "HOSTS", values.text, group=WHERE
    )
    exclude = optional(
        ("--exclude",), "use all hosts but these, in DeepSpeed's syntax", "HOSTS", values.text, group=WHERE
    )
    ssh = defaulted(
        ("--ssh",), "ssh command, e.g. `ssh -p 2222 -J gateway`", "COMMAND", values.text, default="ssh", group=WHERE
    )
    lease = defaulted(
        ("--lease",),
        "how long a host keeps its ranks running after losing the controller",
        "DURATION",
        values.some_seconds,
        default="30s",
        group=WHERE,
    )
    scheduler = optional(
        ("--scheduler",),
        "run as a job of this scheduler on `--nnodes` nodes; inside an allocation, run on its nodes",
        "NAME",
        values.text,
        choices={name: row.title for name, row in SCHEDULERS.items()},
        group=WHERE,
    )
    of_schedulers = Included(*(options_of(name).run for name in SCHEDULERS))
    sync = flag(
        ("--sync",),
        "copy the code (files tracked by git, or the whole directory) to hosts that lack it: over rsync, or with "
        "--slurm into the run directory",
        group=WHERE,
    )
    no_code_check = flag(
        ("--no-code-check",),
        "start even if Python files differ between hosts: those tracked by git around the script, or, without git, "
        "those in the script's directory and the packages there that it imports; the script itself is always compared",
        group=WHERE,
    )
    snapshot = flag(
        ("--snapshot",),
        "run a copy of the code that is kept with the run, so that edits do not affect a queued or restarted run",
        group=WHERE,
    )
    code_limit = defaulted(
        ("--code-limit",),
        "maximum size, in MB, of code that --sync and --snapshot copy",
        "MB",
        values.positive,
        default="256",
        group=WHERE,
    )
    launcher = optional(
        ("--launcher",),
        "`fork` (ranks from one preloaded interpreter), `exec` (one process per rank), or an external launcher that "
        "`muster launchers` lists: torchrun, srun, mpirun, accelerate, deepspeed and others",
        "NAME",
        values.text,
        "fork for Python, otherwise exec",
        group=LAUNCHER,
    )
    launcher_args = optional(
        ("--launcher-args",),
        "arguments for an external launcher, e.g. `'--use-env'`",
        "ARGS",
        values.text,
        group=LAUNCHER,
    )
    python = repeated(
        ("--python",),
        "Python interpreter for ranks; `HOSTS:PATH` for some hosts, e.g. `n[1-3]:/opt/bin/python`; repeatable",
        "PATH",
        values.text,
        "the active environment, then .venv, then muster's own Python",
        group=LAUNCHER,
    )
    preload = repeated(
        ("--preload",),
        "modules to import once, before ranks are forked, e.g. `transformers,datasets`; repeatable",
        "MODULES",
        values.text,
        group=LAUNCHER,
    )
    setup = repeated(
        ("--setup",),
        "shell commands to run first, e.g. `module load cuda`; `HOSTS:COMMANDS` for some hosts; repeatable",
        "COMMANDS",
        values.text,
        group=LAUNCHER,
    )
    of_runtimes = Included(*(runtime(name).options for name in RUNTIMES))
    wrap = optional(
        ("--wrap",),
        "command to put before each rank's command, e.g. `nsys profile -o {rank}`; implies `--launcher exec`",
        "COMMAND",
        values.text,
        group=LAUNCHER,
    )
    nproc_per_node = optional(
        ("-g", "--nproc-per-node"),
        "ranks per node: a number, `gpu` (one per GPU), `cpu` (one per core) or `auto` (GPUs if any, otherwise cores)",
        "N",
        values.ranks_per_node,
        "one per GPU, or 1 without GPUs",
        choices={"gpu": "one per GPU", "cpu": "one per core", "auto": "GPUs if any, otherwise cores"},
        group=RANKS,
    )
    np = optional(
        ("-n", "--np", "-np"),
        "total number of ranks (world size); hosts are filled in order",
        "N",
        values.positive,
        group=RANKS,
    )
    module = flag(("-m", "--module"), "run a module instead of a script, like `python -m`", group=RANKS)
    no_python = flag(("--no-python",), "run a program instead of a Python script, like `-- COMMAND`", group=RANKS)
    cwd = optional(("--cwd",), "working directory of ranks", "PATH", values.text, "the current directory", group=RANKS)
    env = repeated(
        ("--env",),
        "environment variable for ranks: NAME=VALUE, or NAME or PREFIX* with the current values; repeatable",
        "NAME[=VALUE]",
        values.variable,
        group=RANKS,
    )
    role = defaulted(("--role",), "value of ROLE_NAME in ranks", "NAME", values.text, default=ROLE, group=RANKS)
    gpus = optional(
        ("--gpus",),
        "GPUs that ranks may use, e.g. `2,3`; with --slurm, the total number of GPUs",
        "LIST",
        values.text,
        group=RANKS,
    )
    numa_binding = optional(
        ("--numa-binding",),
        "how to bind ranks to cores: node, socket, exclusive or core-complex",
        "MODE",
        values.binding,
        choices=dict.fromkeys(values.BINDINGS, ""),
        group=RANKS,
    )
    stdin = optional(
        ("--stdin",),
        "rank that reads muster's stdin; for all others stdin is /dev/null",
        "RANK",
        values.whole,
        "the only rank, if there is one",
        group=RANKS,
    )
    max_restarts = defaulted(
        ("--max-restarts",),
        "restart all ranks up to N times after a failure",
        "N",
        values.whole,
        default="0",
        group=FAILURE,
    )
    always_restart = flag(
        ("--always-restart",),
        "use all of --max-restarts, even if a rank fails twice in the same way in the first minute of an attempt",
        group=FAILURE,
    )
    restart_delay = defaulted(
        ("--restart-delay",),
        "delay before the second restart in a row, which doubles up to 1m; the first restart, and one after an attempt "
        "that lasted a minute or more, are immediate",
        "DURATION",
        values.seconds,
        default=f"{RESTART_DELAY:g}s",
        group=FAILURE,
    )
    grace = defaulted(
        ("--grace", "--shutdown-timeout"),
        "grace period between SIGTERM and SIGKILL when terminating ranks; after Ctrl-C between SIGINT and "
        "SIGTERM, and SIGKILL follows within 5s",
        "DURATION",
        values.seconds,
        default=f"{GRACE:g}s",
        also=("TORCH_ELASTIC_SHUTDOWN_TIMEOUT",),
        group=FAILURE,
    )
    signals_to_handle = defaulted(
        ("--signals-to-handle",),
        "signals to forward to ranks that handle them, in addition to SIGUSR1 and SIGUSR2; SIGINT, SIGTERM and SIGHUP "
        "stop the run; without SIGQUIT in the list, SIGQUIT kills muster itself",
        "SIGNALS",
        values.signals,
        default=",".join(ENDING),
        also=("TORCHELASTIC_SIGNALS_TO_HANDLE",),
        group=FAILURE,
    )
    timeout = optional(
        ("--timeout",),
        "terminate the run after this time, with exit code 124",
        "DURATION",
        values.some_seconds,
        group=FAILURE,
    )
    hang_timeout = defaulted(
        ("--hang-timeout",),
        "report a hang when no rank makes progress for this time: no collectives, no output, no CPU time; 0 for never",
        "DURATION",
        values.seconds,
        default="5m",
        group=FAILURE,
    )
    on_hang = defaulted(
        ("--on-hang",),
        "what to do after --hang-timeout: warn, kill the run with exit code 124, or restart all ranks, which counts as "
        "a failure",
        "ACTION",
        values.on_hang,
        default="warn",
        choices=dict.fromkeys(OnHang, ""),
        group=FAILURE,
    )
    detach = flag(
        ("-d", "--detach"),
        "start the run independently of this terminal and return; see `muster attach`, `logs -f`, `wait` and `kill`",
        group=FAILURE,
    )
    name = optional(("--name",), "name of the run, for use instead of its id", "NAME", values.run_name, group=OUTPUT)
    run_dir = optional(("--run-dir",), "directory that contains all runs", "PATH", values.text, _HOME, group=OUTPUT)
    log_dir = optional(
        ("--log-dir",),
        "directory for links to the logs under torchrun's names, `RUN_NODE/attempt_0/LOCAL_RANK/stdout.log`",
        "PATH",
        values.text,
        group=OUTPUT,
    )
    keep_runs = optional(
        ("--keep-runs",),
        "delete the oldest finished runs at startup to keep at most N runs, including this one",
        "N",
        values.positive,
        "all",
        group=OUTPUT,
    )
    keep_size = optional(
        ("--keep-size",),
        "delete the oldest finished runs at startup to keep the total size of runs below this, e.g. `10G`",
        "SIZE",
        values.size,
        group=OUTPUT,
    )
    ranks = optional(
        ("--ranks", "--local-ranks-filter"),
        "show only the output of these ranks, e.g. `0,4-7`; the logs keep everything",
        "RANKS",
        values.ranks,
        "all",
        group=OUTPUT,
    )
    prefix = optional(
        ("--prefix",),
        "text before each line of output, with the fields {rank}, {local_rank}, {host}, {node} and {time}, or "
        "`{time:%H:%M}` for another time format",
        "TEXT",
        values.text,
        group=OUTPUT,
    )
    tty = flag(
        ("--tty",),
        "give ranks a pseudo-terminal, as wide as this one, as stdout and stderr",
        "only for a single rank on this machine, on a terminal",
        group=OUTPUT,
    )
    no_tty = flag(("--no-tty",), "let ranks write to their logs instead of a pseudo-terminal", group=OUTPUT)
    quiet = flag(("-q", "--quiet"), "print only errors, and no output of ranks", group=OUTPUT)
    json = flag(("--json",), "print events as JSON lines (machine-readable)", group=OUTPUT)
    show_env = flag(
        ("--show-env",),
        "show the values of environment variables in `muster plan`, with secrets redacted",
        group=OUTPUT,
    )
    profile = optional(
        ("--profile",), "read options from `[profile.NAME]` of muster.toml", "NAME", values.text, group=OUTPUT
    )
    help = HELP
    # options of torchrun, accepted for compatibility
    node_rank = optional(("--node-rank",), "", "N", values.text)
    standalone = flag(("--standalone",), "")
    rdzv_backend = optional(("--rdzv-backend",), "", "X", values.text)
    rdzv_endpoint = optional(("--rdzv-endpoint",), "", "X", values.text)
    rdzv_id = optional(("--rdzv-id",), "", "X", values.text)
    rdzv_conf = optional(("--rdzv-conf",), "", "X", values.text)
    monitor_interval = optional(("--monitor-interval",), "", "X", values.text)
    start_method = optional(("--start-method",), "", "X", values.text)
    event_log_handler = optional(("--event-log-handler",), "", "X", values.text)
    run_path = flag(("--run-path",), "")
    redirects = optional(("-r", "--redirects"), "", "X", values.streams)
    tee = optional(("-t", "--tee"), "", "X", values.streams)
    duplicate_stdout_filters = optional(("--duplicate-stdout-filters",), "", "X", values.text)
    duplicate_stderr_filters = optional(("--duplicate-stderr-filters",), "", "X", values.text)
    master_addr = optional(("--master-addr",), "", "X", values.text)
    master_port = optional(("--master-port",), "", "X", values.text)
    local_addr = optional(("--local-addr",), "", "X", values.text)
    logs_specs = optional(("--logs-specs",), "", "X", values.text)
    virtual_local_rank = flag(("--virtual-local-rank",), "")

    @property
    def nodes(self) -> int | None:
        """Minimum number of nodes given by `--nnodes`, or None."""
        return int(self.nnodes.partition(":")[0]) if self.nnodes is not None else None

    @property
    def scheduled(self) -> str:
        """Name of the scheduler that starts the run; empty for none."""
        return chosen(self)

    @property
    def elsewhere(self) -> bool:
        """True if hosts were named."""
        return self.hosts is not None or self.hostfile is not None


RUN = RunOptions.table
"""Options of `muster run` and `muster plan`."""

OF_TORCHRUN = frozenset(
    (
        *("--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--rdzv-conf"),
        *("--standalone", "--max-restarts", "--monitor-interval", "--start-method", "--event-log-handler"),
        *(
            "--role",
            "--module",
            "--no-python",
            "--run-path",
            "--log-dir",
            "--redirects",
            "--tee",
            "--local-ranks-filter",
        ),
        *("--duplicate-stdout-filters", "--duplicate-stderr-filters", "--node-rank", "--master-addr", "--master-port"),
        *("--local-addr", "--logs-specs", "--numa-binding", "--signals-to-handle", "--shutdown-timeout"),
        *("--virtual-local-rank",),
    )
)
"""Long options of torchrun. Its parser also accepts any unambiguous prefix of them."""


class PsOptions(FindOptions):
    """Options of `muster ps`."""

    all = flag(("-a", "--all"), "list all runs instead of the newest 20", group=OUTPUT)
    running = flag(("--running",), "list only runs that are running or pending", group=OUTPUT)
    failed = flag(("--failed",), "list only runs that finished with a nonzero exit code", group=OUTPUT)
    name = optional(("--name",), "list only runs with this name", "NAME", values.text, group=OUTPUT)
    json = _AS_JSON


class ShowOptions(FindOptions):
    """Options of `muster show`."""

    slow = flag(("--slow",), "show which ranks arrive late at the collectives, and why", group=OUTPUT)
    json = _AS_JSON


class DiffOptions(FindOptions):
    """Options of `muster diff`."""

    json = _AS_JSON


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

    json = _AS_JSON


class LaunchersOptions(RunDirOptions):
    """Options of `muster launchers`."""

    json = _AS_JSON


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
    nnodes = optional(
        ("-N", "--nnodes"),
        "check only the first N hosts; with a scheduler, the number of nodes to request",
        "N",
        values.positive,
        "all hosts",
        group=WHERE,
    )
    python = repeated(
        ("--python",),
        "Python interpreter for ranks; `HOSTS:PATH` for some hosts; repeatable",
        "PATH",
        values.text,
        group=LAUNCHER,
    )
    setup = repeated(
        ("--setup",),
        "shell commands to run first; `HOSTS:COMMANDS` for some hosts; repeatable",
        "COMMANDS",
        values.text,
        group=LAUNCHER,
    )
    cwd = optional(("--cwd",), "working directory of ranks", "PATH", values.text, "the current directory", group=RANKS)
    pass_file = optional(
        ("--pass-file",), "write hosts without errors to this file, for --hostfile", "PATH", values.text, group=OUTPUT
    )
    fail_file = optional(("--fail-file",), "write hosts with errors to this file", "PATH", values.text, group=OUTPUT)
    json = _AS_JSON

    @property
    def scheduled(self) -> str:
        """Name of the scheduler whose nodes are checked; empty for none."""
        return chosen(self)


class CompletionOptions(Options):
    """Options of `muster completion`."""

    help = HELP


class CleanOptions(RunDirOptions):
    """Options of `muster clean`."""

    hosts, hostfile, ssh = _HOSTS_OR_HERE
    python = optional(("--python",), "Python interpreter on the hosts", "PATH", values.text, "python3", group=LAUNCHER)
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

    json = _AS_JSON


class StacksOptions(FindOptions):
    """Options of `muster stacks`."""

    rank = optional(
        ("--rank", "--ranks"), "show only the stacks of these ranks, e.g. `0,4-7`", "RANKS", values.ranks, group=OUTPUT
    )
    all_threads = flag(("--all-threads",), "include idle threads of libraries", group=OUTPUT)


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


OF_CHECK = CheckOptions.table
CHECK = tuple(option for option in OF_CHECK if option not in RUN or option is HELP)
"""Options that only `muster check` has."""

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
    "completion": CompletionOptions,
    "clean": CleanOptions,
    "attach": AttachOptions,
    "kill": KillOptions,
    "why": WhyOptions,
    "stacks": StacksOptions,
    "rm": FindOptions,
    "prune": PruneOptions,
    "check": CheckOptions,
}
"""Options of each command."""


class LabOptions(Options):
    """Options of all `muster lab` commands."""

    lab_dir = defaulted(
        ("--lab-dir",), "directory of the lab", "PATH", values.text, default="/var/lib/muster-lab", group=OUTPUT
    )
    help = HELP


class LabUpOptions(LabOptions):
    """Options of `muster lab up`."""

    nodes = defaulted(
        ("--nodes",), "number of hosts in addition to the head node", "N", values.positive, default="3", group=RANKS
    )
    gpus = defaulted(
        ("--gpus",), "GPUs per node in the Slurm configuration", "N", values.whole, default="4", group=RANKS
    )
    cpus = defaulted(
        ("--cpus",), "cores per node in the Slurm configuration", "N", values.positive, default="8", group=RANKS
    )
    no_shared_home = flag(
        ("--no-shared-home",), "give each node a home directory of its own, empty at first", group=RANKS
    )
    share = optional(
        ("--share",), "directories in /tmp that all hosts share, `/tmp/a,/tmp/b`", "PATHS", values.text, group=RANKS
    )


class LabStatusOptions(LabOptions):
    """Options of `muster lab status`."""

    json = _AS_JSON


class LabUserOptions(LabOptions):
    """Options of `muster lab exec` and `muster lab shell`."""

    user = optional(("--user",), "run as this user: root or ada", "NAME", values.text, "root", group=RANKS)


class LabInstallOptions(Options):
    """Options of `muster lab install`."""

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
