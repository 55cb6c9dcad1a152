"""Options of `run`, and those that most commands share, each declared once; `command_options.py` has the others.

The parser, `--help`, completion, the keys of muster.toml, the environment variables, the reference and the option
records of commands are derived from these classes.
"""

from __future__ import annotations

from muster.config import values
from muster.config.record import LAUNCHER, WHERE, Included, Options, defaulted, flag, optional, repeated
from muster.core.model import AUTHENTICATED, ENDING, GRACE, OPEN, RESTART_DELAY, ROLE
from muster.core.results import OnHang
from muster.runtimes import RUNTIMES, runtime
from muster.schedulers import SCHEDULERS, chosen, options_of

RANKS, FAILURE, SWEEPS, OUTPUT = "Ranks", "Failure and shutdown", "Sweeps and chains", "Output"

HELP = flag(("-h", "--help"), "show this help", group=OUTPUT)
AS_JSON = flag(("--json",), "print JSON", group=OUTPUT)
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


def least_of(nnodes: str | None) -> int | None:
    """Return the minimum number of nodes that `--nnodes` gives, or None."""
    return int(nnodes.partition(":")[0]) if nnodes is not None else None


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
    on = optional(
        ("--on",),
        "session to run on: its hosts, its ranks and its preloaded interpreters; see `muster hold`",
        "NAME",
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
        "and all ranks restart; with --nnodes, the N hosts after those; in a job that muster submits, N nodes more",
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
    rendezvous = defaulted(
        ("--rendezvous",),
        "how ranks on other hosts reach the TCPStore: at a port of the first host, or with `authenticated` through "
        "muster's own connections, so that the port listens on 127.0.0.1 only; see `muster docs security`",
        "MODE",
        values.rendezvous,
        default=OPEN,
        choices={OPEN: "at a port of the first host", AUTHENTICATED: "through muster's authenticated connections"},
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
        "copy the code (files tracked by git, or the whole directory) to hosts that lack it: over rsync, or in a job "
        "of a scheduler into the run directory",
        group=WHERE,
    )
    ship_env = flag(
        ("--ship-env",),
        "copy the Python environment to the local disk of hosts that lack it, from host to host: the active virtual "
        "environment or conda environment, or that of --python; see `muster docs environments`",
        group=WHERE,
    )
    env_dir = optional(
        ("--env-dir",),
        "directory on the hosts for environments of --ship-env",
        "PATH",
        values.text,
        "muster-envs-UID in TMPDIR or /var/tmp",
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
    no_auto_preload = flag(
        ("--no-auto-preload",),
        "import nothing before ranks are forked but torch and --preload; by default also what the script imports "
        "first, as far as the last run of it shows that this makes no difference",
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
    role = defaulted(
        ("--role",),
        "name of the ranks' role (ROLE_NAME); several programs, each with its options, are separated by ` : `, e.g. "
        "`--role trainer -N 2 train.py : --role rollout serve.py`",
        "NAME",
        values.text,
        default=ROLE,
        group=RANKS,
    )
    all_roles = flag(("--all-roles",), "run the programs of all tables `[roles.NAME]` of muster.toml", group=RANKS)
    main = flag(
        ("--main",),
        "finish the run once all ranks of this role have succeeded, and terminate those of other roles",
        group=RANKS,
    )
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
        "time for ranks to exit after SIGTERM, before SIGKILL; after Ctrl-C, time to exit after SIGINT, before "
        "SIGTERM and, within 5s, SIGKILL",
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
    on_end = optional(
        ("--on-end",),
        "shell command to run once after the run, whether it succeeded, failed or was lost; it reads JSON from stdin",
        "COMMAND",
        values.text,
        group=FAILURE,
    )
    detach = flag(
        ("-d", "--detach"),
        "start the run independently of this terminal and return; see `muster attach`, `logs -f`, `wait` and `kill`",
        group=FAILURE,
    )
    sweep = repeated(
        ("--sweep",),
        "run once for each value of a parameter, which replaces {NAME} in the arguments, e.g. `lr=0.1,0.01` or "
        "`seed=1-4`; repeatable, for all combinations",
        "NAME=VALUES",
        values.parameter,
        group=SWEEPS,
    )
    array = optional(
        ("--array",),
        "run once for each number, which replaces {index} in the arguments, e.g. `0-7`; `0-7%2` for two at a time",
        "NUMBERS",
        values.array,
        group=SWEEPS,
    )
    max_parallel = optional(
        ("--max-parallel",),
        "how many points (the runs of a sweep) run at the same time",
        "N",
        values.positive,
        "1; in a scheduler's queue, no limit",
        group=SWEEPS,
    )
    chain = optional(
        ("--chain",),
        "run N times, each part after the previous one has succeeded or reached its time limit; a failure cancels the "
        "rest",
        "N",
        values.positive,
        group=SWEEPS,
    )
    after = repeated(
        ("--after",),
        "start after another run: `RUN` or `RUN:ok` once it has succeeded, `RUN:failed` once it has not, `RUN:any` in "
        "any case; repeatable",
        "RUN",
        values.text,
        group=SWEEPS,
    )
    resubmit = optional(
        ("--resubmit",),
        "run points of an existing sweep again, which is named in place of the script: those that `failed`, or `all` "
        "finished ones",
        "POINTS",
        values.resubmit,
        choices={"failed": "those that did not succeed", "all": "all finished ones"},
        group=SWEEPS,
    )
    name = optional(
        ("--name",), "name of the run or session, for use instead of its id", "NAME", values.run_name, group=OUTPUT
    )
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
        return least_of(self.nnodes)

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
