"""Every option, written once. From these classes come the parser, `--help`, completion, the keys of muster.toml, the
environment variables, the reference and the records that commands get."""

from __future__ import annotations

from collections.abc import Mapping

from muster.config import values
from muster.config.record import HOW, WHERE, Included, Options, defaulted, flag, optional, repeated
from muster.core.model import ENDING, GRACE, ROLE
from muster.runtimes import RUNTIMES, runtime
from muster.schedulers import SCHEDULERS, chosen, options_of

RANKS, ENDS, SHOWS = "the ranks", "how it ends", "what is shown and kept"

HELP = flag(("-h", "--help"), "show this and leave", group=SHOWS)
_AS_JSON = flag(("--json",), "as JSON", group=SHOWS)
_HOME = "$MUSTER_HOME or ~/.muster"
_THIS_ONE = "this one"


class RunDirOptions(Options):
    """The options of a command that knows where runs are kept."""

    run_dir = optional(("--run-dir",), "where runs are kept", "DIR", values.text, _HOME, group=SHOWS)
    help = HELP


class FindOptions(RunDirOptions):
    """The options of a command that finds runs."""

    run_dir = optional(
        ("--run-dir",),
        "find runs in this directory only",
        "DIR",
        values.text,
        "all that you started are found",
        group=SHOWS,
    )


class RunOptions(RunDirOptions):
    """`muster run` and `muster plan`."""

    hosts = optional(
        ("-H", "--hosts", "--host"),
        "machines to reach by ssh: `n1,n[2-4],gpu5:4,gpu6:0,1` (4 ranks on gpu5; GPUs 0 and 1 of gpu6)",
        "HOSTS",
        values.text,
        group=WHERE,
    )
    hostfile = optional(
        ("--hostfile",),
        "the same from a file, a host a line: `n1 slots=4` or `n1:4`, `#` for comments",
        "FILE",
        values.text,
        group=WHERE,
    )
    nnodes = optional(("-N", "--nnodes"), "the first so many of them", "N", values.node_count, group=WHERE)
    include = optional(
        ("--include",), "only these of them, as DeepSpeed writes it: `n1@n2:0,2`", "HOSTS", values.text, group=WHERE
    )
    exclude = optional(("--exclude",), "all of them but these", "HOSTS", values.text, group=WHERE)
    ssh = defaulted(
        ("--ssh",), "the words of ssh, such as `ssh -p 2222 -J gate`", "WORDS", values.text, default="ssh", group=WHERE
    )
    lease = defaulted(
        ("--lease",),
        "for how long a host keeps its ranks when the connection to it breaks",
        "TIME",
        values.some_seconds,
        default="30s",
        group=WHERE,
    )
    scheduler = optional(
        ("--scheduler",),
        "as a job of this scheduler, on `--nnodes` nodes; inside an allocation, on its nodes",
        "NAME",
        values.text,
        choices={name: row.title for name, row in SCHEDULERS.items()},
        group=WHERE,
    )
    of_schedulers = Included(*(options_of(name).run for name in SCHEDULERS))
    sync = flag(
        ("--sync",),
        "bring the code (what git tracks, or all of the folder) to hosts that do not have it: by rsync, "
        "with --slurm as a copy in the run directory",
        group=WHERE,
    )
    no_code_check = flag(
        ("--no-code-check",),
        "start although Python files differ between hosts: in what git tracks around the script, or, without git, in "
        "the script's folder and the packages there that it imports; the script itself is always compared",
        group=WHERE,
    )
    snapshot = flag(
        ("--snapshot",),
        "run a copy of the code, kept with the run: edits do not reach a run that waits or starts again",
        group=HOW,
    )
    code_limit = defaulted(
        ("--code-limit",),
        "megabytes of code beyond which --sync and --snapshot refuse",
        "MB",
        values.positive,
        default="256",
        group=HOW,
    )
    nproc_per_node = optional(
        ("-g", "--nproc-per-node"),
        "ranks on each machine: a number, `gpu` (one a GPU), `cpu` (one a core) or `auto` (GPUs if there "
        "are any, else cores)",
        "N",
        values.ranks_per_node,
        "one a GPU, or one",
        choices={"gpu": "one a GPU", "cpu": "one a core", "auto": "GPUs if there are any, else cores"},
        group=RANKS,
    )
    np = optional(
        ("-n", "--np", "-np"), "ranks in all; hosts are filled up in their order", "N", values.positive, group=RANKS
    )
    module = flag(("-m", "--module"), "the script is a module, as with `python -m`", group=RANKS)
    no_python = flag(
        ("--no-python",), "the script is a program of its own, not Python; the same as `-- COMMAND`", group=RANKS
    )
    launcher = optional(
        ("--launcher",),
        "`fork` (from one warmed interpreter; the default for Python), `exec` (a plain process each), or "
        "one of those that `muster launchers` lists: torchrun, srun, mpirun, accelerate, deepspeed and "
        "others",
        "NAME",
        values.text,
        group=HOW,
    )
    launcher_args = optional(
        ("--launcher-args",), "words for such a launcher, `'--use-env'`", "WORDS", values.text, group=HOW
    )
    python = repeated(
        ("--python",),
        "the Python of the ranks; for some hosts only: `n[1-3]:/opt/bin/python`; may be repeated",
        "PATH",
        values.text,
        group=HOW,
    )
    preload = repeated(
        ("--preload",),
        "modules to import once, before the ranks are forked: `transformers,datasets`",
        "NAMES",
        values.text,
        group=HOW,
    )
    setup = repeated(
        ("--setup",),
        "shell lines to run first, such as `module load cuda`, or `n1:module load cuda`; may be repeated",
        "LINES",
        values.text,
        group=HOW,
    )
    of_runtimes = Included(*(runtime(name).options for name in RUNTIMES))
    wrap = optional(
        ("--wrap",),
        "words before each rank's command, such as `nsys profile -o {rank}` (launcher exec)",
        "WORDS",
        values.text,
        group=HOW,
    )
    cwd = optional(("--cwd",), "the folder in which the ranks start", "DIR", values.text, group=RANKS)
    env = repeated(
        ("--env",),
        "a variable for the ranks: NAME=VALUE, NAME as it is here, PREFIX*; may be repeated",
        "NAME[=VALUE]",
        values.variable,
        group=RANKS,
    )
    role = defaulted(("--role",), "ROLE_NAME of the ranks", "NAME", values.text, default=ROLE, group=RANKS)
    gpus = optional(
        ("--gpus",),
        "the GPUs that the ranks may use, such as `2,3`; with `--slurm` how many in all",
        "LIST",
        values.text,
        group=RANKS,
    )
    numa_binding = optional(
        ("--numa-binding",),
        "bind ranks to cores: node, socket, exclusive or core-complex",
        "MODE",
        values.binding,
        choices=dict.fromkeys(values.BINDINGS, ""),
        group=RANKS,
    )
    stdin = optional(
        ("--stdin",),
        "the rank that reads the stdin of muster",
        "RANK",
        values.whole,
        "a rank that is alone; others find none",
        group=RANKS,
    )
    max_restarts = defaulted(
        ("--max-restarts",),
        "after a failure start all ranks again, at most so many times",
        "N",
        values.whole,
        default="0",
        group=ENDS,
    )
    grace = defaulted(
        ("--grace", "--shutdown-timeout"),
        "time between SIGTERM and SIGKILL when muster ends a rank",
        "TIME",
        values.seconds,
        default=f"{GRACE:g}s",
        also=("TORCH_ELASTIC_SHUTDOWN_TIMEOUT",),
        group=ENDS,
    )
    signals_to_handle = defaulted(
        ("--signals-to-handle",),
        "signals, beside SIGUSR1 and SIGUSR2, that muster passes on to the ranks that catch them; SIGINT, "
        "SIGTERM and SIGHUP end the run, and so does SIGQUIT, which kills muster itself where this is "
        "given without it",
        "NAMES",
        values.signals,
        default=",".join(ENDING),
        also=("TORCHELASTIC_SIGNALS_TO_HANDLE",),
        group=ENDS,
    )
    timeout = optional(
        ("--timeout",), "end the run after this time, with exit status 124", "TIME", values.some_seconds, group=ENDS
    )
    detach = flag(
        ("-d", "--detach"),
        "start it and leave: it goes on without this terminal; see `muster attach`, `logs -f`, `wait`, `kill`",
        group=ENDS,
    )
    name = optional(("--name",), "a name by which to find the run again", "NAME", values.run_name, group=SHOWS)
    run_dir = optional(("--run-dir",), "where runs are kept", "DIR", values.text, _HOME, group=SHOWS)
    log_dir = optional(
        ("--log-dir",),
        "links there to the logs, by torchrun's names: `RUN_NODE/attempt_0/LOCAL_RANK/stdout.log`",
        "DIR",
        values.text,
        group=SHOWS,
    )
    keep_runs = optional(
        ("--keep-runs",),
        "at the start delete old runs that have ended, so that the newest N are left, this one among them",
        "N",
        values.positive,
        "all stay",
        group=SHOWS,
    )
    keep_size = optional(
        ("--keep-size",),
        "at the start delete the oldest runs that have ended, so that all have so much together, such as `10G`",
        "SIZE",
        values.size,
        group=SHOWS,
    )
    ranks = optional(
        ("--ranks", "--local-ranks-filter"),
        "show only the lines of these ranks, `0,4-7`; all are kept",
        "RANKS",
        values.ranks,
        group=SHOWS,
    )
    prefix = optional(
        ("--prefix",),
        "what stands before each line: `{rank} {local_rank} {host} {node} {time}` are filled in; "
        "`{time:%H:%M}` is a time in another form",
        "TEXT",
        values.text,
        group=SHOWS,
    )
    tty = flag(
        ("--tty",),
        "ranks have a pseudo-terminal as stdout and stderr, as wide as this one; the default for a rank "
        "that is alone, here, on a terminal",
        group=SHOWS,
    )
    no_tty = flag(("--no-tty",), "no such terminal: ranks write into their logs", group=SHOWS)
    quiet = flag(("-q", "--quiet"), "show no lines of ranks, and words only when it fails", group=SHOWS)
    json = flag(("--json",), "show events as JSON lines, for machines", group=SHOWS)
    show_env = flag(
        ("--show-env",), "with `muster plan`: the values of variables too; those of secrets stay hidden", group=SHOWS
    )
    profile = optional(
        ("--profile",), "a `[profile.NAME]` of muster.toml to take options from", "NAME", values.text, group=SHOWS
    )
    help = HELP
    # torchrun's, for lines that were written for it
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
        """How many nodes `--nnodes` asks for, at least."""
        return int(self.nnodes.partition(":")[0]) if self.nnodes is not None else None

    @property
    def scheduled(self) -> str:
        """The scheduler by which the run is started; empty for none."""
        return chosen(self)

    @property
    def elsewhere(self) -> bool:
        """Whether the ranks run on hosts that were named."""
        return self.hosts is not None or self.hostfile is not None


RUN = RunOptions.table
"""The options of `muster run` and `muster plan`."""

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
"""The long options of torchrun, which its parser takes by any beginning that fits one of them alone."""


class PsOptions(FindOptions):
    """`muster ps`."""

    all = flag(("-a", "--all"), "all runs, not only the newest 20", group=SHOWS)
    running = flag(("--running",), "only runs that are running or pending", group=SHOWS)
    failed = flag(("--failed",), "only runs that ended with another status than 0", group=SHOWS)
    name = optional(("--name",), "only runs of this name", "NAME", values.text, group=SHOWS)
    json = _AS_JSON


class ShowOptions(FindOptions):
    """`muster show`."""

    json = _AS_JSON


class LogsOptions(FindOptions):
    """`muster logs`."""

    follow = flag(("-f", "--follow"), "go on as they grow, until the run ends", group=SHOWS)
    rank = optional(("--rank", "--ranks"), "only these ranks, `0,4-7`", "RANKS", values.ranks, group=SHOWS)
    stderr = flag(("--stderr",), "only what went to stderr", group=SHOWS)
    stdout = flag(("--stdout",), "only what went to stdout", group=SHOWS)
    since = optional(
        ("--since",),
        "only what was written in the last so much time, such as `10m`",
        "TIME",
        values.seconds,
        group=SHOWS,
    )
    tail = optional(
        ("--tail",), "only the last N lines of what is asked for, over all its ranks", "N", values.whole, group=SHOWS
    )
    timestamps = flag(("--timestamps",), "when each line was written, before it", group=SHOWS)
    attempt = optional(("--attempt",), "of this attempt", "N", values.whole, "the last", group=SHOWS)
    prefix = optional(
        ("--prefix",),
        "what stands before each line, such as `{time} {rank}: `; as with `muster run`",
        "TEXT",
        values.text,
        group=SHOWS,
    )


class WaitOptions(FindOptions):
    """`muster wait`."""

    timeout = optional(("--timeout",), "wait no longer than this", "TIME", values.seconds, group=ENDS)


_LOOKED_AT = (
    optional(("-H", "--hosts"), "machines to look at", "HOSTS", values.text, _THIS_ONE, group=WHERE),
    optional(("--hostfile",), "the same from a file", "FILE", values.text, group=WHERE),
    defaulted(("--ssh",), "the words of ssh", "WORDS", values.text, default="ssh", group=WHERE),
)


class NodesOptions(RunDirOptions):
    """`muster nodes`."""

    json = _AS_JSON


class LaunchersOptions(RunDirOptions):
    """`muster launchers`."""

    json = _AS_JSON


class DoctorOptions(RunDirOptions):
    """`muster doctor`."""

    hosts, hostfile, ssh = _LOOKED_AT
    scheduler = optional(
        ("--scheduler",),
        "nodes of this scheduler; inside an allocation its nodes, without being asked",
        "NAME",
        values.text,
        choices={name: row.title for name, row in SCHEDULERS.items()},
        group=WHERE,
    )
    of_schedulers = Included(*(options_of(name).doctor for name in SCHEDULERS))
    nnodes = optional(("-N", "--nnodes"), "so many of them", "N", values.positive, group=WHERE)
    python = repeated(
        ("--python",), "the Python of the ranks; `HOSTS:PATH` for some hosts", "PATH", values.text, group=HOW
    )
    setup = repeated(
        ("--setup",),
        "shell lines to run first; `HOSTS:LINES` for some; may be repeated",
        "LINES",
        values.text,
        group=HOW,
    )
    cwd = optional(("--cwd",), "the folder in which the ranks would start", "DIR", values.text, group=RANKS)
    pass_file = optional(
        ("--pass-file",), "write the hosts that may be used there, for --hostfile", "FILE", values.text, group=SHOWS
    )
    fail_file = optional(("--fail-file",), "and the others there", "FILE", values.text, group=SHOWS)
    json = _AS_JSON

    @property
    def scheduled(self) -> str:
        """The scheduler whose nodes are looked at; empty for none."""
        return chosen(self)


class CompletionOptions(Options):
    """`muster completion`."""

    help = HELP


class CleanOptions(RunDirOptions):
    """`muster clean`."""

    hosts, hostfile, ssh = _LOOKED_AT
    python = optional(("--python",), "the Python there", "PATH", values.text, "`python3`", group=HOW)
    dry_run = flag(("-n", "--dry-run"), "only list what there is", group=SHOWS)


class AttachOptions(FindOptions):
    """`muster attach`."""

    ranks = optional(("--ranks",), "show only the lines of these ranks, `0,4-7`", "RANKS", values.ranks, group=SHOWS)
    all = flag(("--all",), "from the first line on, not only the last few", group=SHOWS)
    prefix = optional(
        ("--prefix",), "what stands before each line, such as `{rank}: `", "TEXT", values.text, group=SHOWS
    )
    json = flag(("--json",), "show events as JSON lines, for machines", group=SHOWS)


class KillOptions(FindOptions):
    """`muster kill`."""

    all = flag(("--all",), "all your runs that are running or pending", group=ENDS)
    yes = flag(("-y", "--yes"), "with --all: ask no question; without a terminal it is needed", group=ENDS)


class StacksOptions(FindOptions):
    """`muster stacks`."""

    rank = optional(("--rank", "--ranks"), "only these ranks, `0,4-7`", "RANKS", values.ranks, group=SHOWS)


class PruneOptions(RunDirOptions):
    """`muster prune`."""

    older_than = optional(
        ("--older-than",), "runs that began longer ago than this, such as `30d`", "AGE", values.age, group=ENDS
    )
    keep = defaulted(("--keep",), "keep the newest N runs, however old", "N", values.whole, default="0", group=ENDS)
    dry_run = flag(("-n", "--dry-run"), "only list what would go", group=SHOWS)
    yes = flag(("-y", "--yes"), "ask no question; without a terminal it is needed", group=SHOWS)


class CheckOptions(RunOptions):
    """`muster check`: where and how are said as for `run`."""

    backend = optional(
        ("--backend",),
        "gloo or nccl",
        "NAME",
        values.backend,
        "nccl where there are GPUs",
        choices={"gloo": "for CPUs", "nccl": "for GPUs"},
        group=HOW,
    )
    timeout = defaulted(
        RunOptions.timeout.names,
        "end the check after this time, with exit status 124",
        "TIME",
        values.some_seconds,
        default="10m",
        group=ENDS,
    )
    html = optional(
        ("--html",), "write the page there, too; it is always kept with the run", "FILE", values.text, group=SHOWS
    )
    json = flag(("--json",), "print the whole result as JSON", group=SHOWS)
    help = HELP


OF_CHECK = CheckOptions.table
CHECK = tuple(option for option in OF_CHECK if option not in RUN or option is HELP)
"""The options that `muster check` has of its own."""

COMMANDS: Mapping[str, type[Options]] = {
    "run": RunOptions,
    "plan": RunOptions,
    "ps": PsOptions,
    "show": ShowOptions,
    "logs": LogsOptions,
    "wait": WaitOptions,
    "nodes": NodesOptions,
    "launchers": LaunchersOptions,
    "doctor": DoctorOptions,
    "completion": CompletionOptions,
    "clean": CleanOptions,
    "attach": AttachOptions,
    "kill": KillOptions,
    "stacks": StacksOptions,
    "rm": FindOptions,
    "prune": PruneOptions,
    "check": CheckOptions,
}
"""The options of each command."""


class LabOptions(Options):
    """The options of all actions of `muster lab`."""

    lab_dir = defaulted(
        ("--lab-dir",), "where the lab's files lie", "DIR", values.text, default="/var/lib/muster-lab", group=SHOWS
    )
    help = HELP


class LabUpOptions(LabOptions):
    """`muster lab up`."""

    nodes = defaulted(("--nodes",), "hosts beside the head", "N", values.positive, default="3", group=RANKS)
    gpus = defaulted(("--gpus",), "GPUs a node, as Slurm counts them", "N", values.whole, default="4", group=RANKS)
    cpus = defaulted(("--cpus",), "cores a node, as Slurm counts them", "N", values.positive, default="8", group=RANKS)
    no_shared_home = flag(("--no-shared-home",), "each node has a home of its own, empty at first", group=RANKS)
    share = optional(
        ("--share",), "directories in /tmp that all hosts are to see, `/tmp/a,/tmp/b`", "DIRS", values.text, group=RANKS
    )


class LabStatusOptions(LabOptions):
    """`muster lab status`."""

    json = _AS_JSON


class LabUserOptions(LabOptions):
    """`muster lab exec` and `muster lab shell`."""

    user = optional(("--user",), "as this user: root or ada", "NAME", values.text, group=RANKS)


class LabInstallOptions(Options):
    """`muster lab install`."""

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
"""The options of `muster lab …`."""
