"""Every option, written once. From this table come the parser, `--help`, the keys of muster.toml, the variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from muster.errors import Impossible
from muster.model import GRACE
from muster.nearest import nearest
from muster.ranks import unfold


def _text(value: str) -> str:
    return value


_LARGEST = 1_000_000
"""No count is larger; what is would only fill memory before it fails."""


def _digits(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 18


def _whole(value: str) -> int:
    if not _digits(value) or int(value) > _LARGEST:
        raise ValueError(f"a whole number up to {_LARGEST}")
    return int(value)


def _positive(value: str) -> int:
    if not _digits(value) or not 0 < int(value) <= _LARGEST:
        raise ValueError(f"a whole number from 1 to {_LARGEST}")
    return int(value)


def _nodes(value: str) -> str:
    few, colon, many = value.partition(":")
    if not all(_digits(number) and 0 < int(number) <= _LARGEST for number in ((few, many) if colon else (few,))):
        raise ValueError(f"a whole number from 1 to {_LARGEST}")
    return value


def _ranks_per_node(value: str) -> str:
    if value not in ("auto", "cpu", "gpu"):
        _positive_or_word(value)
    return value


def _positive_or_word(value: str) -> None:
    if not _digits(value) or not 0 < int(value) <= _LARGEST:
        raise ValueError(f"a whole number from 1 to {_LARGEST}, or `auto`, `gpu` or `cpu`")


def _seconds(value: str) -> float:
    """`90`, `1.5`, `10m`, `1h30m`, `2d`."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    value = value if len(value) < 64 else ""  # no time is so long, and reading one would take its time
    pieces = re.findall(r"([0-9]+(?:\.[0-9]+)?)([dhms])", value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        pieces = [(value, "s")]
    elif not pieces or "".join(number + unit for number, unit in pieces) != value:
        raise ValueError("a time such as `90`, `10m` or `1h30m`")
    seconds = sum(float(number) * units[unit] for number, unit in pieces)
    if seconds > _LONGEST * units["d"]:
        raise ValueError(f"a time up to {_LONGEST}d")
    return seconds


_LONGEST = 3650
"""Days that a time may have. Clocks and the kernel's timers count seconds in numbers that end somewhere."""


def _ranks(value: str) -> tuple[int, ...]:
    try:
        return unfold(value)
    except Impossible:
        raise ValueError("a list of ranks such as `0,4-7`") from None


BINDINGS = ("node", "socket", "exclusive", "core-complex")
"""How ranks may be bound to cores."""


def _binding(value: str) -> str:
    if value not in BINDINGS:
        raise ValueError("one of " + ", ".join(BINDINGS))
    return value


def _backend(value: str) -> str:
    if value not in ("gloo", "nccl"):
        raise ValueError("`gloo` or `nccl`")
    return value


def _streams(value: str) -> str:
    """What torchrun's --redirects and --tee take."""
    if not re.fullmatch(r"[0-3]|\d+:[0-3](,\d+:[0-3])*", value):
        raise ValueError("0 to 3, or such a number for some ranks, `0:3,1:2`; -t is a time limit with `--slurm`")
    return value


def _variable(value: str) -> str:
    name, equals, _ = value.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*" + ("" if equals else r"\*?"), name):
        raise ValueError("NAME, NAME=VALUE or PREFIX*")
    return value


def _signals(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not all(re.fullmatch(r"SIG[A-Z]{2,6}[0-9]?", name) for name in names):
        raise ValueError("a list of signals, such as `SIGURG,SIGUSR1`")
    return names


def _warning(value: str) -> tuple[str, float]:
    name, at, time = value.rpartition("@")
    name = name.upper().removeprefix("SIG") if at else "USR1"
    if name not in ("USR1", "USR2", "HUP", "INT", "QUIT", "TERM", "URG"):
        raise ValueError("a signal and a time, such as `USR2@60`")
    return name, _seconds(time)


def _name_of_run(value: str) -> str:
    if value in ("", "last") or value.startswith("-") or not {"/", ":"}.isdisjoint(value):
        raise ValueError(
            "a name of a run, which is not empty and not `last`, begins with no hyphen, and holds no `/` and `:`"
        )
    return value


def _age(value: str) -> float:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and float(value) != 0:
        raise ValueError(f"a time with its unit, such as `{value}d` or `{value}h`")
    return _seconds(value)


def _some_time(value: str) -> float:
    seconds = _seconds(value)
    if not seconds:
        raise ValueError("a time above 0, such as `90`, `10m` or `1h30m`")
    return seconds


def _size(value: str) -> int:
    """Bytes: `500M`, `1.5T`, with or without `B` or `iB`; of 1024."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMGT])(?:i?B)?", value, re.IGNORECASE)
    size = int(float(found[1]) * (1 << 10 * ("KMGT".index(found[2].upper()) + 1))) if found else 0
    if not size:
        raise ValueError("a size with its unit, such as `500M` or `10G`")
    return size


class Option(NamedTuple):
    """One option of one or more commands."""

    names: tuple[str, ...]
    """As typed; the first long one gives the key. Hyphens may be underscores."""
    help: str
    metavar: str = ""
    """What its value is called; empty for an option without a value."""
    read: Callable[[str], Any] = _text
    """Turns the typed text into a value; raises `ValueError` with what was expected."""
    default: Any = None
    many: bool = False
    """It may be given several times, and its value is a list."""
    also: tuple[str, ...] = ()
    """Variables of other programs that set it where none of ours does."""
    group: str = ""
    """The heading under which `--help` shows it; empty for an option of torchrun that says nothing here."""

    @property
    def key(self) -> str:
        """Its key in muster.toml, and, in capitals after MUSTER_, its variable."""
        long = next((name for name in self.names if name.startswith("--")), self.names[0])
        return long.lstrip("-").replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that set it. PET_… is what torchrun reads."""
        if not self.metavar and self.key in ("help",):
            return ()
        keys = [name.lstrip("-").replace("-", "_").upper() for name in self.names if name.startswith("--")]
        return (f"MUSTER_{self.key.upper()}", *(f"PET_{key}" for key in keys), *self.also)


WHERE = "where the ranks run, this machine without these"
HOW, RANKS, ENDS, SHOWS = "what starts the ranks", "the ranks", "how it ends", "what is shown and kept"

HELP = Option(("-h", "--help"), "show this and leave", group=SHOWS)

RUN: tuple[Option, ...] = (
    Option(
        ("-H", "--hosts", "--host"),
        "machines to reach by ssh: `n1,n[2-4],gpu5:4,gpu6:0,1` (4 ranks on gpu5; GPUs 0 and 1 of gpu6)",
        "HOSTS",
        group=WHERE,
    ),
    Option(
        ("--hostfile",),
        "the same from a file, a host a line: `n1 slots=4` or `n1:4`, `#` for comments",
        "FILE",
        group=WHERE,
    ),
    Option(("-N", "--nnodes"), "the first so many of them", "N", _nodes, group=WHERE),
    Option(("--include",), "only these of them, as DeepSpeed writes it: `n1@n2:0,2`", "HOSTS", group=WHERE),
    Option(("--exclude",), "all of them but these", "HOSTS", group=WHERE),
    Option(("--ssh",), "the words of ssh, such as `ssh -p 2222 -J gate`", "WORDS", group=WHERE),
    Option(
        ("--lease",),
        "for how long a host keeps its ranks when the connection to it breaks, 30 s without it",
        "TIME",
        _some_time,
        30.0,
        group=WHERE,
    ),
    Option(("--slurm",), "as a job of Slurm on `--nnodes` nodes; inside an allocation, on its nodes", group=WHERE),
    Option(("--partition",), "of Slurm: the partition", "NAME", group=WHERE),
    Option(("--account",), "of Slurm: the account", "NAME", group=WHERE),
    Option(("--qos",), "of Slurm: the quality of service", "NAME", group=WHERE),
    Option(("--time",), "of Slurm: the time limit, `4:00:00`", "LIMIT", group=WHERE),
    Option(("--mem",), "of Slurm: memory of each node, `64G`", "SIZE", group=WHERE),
    Option(("--nodelist",), "of Slurm: these nodes", "NODES", group=WHERE),
    Option(("--constraint",), "of Slurm: features of the nodes", "LIST", group=WHERE),
    Option(("--comment",), "of Slurm: a comment", "TEXT", group=WHERE),
    Option(("--reservation",), "of Slurm: a reservation", "NAME", group=WHERE),
    Option(("--gpus-per-node",), "of Slurm: GPUs of each node, `8` or `a100:8`", "N", group=WHERE),
    Option(("--gres",), "of Slurm: the same as `gpu:8`", "LIST", group=WHERE),
    Option(("--gpus-per-task",), "of Slurm: GPUs of each rank, only 1", "N", _positive, group=WHERE),
    Option(("--dependency",), "of Slurm: start after other jobs, `afterok:1234`", "LIST", group=WHERE),
    Option(("--mail-type",), "of Slurm: events to send mail about, `END,FAIL`", "LIST", group=WHERE),
    Option(("--mail-user",), "of Slurm: where to send it", "ADDRESS", group=WHERE),
    Option(("--cpus-per-task",), "of Slurm: cores of each node, one a rank without it", "N", _positive, group=WHERE),
    Option(("--exclusive",), "of Slurm: whole nodes", group=WHERE),
    Option(
        ("--signal-before",),
        "of Slurm: so long before the time limit ranks that catch SIGUSR1 get it; without it 120 s, or a quarter of a "
        "limit below 8 minutes; 0 for never; another signal: `USR2@60`",
        "[SIG@]TIME",
        _warning,
        ("USR1", 120.0),
        group=WHERE,
    ),
    Option(
        ("--requeue",),
        "of Slurm: when the time is over or the job had to make room, go on as the next attempt, at most so many times",
        "N",
        _whole,
        0,
        group=WHERE,
    ),
    Option(
        ("--output",),
        "of Slurm: a file for the output of all ranks, or with `%t` of each, named by Slurm's patterns: `%x-%j.%t.out`",
        "PATTERN",
        group=WHERE,
    ),
    Option(
        ("--error",), "of Slurm: the same for stderr alone, which else goes where --output says", "PATTERN", group=WHERE
    ),
    Option(
        ("--slurm-opt",), "any other option of sbatch, `NAME=VALUE`; may be repeated", "OPT", many=True, group=WHERE
    ),
    Option(
        ("--sync",),
        "bring the code (what git tracks, or all of the folder) to hosts that do not have it: by rsync, with --slurm "
        "as a copy in the run directory",
        group=WHERE,
    ),
    Option(
        ("--no-code-check",),
        "start although Python files differ between hosts: in what git tracks around the script, or, without git, in "
        "the script's folder and the packages there that it imports; the script itself is always compared",
        group=WHERE,
    ),
    Option(
        ("--snapshot",),
        "run a copy of the code, kept with the run: edits do not reach a run that waits or starts again",
        group=HOW,
    ),
    Option(
        ("--code-limit",),
        "megabytes of code beyond which --sync and --snapshot refuse, 256 without it",
        "MB",
        _positive,
        256,
        group=HOW,
    ),
    Option(
        ("-g", "--nproc-per-node"),
        "ranks on each machine: a number, `gpu` (one a GPU), `cpu` (one a core) or `auto` (GPUs if there are any, else "
        "cores); without it one a GPU, or one",
        "N",
        _ranks_per_node,
        group=RANKS,
    ),
    Option(("-n", "--np", "-np"), "ranks in all; hosts are filled up in their order", "N", _positive, group=RANKS),
    Option(("-m", "--module"), "the script is a module, as with `python -m`", group=RANKS),
    Option(("--no-python",), "the script is a program of its own, not Python; the same as `-- COMMAND`", group=RANKS),
    Option(
        ("--launcher",),
        "`fork` (from one warmed interpreter; the default for Python), `exec` (a plain process each), or one of those "
        "that `muster launchers` lists: torchrun, srun, mpirun, accelerate, deepspeed and others",
        "NAME",
        group=HOW,
    ),
    Option(("--launcher-args",), "words for such a launcher, `'--use-env'`", "WORDS", group=HOW),
    Option(
        ("--python",),
        "the Python of the ranks; for some hosts only: `n[1-3]:/opt/bin/python`; may be repeated",
        "PATH",
        many=True,
        group=HOW,
    ),
    Option(
        ("--preload",),
        "modules to import once, before the ranks are forked: `transformers,datasets`",
        "NAMES",
        many=True,
        group=HOW,
    ),
    Option(
        ("--setup",),
        "shell lines to run first, such as `module load cuda`, or `n1:module load cuda`; may be repeated",
        "LINES",
        many=True,
        group=HOW,
    ),
    Option(
        ("--wrap",),
        "words before each rank's command, such as `nsys profile -o {rank}` (launcher exec)",
        "WORDS",
        group=HOW,
    ),
    Option(("--cwd",), "the folder in which the ranks start", "DIR", group=RANKS),
    Option(
        ("--env",),
        "a variable for the ranks: NAME=VALUE, NAME as it is here, PREFIX*; may be repeated",
        "NAME[=VALUE]",
        _variable,
        many=True,
        group=RANKS,
    ),
    Option(("--role",), "ROLE_NAME of the ranks, `default` without it", "NAME", group=RANKS),
    Option(
        ("--gpus",),
        "the GPUs that the ranks may use, such as `2,3`; with `--slurm` how many in all",
        "LIST",
        group=RANKS,
    ),
    Option(
        ("--numa-binding",),
        "bind ranks to cores: node, socket, exclusive or core-complex",
        "MODE",
        _binding,
        group=RANKS,
    ),
    Option(
        ("--stdin",),
        "the rank that reads the stdin of muster; without it a rank that is alone does, others find none",
        "RANK",
        _whole,
        group=RANKS,
    ),
    Option(
        ("--max-restarts",), "after a failure start all ranks again, at most so many times", "N", _whole, 0, group=ENDS
    ),
    Option(
        ("--grace", "--shutdown-timeout"),
        "time between SIGTERM and SIGKILL when muster ends a rank, 30 s without it",
        "TIME",
        _seconds,
        GRACE,
        also=("TORCH_ELASTIC_SHUTDOWN_TIMEOUT",),
        group=ENDS,
    ),
    Option(
        ("--signals-to-handle",),
        "signals, beside SIGUSR1 and SIGUSR2, that muster passes on to the ranks that catch them; SIGINT, SIGTERM and "
        "SIGHUP end the run, and so does SIGQUIT, which kills muster itself where this is given without it",
        "NAMES",
        _signals,
        also=("TORCHELASTIC_SIGNALS_TO_HANDLE",),
        group=ENDS,
    ),
    Option(("--timeout",), "end the run after this time, with exit status 124", "TIME", _some_time, group=ENDS),
    Option(
        ("-d", "--detach"),
        "start it and leave: it goes on without this terminal; see `muster attach`, `logs -f`, `wait`, `kill`",
        group=ENDS,
    ),
    Option(("--name",), "a name by which to find the run again", "NAME", _name_of_run, group=SHOWS),
    Option(("--run-dir",), "where runs are kept, $MUSTER_HOME or ~/.muster without it", "DIR", group=SHOWS),
    Option(
        ("--log-dir",),
        "links there to the logs, by torchrun's names: `RUN_NODE/attempt_0/LOCAL_RANK/stdout.log`",
        "DIR",
        group=SHOWS,
    ),
    Option(
        ("--keep-runs",),
        "at the start delete old runs that have ended, so that the newest N are left, this one among them; without it "
        "all stay",
        "N",
        _positive,
        group=SHOWS,
    ),
    Option(
        ("--keep-size",),
        "at the start delete the oldest runs that have ended, so that all have so much together, such as `10G`",
        "SIZE",
        _size,
        group=SHOWS,
    ),
    Option(
        ("--ranks", "--local-ranks-filter"),
        "show only the lines of these ranks, `0,4-7`; all are kept",
        "RANKS",
        _ranks,
        group=SHOWS,
    ),
    Option(
        ("--prefix",),
        "what stands before each line: `{rank} {local_rank} {host} {node} {time}` are filled in; `{time:%H:%M}` is a "
        "time in another form",
        "TEXT",
        group=SHOWS,
    ),
    Option(
        ("--tty",),
        "ranks have a pseudo-terminal as stdout and stderr, as wide as this one; the default for a rank that is alone, "
        "here, on a terminal",
        group=SHOWS,
    ),
    Option(("--no-tty",), "no such terminal: ranks write into their logs", group=SHOWS),
    Option(("-q", "--quiet"), "show no lines of ranks, and words only when it fails", group=SHOWS),
    Option(("--json",), "show events as JSON lines, for machines", group=SHOWS),
    Option(
        ("--show-env",), "with `muster plan`: the values of variables too; those of secrets stay hidden", group=SHOWS
    ),
    Option(("--profile",), "a `[profile.NAME]` of muster.toml to take options from", "NAME", group=SHOWS),
    HELP,
    # torchrun's, for lines that were written for it
    Option(("--node-rank",), "", "N"),
    Option(("--standalone",), ""),
    Option(("--rdzv-backend",), "", "X"),
    Option(("--rdzv-endpoint",), "", "X"),
    Option(("--rdzv-id",), "", "X"),
    Option(("--rdzv-conf",), "", "X"),
    Option(("--monitor-interval",), "", "X"),
    Option(("--start-method",), "", "X"),
    Option(("--event-log-handler",), "", "X"),
    Option(("--run-path",), ""),
    Option(("-r", "--redirects"), "", "X", _streams),
    Option(("-t", "--tee"), "", "X", _streams),
    Option(("--duplicate-stdout-filters",), "", "X"),
    Option(("--duplicate-stderr-filters",), "", "X"),
    Option(("--master-addr",), "", "X"),
    Option(("--master-port",), "", "X"),
    Option(("--local-addr",), "", "X"),
    Option(("--logs-specs",), "", "X"),
    Option(("--virtual-local-rank",), ""),
)
"""The options of `muster run` and `muster plan`."""

_OF_TORCHRUN = frozenset(
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

OF_SLURM = frozenset(
    (
        *("partition", "account", "qos", "time", "mem", "nodelist", "constraint", "comment", "reservation"),
        *("gpus_per_node", "gres", "gpus_per_task", "dependency", "mail_type", "mail_user", "cpus_per_task"),
        *("exclusive", "signal_before", "requeue", "output", "error", "slurm_opt"),
    )
)
"""Keys of options that say something to Slurm alone."""

_SBATCH_NAMES: Mapping[str, tuple[str, ...]] = {
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
}
"""More names of some options, by key, that hold together with --slurm; -N and -n mean the same to sbatch anyway."""


def with_sbatch_names(options: Sequence[Option]) -> tuple[Option, ...]:
    """The options of `muster run`, where sbatch's short options mean what they mean to sbatch (`-t` is `--time`)."""
    taken = {name for names in _SBATCH_NAMES.values() for name in names}
    return tuple(
        # its own long name stays the first one: it gives the key
        option._replace(
            names=(*(name for name in option.names if name not in taken), *_SBATCH_NAMES.get(option.key, ()))
        )
        for option in options
    )


def sbatch_hint(name: str) -> str | None:
    """The hint for an option that only sbatch has, where --slurm was not given; None for another one."""
    for key, names in _SBATCH_NAMES.items():
        if name in names:
            own = next(option for option in RUN if option.key == key)
            alike = next(long for long in own.names if long.startswith("--"))
            return f"with `--slurm` that is {alike}"
    return None


UNLIKE_SBATCH: Mapping[str, str] = {
    "-d": "--dependency",
    "-q": "--qos",
    "-m": "--distribution",
    "-H": "--hold",
}
"""Short options that mean something else to sbatch even together with --slurm, and sbatch's long name."""

_RUN_DIR = Option(("--run-dir",), "where runs are kept, $MUSTER_HOME or ~/.muster without it", "DIR", group=SHOWS)
_FIND_IN = Option(
    ("--run-dir",), "find runs in this directory only; without it all that you started are found", "DIR", group=SHOWS
)
_JSON = Option(("--json",), "as JSON", group=SHOWS)
_RANK = Option(("--rank", "--ranks"), "only these ranks, `0,4-7`", "RANKS", _ranks, group=SHOWS)

OTHERS: Mapping[str, tuple[Option, ...]] = {
    "ps": (
        Option(("-a", "--all"), "all runs, not only the newest 20", group=SHOWS),
        Option(("--running",), "only runs that are running or pending", group=SHOWS),
        Option(("--failed",), "only runs that ended with another status than 0", group=SHOWS),
        Option(("--name",), "only runs of this name", "NAME", group=SHOWS),
        _JSON,
        _FIND_IN,
        HELP,
    ),
    "show": (_JSON, _FIND_IN, HELP),
    "logs": (
        Option(("-f", "--follow"), "go on as they grow, until the run ends", group=SHOWS),
        _RANK,
        Option(("--stderr",), "only what went to stderr", group=SHOWS),
        Option(("--stdout",), "only what went to stdout", group=SHOWS),
        Option(
            ("--since",), "only what was written in the last so much time, such as `10m`", "TIME", _seconds, group=SHOWS
        ),
        Option(("--tail",), "only the last N lines of what is asked for, over all its ranks", "N", _whole, group=SHOWS),
        Option(("--timestamps",), "when each line was written, before it", group=SHOWS),
        Option(("--attempt",), "of this attempt; without it the last", "N", _whole, group=SHOWS),
        Option(
            ("--prefix",),
            "what stands before each line, such as `{time} {rank}: `; as with `muster run`",
            "TEXT",
            group=SHOWS,
        ),
        _FIND_IN,
        HELP,
    ),
    "wait": (Option(("--timeout",), "wait no longer than this", "TIME", _seconds, group=ENDS), _FIND_IN, HELP),
    "nodes": (_JSON, _RUN_DIR, HELP),
    "launchers": (_JSON, _RUN_DIR, HELP),
    "doctor": (
        Option(("-H", "--hosts"), "machines to look at, this one without it", "HOSTS", group=WHERE),
        Option(("--hostfile",), "the same from a file", "FILE", group=WHERE),
        Option(("--ssh",), "the words of ssh", "WORDS", group=WHERE),
        Option(("--slurm",), "nodes of Slurm; inside an allocation its nodes, without being asked", group=WHERE),
        Option(("-N", "--nnodes"), "so many of them", "N", _positive, group=WHERE),
        Option(("-p", "--partition"), "of this partition", "NAME", group=WHERE),
        Option(
            ("--slurm-opt",), "any other option of salloc, `NAME=VALUE`; may be repeated", "OPT", many=True, group=WHERE
        ),
        Option(("--gpus-per-node",), "and with so many GPUs", "N", group=WHERE),
        Option(("--python",), "the Python of the ranks; `HOSTS:PATH` for some hosts", "PATH", many=True, group=HOW),
        Option(
            ("--setup",),
            "shell lines to run first; `HOSTS:LINES` for some; may be repeated",
            "LINES",
            many=True,
            group=HOW,
        ),
        Option(("--cwd",), "the folder in which the ranks would start", "DIR", group=RANKS),
        Option(("--pass-file",), "write the hosts that may be used there, for --hostfile", "FILE", group=SHOWS),
        Option(("--fail-file",), "and the others there", "FILE", group=SHOWS),
        _JSON,
        _RUN_DIR,
        HELP,
    ),
    "completion": (HELP,),
    "clean": (
        Option(("-H", "--hosts"), "machines to look at, this one without it", "HOSTS", group=WHERE),
        Option(("--hostfile",), "the same from a file", "FILE", group=WHERE),
        Option(("--ssh",), "the words of ssh", "WORDS", group=WHERE),
        Option(("--python",), "the Python there, `python3` without it", "PATH", group=HOW),
        Option(("-n", "--dry-run"), "only list what there is", group=SHOWS),
        _RUN_DIR,
        HELP,
    ),
    "attach": (
        Option(("--ranks",), "show only the lines of these ranks, `0,4-7`", "RANKS", _ranks, group=SHOWS),
        Option(("--all",), "from the first line on, not only the last few", group=SHOWS),
        Option(("--prefix",), "what stands before each line, such as `{rank}: `", "TEXT", group=SHOWS),
        Option(("--json",), "show events as JSON lines, for machines", group=SHOWS),
        _FIND_IN,
        HELP,
    ),
    "kill": (
        Option(("--all",), "all your runs that are running or pending", group=ENDS),
        Option(("-y", "--yes"), "with --all: ask no question; without a terminal it is needed", group=ENDS),
        _FIND_IN,
        HELP,
    ),
    "stacks": (_RANK, _FIND_IN, HELP),
    "rm": (_FIND_IN, HELP),
    "prune": (
        Option(("--older-than",), "runs that began longer ago than this, such as `30d`", "AGE", _age, group=ENDS),
        Option(("--keep",), "keep the newest N runs, however old", "N", _whole, group=ENDS),
        Option(("-n", "--dry-run"), "only list what would go", group=SHOWS),
        Option(("-y", "--yes"), "ask no question; without a terminal it is needed", group=SHOWS),
        _RUN_DIR,
        HELP,
    ),
}
"""The options of the other commands."""

CHECK: tuple[Option, ...] = (
    Option(("--backend",), "gloo or nccl; without it nccl where there are GPUs", "NAME", _backend, group=HOW),
    Option(("--html",), "write the page there, too; it is always kept with the run", "FILE", group=SHOWS),
    Option(("--json",), "print the whole result as JSON", group=SHOWS),
    HELP,
)
"""The options that `muster check` has of its own."""

OF_CHECK = (*CHECK, *(option for option in RUN if option.key not in {own.key for own in CHECK}))
"""All that it takes: where and how are said as for `run`."""

_LAB_DIR = Option(("--lab-dir",), "where the lab's files lie, /var/lib/muster-lab without it", "DIR", group=SHOWS)

LAB: Mapping[str, tuple[Option, ...]] = {
    "up": (
        Option(("--nodes",), "hosts beside the head, 3 without it", "N", _positive, group=RANKS),
        Option(("--gpus",), "GPUs a node, as Slurm counts them, 4 without it", "N", _whole, group=RANKS),
        Option(("--cpus",), "cores a node, as Slurm counts them, 8 without it", "N", _positive, group=RANKS),
        Option(("--no-shared-home",), "each node has a home of its own, empty at first", group=RANKS),
        Option(("--share",), "directories in /tmp that all hosts are to see, `/tmp/a,/tmp/b`", "DIRS", group=RANKS),
        _LAB_DIR,
        HELP,
    ),
    "down": (_LAB_DIR, HELP),
    "status": (_JSON, _LAB_DIR, HELP),
    "exec": (Option(("--user",), "as this user: root or ada", "NAME", group=RANKS), _LAB_DIR, HELP),
    "shell": (Option(("--user",), "as this user: root or ada", "NAME", group=RANKS), _LAB_DIR, HELP),
    "ssh-config": (_LAB_DIR, HELP),
    "fault": (_LAB_DIR, HELP),
    "install": (HELP,),
}
"""The options of `muster lab …`."""


EMPTY = "''"
"""How a value without a character is shown: as it is typed."""


class Parsed(NamedTuple):
    """What a command line says."""

    given: dict[str, Any]
    """Options that were typed, by key."""
    rest: list[str]
    """The words from the first one that is no option."""
    dashes: bool
    """Those words came after `--`."""


def parse(
    words: Sequence[str],
    options: Sequence[Option],
    interleaved: bool = False,
    command: str = "run",
    elsewhere: Callable[[str], str | None] = lambda name: None,
) -> Parsed:
    """Read options up to the first word that is none (or, `interleaved`, all of them); raises `Impossible`.

    `command` is what a hint names, whose `--help` lists the options. `elsewhere` has a hint for an option that is not
    one of these.
    """
    by_name = {name: option for option in options for name in option.names}
    given: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return Parsed(given, rest + queue, True)
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if interleaved:
                continue
            return Parsed(given, rest + queue, False)
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        elif name not in by_name and len(name) > 2 and name[:2] in by_name:
            # -g4, or -qh
            option = by_name[name[:2]]
            if option.metavar:
                equals, value = "=", word[2:]
            else:
                queue.insert(0, "-" + word[2:])
                equals = ""
            name = name[:2]
        known = by_name.get(name) or _abbreviated(name, by_name)
        if known is None:
            raise Impossible(
                f"there is no option `{word.partition('=')[0]}`",
                elsewhere(name) or near(name, by_name) or f"`muster {command} --help` lists them",
            )
        option = known
        if not option.metavar:
            if equals:
                raise Impossible(f"`{name}` takes no value, and was given `{value}`", f"write `{name}` alone")
            given[option.key] = True
            continue
        if not equals:
            if not queue:
                raise Impossible(f"`{name}` wants {option.metavar} after it", option.help or None)
            value = queue.pop(0)
        _put(given, option, value, f"{name} {value or EMPTY}")
    return Parsed(given, rest, False)


def _abbreviated(name: str, by_name: Mapping[str, Option]) -> Option | None:
    """The option of torchrun of which this is the beginning, as torchrun's parser takes it: `--nproc`, `--max`.

    None where it is the beginning of none; raises `Impossible` where it is that of several.
    """
    if len(name) < 3:
        return None
    begun = sorted(full for full in _OF_TORCHRUN if full.startswith(name) and full in by_name)
    if len(begun) > 1:
        raise Impossible(f"`{name}` is the beginning of {' and '.join(begun)}", "write the one that is meant")
    return by_name[begun[0]] if begun else None


def _put(given: dict[str, Any], option: Option, value: str, source: str) -> None:
    if "\0" in value:
        raise Impossible(f"`{source}`: there is a NUL character in it", "leave that character out")
    try:
        read = option.read(value)
    except ValueError as error:
        raise Impossible(f"`{source}`: that is not {error}", option.help or None) from None
    if option.many:
        given.setdefault(option.key, []).append(read)
    else:
        given[option.key] = read


def from_environment(options: Sequence[Option], env: Mapping[str, str]) -> dict[str, Any]:
    """Options that variables set."""
    given: dict[str, Any] = {}
    for option in options:
        for name in option.variables:
            if name in env and option.key not in given:
                _from_text(given, option, env[name], f"{name}={env[name] or EMPTY}")
    return given


def from_table(options: Sequence[Option], data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Options that a table of muster.toml sets; `source` names it."""
    by_key = {option.key: option for option in options}
    if not isinstance(data, Mapping):
        raise Impossible(f"{source} is no table", "write it as `[run]` or `[profile.NAME]`, and options below it")
    given: dict[str, Any] = {}
    for key, value in data.items():
        option = by_key.get(key.replace("-", "_"))
        if option is None:
            raise Impossible(
                f"{source}: there is no option `{key}`", near(key, by_key) or "`muster run --help` lists them"
            )
        for item in value if isinstance(value, list) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            _from_text(given, option, text, f"{source}: {key} = {item}")
    return given


def _from_text(given: dict[str, Any], option: Option, text: str, source: str) -> None:
    source = source.replace("\0", "\\0")
    if option.metavar:
        _put(given, option, text, source)
    elif text.lower() in ("1", "true", "yes", "on"):
        given[option.key] = True
    elif text.lower() not in ("", "0", "false", "no", "off"):
        raise Impossible(f"`{source}`: that is not `true` or `false`", option.help or None)


def near(name: str, names: Any) -> str | None:
    """`did you mean …?`, where a name is near enough."""
    found = nearest(name, names)
    return f"did you mean `{found}`?" if found else None


def help_text(options: Sequence[Option], width: int = 100) -> str:
    """The options, by group."""
    from textwrap import wrap

    lines: list[str] = []
    for group in dict.fromkeys(option.group for option in options if option.group):
        lines += ["", f"{group}:"]
        for option in options:
            if option.group == group:
                names = [
                    name + (f" {option.metavar}" if name.startswith("--") and option.metavar else "")
                    for name in option.names
                ]
                left = "  " + ", ".join(names)
                text = wrap(option.help, width - 30)
                if len(left) > 28:
                    lines.append(left)
                    left = ""
                lines += [f"{left:<30}{text[0]}"] + [" " * 30 + line for line in text[1:]]
    if any(option.metavar == "TIME" and option.group for option in options):
        lines += ["", "TIME is in seconds without a unit: `90`, `10m`, `1h30m`, `2d`."]
    return "\n".join(lines)
