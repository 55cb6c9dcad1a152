"""The nouns: what a person asked for, what follows from it, and how it ended. No method touches the world.

They are named tuples and not dataclasses: importing those takes longer than all of this module, at every `muster ps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from string import Formatter
from types import MappingProxyType
from typing import Any, NamedTuple, Union

Environment = Mapping[str, str]


class Late(Enum):
    """A value that a plan needs and that is known only later: when nodes have met, or when an attempt starts.

    `"--master-port=" + Late.MASTER_PORT` makes a `Template`. In JSON it is `{"late": "MASTER_PORT"}`; the agent of a
    node has the values by these names.
    """

    MASTER_ADDR = ("MASTER_ADDR", "rendezvous address: that of node 0")
    MASTER_PORT = ("MASTER_PORT", "rendezvous port")
    RESTART_COUNT = ("RESTART_COUNT", "number of the attempt, from 0")
    INTERFACE = ("INTERFACE", "network interface that reaches the other nodes; none if it has no name")
    NCCL_INTERFACE = ("NCCL_INTERFACE", "the same if the node has more than one interface, otherwise none")
    ERROR_FILE = ("ERROR_FILE", "error file of the rank, in the directory of the attempt")
    THREADS = ("THREADS", "cores of the node divided by its ranks")
    PATH = ("PATH", "PATH of the node, with the directory of its Python first")
    PYTHON = ("MUSTER_PYTHON", "Python interpreter on the node")
    SHIM = (
        "MUSTER_RANK",
        "program that an external launcher starts instead of the script; it asks the agent what to run",
    )
    FOLDER = ("MUSTER_FOLDER", "directory of the launcher's own files")
    SCRATCH = ("MUSTER_SCRATCH", "directory with a short path on each host, deleted with the run")
    JOB_ID = ("JOB_ID", "id of the scheduler's job")
    JOB_NODES = ("JOB_NODES", "nodes allocated by the scheduler, in its notation")
    CPUS_PER_RANK = ("CPUS_PER_RANK", "cores of the node divided by its ranks; none unless the job requested cores")

    def __init__(self, key: str, says: str):
        self.key, self.says = key, says

    def __add__(self, after: Text) -> Template:
        return Template(self, after)

    def __radd__(self, before: str) -> Template:
        return Template(before, self)

    def __format__(self, spec: str) -> str:
        raise TypeError(f"{self.name} is not known yet: add it to a text, or use Template.of")


class Template:
    """A text with values in it that are known only later."""

    __slots__ = ("parts",)

    def __init__(self, *parts: Text):
        self.parts: tuple[str | Late, ...] = ()
        for part in parts:
            self.parts += part.parts if isinstance(part, Template) else (part,) if part != "" else ()

    @classmethod
    def of(cls, text: str, **values: Text) -> Template:
        """`text` with each `{name}` filled in."""
        parts: list[Text] = []
        for literal, name, _, _ in Formatter().parse(text):
            parts += [literal] if name is None else [literal, values[name]]
        return cls(*parts)

    def __add__(self, after: Text) -> Template:
        return Template(self, after)

    def __radd__(self, before: str) -> Template:
        return Template(before, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"Template{self.parts!r}"


Text = Union[str, Late, Template]
"""A text, all of which or parts of which may be known only later."""

Variables = Mapping[str, Text]
"""Environment variables."""

BUNDLED = "$MUSTER_BROUGHT/"
"""The folder of a script that muster brings: agents write it down, each in its own folder, and put that name there."""


GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL when a rank is ended and nobody says otherwise: as long as under torchrun, for a
script that saves a checkpoint when it hears SIGTERM was tried with that."""


ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""The signals by which muster is asked to end a run, as torchrun has them."""


ROLE = "default"
"""ROLE_NAME of ranks where nobody says otherwise, as torchrun has it."""

PASSES = ("SIGUSR1", "SIGUSR2")
"""The signals that muster passes on to ranks that catch them, unless others are named."""


class Program(NamedTuple):
    """What each rank runs."""

    kind: str
    """`script` (a file for Python), `module` (as `python -m`), `function` (`module:function`), or `command` (any)."""
    argv: tuple[str, ...]
    """The script, module or command first, its own arguments after it."""
    text: str = ""
    """The script itself, where muster brings it; it then has a name in `BUNDLED`, which no machine has."""

    @property
    def path(self) -> str:
        """The script that all machines must have; empty where there is none."""
        return self.argv[0] if self.kind == "script" and not self.text else ""

    @property
    def title(self) -> str:
        """A short name for people and for file names: `train` for `dir/train.py`."""
        last = self.argv[0].rstrip("/").rpartition("/")[2]
        return last[:-3] if last.endswith(".py") else last


class TerminalSize(NamedTuple):
    """The pseudo-terminal that each rank gets."""

    rows: int
    columns: int
    term: str = ""
    """TERM, the kind of terminal on which ranks are shown."""


class Job(NamedTuple):
    """What the person asked for, with every default filled in."""

    program: Program
    launcher: str
    """A key of `LAUNCHERS`."""
    python: str
    """The interpreter of the ranks, where a host has none of its own."""
    python_why: str
    """How it was chosen, in words."""
    cwd: str
    """Absolute path in which the ranks start."""
    place: str = "local"
    """A key of `TRANSPORTS`: how its nodes are reached."""
    name: str = ""
    """A name by which the person finds the run again."""
    env: Environment = MappingProxyType({})
    """Variables to set for every rank, over those of the node."""
    setup: tuple[str, ...] = ()
    """Shell lines that the node runs before anything else, such as `module load cuda`."""
    preload: tuple[str, ...] = ()
    """Modules that the warm interpreter imports besides torch."""
    wrap: tuple[str, ...] = ()
    """Words put before the command of each rank; `{rank}` and the like are filled in."""
    binding: str = ""
    """How ranks are bound to cores: `node`, `socket`, `exclusive`, `core-complex`, or empty for not at all."""
    stdin: int | None = None
    """The rank that reads the terminal; the others find an empty stdin."""
    grace: float = GRACE
    """Seconds between SIGTERM and SIGKILL when a rank is ended."""
    timeout: float | None = None
    """Seconds that the whole run may take."""
    spawns: bool = False
    """The script calls torch.multiprocessing.spawn by itself."""
    launcher_args: tuple[str, ...] = ()
    """Words for a foreign launcher."""
    max_restarts: int = 0
    """How many times all ranks are started again after a failure."""
    ssh: tuple[str, ...] = ("ssh",)
    """The words of the ssh that reaches hosts."""
    signals_to_handle: str = ",".join(ENDING)
    """TORCHELASTIC_SIGNALS_TO_HANDLE of the ranks."""
    allocation: str = ""
    """The number of the scheduler's job in which it runs."""
    passes: tuple[str, ...] = PASSES
    """Signals that muster, when it is sent them, passes on to the ranks that catch them."""
    role: str = ROLE
    """ROLE_NAME of the ranks."""
    log_dir: str = ""
    """How the directory of each node begins in which its logs have torchrun's names too, `/logs/` or `/logs/ID_`; or
    empty."""
    terminal: TerminalSize | None = None
    """What ranks have as stdout and stderr, where these are terminals."""
    lease: float = 0.0
    """Seconds for which a node keeps its ranks when the connection to it breaks."""
    python_named: bool = False
    """`python` was chosen by name, and is not replaced by one that `setup` finds first."""
    scheduler: str = ""
    """A key of `SCHEDULERS`: who gives its nodes; empty for nobody."""
    runtime: str = "bare"
    """A key of `RUNTIMES`: in what its ranks run."""
    runtime_value: str = ""
    """The value of the option that chose it, such as the name of an image."""

    @property
    def quits(self) -> bool:
        """SIGQUIT (Ctrl-\\) ends the run in order; else it kills muster, as it does torchrun."""
        return "SIGQUIT" in self.signals_to_handle.split(",")


class Host(NamedTuple):
    """A machine, as far as planning must know it."""

    name: str
    user: str = ""
    """Whom to be there; empty for what ssh is configured to."""
    python: str = ""
    """The interpreter of its ranks; empty for the job's."""
    setup: tuple[str, ...] = ()
    """Shell lines for this host, after those of the job."""
    gpus: tuple[str, ...] = ()
    """The GPUs that its ranks may see; empty for all."""
    threads: int | None = 0
    """OpenMP threads of each of its ranks; 0 to leave the number alone, None until the host has told its cores."""
    cpus: tuple[tuple[int, ...], ...] = ()
    """For each local rank, the cores that it may use; empty when ranks are not bound."""
    cpus_of_tasks: int | None = None
    """How many cores a scheduler's job has there, where it was asked for by cores of a task."""


class Rank(NamedTuple):
    """One process of the training, and its place among the others."""

    rank: int
    local_rank: int
    node: int
    world_size: int
    local_world_size: int
    nodes: int
    cpus: tuple[int, ...] = ()
    """The cores that it is bound to; empty for all."""


class Node(NamedTuple):
    """A host's part in this job."""

    number: int
    host: Host
    ranks: tuple[Rank, ...]


class TextFile(NamedTuple):
    """A file that is written before a launcher is started."""

    path: Text
    text: Text


class Command(NamedTuple):
    """One thing for an agent to start. It carries one rank, or, when `forks`, all that are named.

    The environment of these ranks is in `Plan.environments`. `env`, `defaults` and `unset` are those of an external
    launcher, which carries none.
    """

    node: int
    argv: tuple[Text, ...]
    ranks: tuple[Rank, ...]
    cwd: str
    forks: bool = False
    """Start it once as a warm interpreter and fork the ranks from it."""
    python_at: int | None = 0
    """Where in `argv` the interpreter stands, when it is a Python program; its agent puts its own there."""
    group: bool = False
    """Signals go to its whole process group, as a terminal would send them, not to the one process."""
    launcher: str = ""
    """It is an external launcher of this name: it starts the ranks, which tell of themselves."""
    files: tuple[TextFile, ...] = ()
    """What it wants to find when it is started."""
    env: Variables = MappingProxyType({})
    """Set for it."""
    defaults: Variables = MappingProxyType({})
    """Set for it, unless the node's own environment says otherwise."""
    unset: str = ""
    """A pattern of variables of the node that would mislead it."""


class NodeEnvironment(NamedTuple):
    """The environment of the ranks of one node.

    A rank inherits what the node has, or what an external launcher passes on. Of that `unset` is removed; `restored` is
    set again to what the node has; then follow `defaults`, `env`, and the rank's own.
    """

    env: Variables
    """Set for all ranks of the node."""
    defaults: Variables
    """Set for all of them, unless the rank inherits a variable of that name."""
    ranks: tuple[Variables, ...]
    """Set for each rank alone, in the order of the node's ranks."""
    unset: str = ""
    """A pattern of inherited variables."""
    restored: str = ""
    """A pattern of variables of the node, whatever a launcher has made of them."""


class RankCommand(NamedTuple):
    """What a rank runs, once an external launcher has started it and it has told who it is."""

    argv: tuple[str, ...]
    python_at: int | None
    """Where in `argv` the interpreter stands."""
    args_at: int | None
    """Where in `argv` go arguments that the launcher gives each rank, such as `--local-rank=3`; None to drop them."""
    group: bool = False
    """Signals go to the whole process group of the rank."""
    tasks: bool = False
    """Each rank is a task of the scheduler, which signals it without muster."""


class Plan(NamedTuple):
    """Everything that will be started; it prints, compares and is stored."""

    job: Job
    nodes: tuple[Node, ...]
    commands: tuple[Command, ...]
    environments: tuple[NodeEnvironment, ...] = ()
    """Of the ranks of each node, by number."""
    guests: RankCommand | None = None
    """What ranks run that an external launcher starts."""
    own_meeting: bool = False
    """The ranks are brought together without muster's store, and want a port for that."""

    @property
    def world_size(self) -> int:
        """The number of ranks on all nodes."""
        return sum(len(node.ranks) for node in self.nodes)

    @property
    def reader(self) -> int | None:
        """The rank that has the stdin of muster, where a terminal watches: the one that was named, or the only."""
        return 0 if self.job.stdin is None and self.world_size == 1 else self.job.stdin

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the nodes, by number."""
        return tuple(node.host.name for node in self.nodes)


def as_json(value: Any) -> Any:
    """Turn one of the values above into what `json` can write: named tuples become objects."""
    if isinstance(value, Late):
        return {"late": value.key}
    if isinstance(value, Template):
        return [as_json(part) for part in value.parts]
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        if fields is None:
            return [as_json(item) for item in value]
        return {name: as_json(item) for name, item in zip(fields, value)}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return value
