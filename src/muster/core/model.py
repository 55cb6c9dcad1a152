"""The values: what the user requested, and what follows from it. No method has side effects.

They are named tuples instead of dataclasses, whose import takes longer than this whole module, at every `muster ps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from string import Formatter
from types import MappingProxyType
from typing import Any, NamedTuple, Union

Environment = Mapping[str, str]


class Late(Enum):
    """A value in a plan that is known only later: after the rendezvous, or when an attempt starts.

    `"--master-port=" + Late.MASTER_PORT` makes a `Template`. In JSON it is `{"late": "MASTER_PORT"}`; agents get the
    values by these names.
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
    ROLES = ("MUSTER_ROLES", "JSON of all roles of the run: their hosts, addresses, ranks, and a free port of each")
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
    """A text with late values in it."""

    __slots__ = ("parts",)

    def __init__(self, *parts: Text):
        self.parts: tuple[str | Late, ...] = ()
        for part in parts:
            self.parts += part.parts if isinstance(part, Template) else (part,) if part != "" else ()

    @classmethod
    def of(cls, text: str, **values: Text) -> Template:
        """Return `text` with each `{name}` filled in."""
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
"""A text that may be or contain late values."""

Variables = Mapping[str, Text]
"""Environment variables."""

BUNDLED = "$MUSTER_BROUGHT/"
"""The directory in the name of a script that muster brings: each agent writes it to its own directory, and replaces
this."""


GRACE = 30.0
"""Default seconds between SIGTERM and SIGKILL: the same as in torchrun, since scripts that save a checkpoint on SIGTERM
were tested with that."""


RESTART_DELAY = 4.0
"""Default seconds before the second restart in a row."""

ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""The signals that ask muster to stop a run, as in torchrun."""


ROLE = "default"
"""Default of ROLE_NAME, as in torchrun."""

PASSES = ("SIGUSR1", "SIGUSR2")
"""The signals that muster forwards by default to ranks that handle them."""


OPEN, AUTHENTICATED = "open", "authenticated"
"""How ranks on other nodes reach the store: at its port, or through the connections of the agents."""


class Program(NamedTuple):
    """The program of the ranks."""

    kind: str
    """`script` (a Python file), `module` (`python -m`), `function` (`module:function`), or `command` (any program)."""
    argv: tuple[str, ...]
    """The script, module or command, followed by its arguments."""
    source: str = ""
    """The source of the script, if muster brings it; then its name is in `BUNDLED`, which exists on no machine."""

    @property
    def path(self) -> str:
        """The script that all machines must have; empty if there is none."""
        return self.argv[0] if self.kind == "script" and not self.source else ""

    @property
    def title(self) -> str:
        """Short name for users and file names: `train` for `dir/train.py`."""
        last = self.argv[0].rstrip("/").rpartition("/")[2]
        return last[:-3] if last.endswith(".py") else last


class TerminalSize(NamedTuple):
    """The pseudo-terminal of each rank."""

    rows: int
    columns: int
    term: str = ""
    """TERM, the type of the terminal that shows the ranks."""


class LastImports(NamedTuple):
    """What the last run of a program imported, as far as that is known."""

    program: str
    """The absolute path of the script, or the module and its directory."""
    run: str = ""
    """The id of that run; empty if there was none."""
    packages: str = ""
    """Which Python and which installed packages it had: a digest (`agent/found_imports.py`)."""
    names: tuple[str, ...] = ()
    """The packages that rank 0 had imported when it called `init_process_group`."""
    unfit: Environment = MappingProxyType({})
    """Imports that must not be made before the script makes them, with reasons."""


class Job(NamedTuple):
    """What the user requested, with all defaults filled in."""

    program: Program
    launcher: str
    """A key of `LAUNCHERS`."""
    python: str
    """The interpreter of the ranks, unless a host has its own."""
    python_source: str
    """How the interpreter was chosen, for users."""
    cwd: str
    """The absolute directory in which the ranks start."""
    transport: str = "local"
    """How its nodes are reached: a key of `TRANSPORTS`."""
    name: str = ""
    """The user's name of the run."""
    env: Environment = MappingProxyType({})
    """Environment variables for every rank, overriding those of the node."""
    setup: tuple[str, ...] = ()
    """Shell lines that the node runs first, such as `module load cuda`."""
    preload: tuple[str, ...] = ()
    """Modules that the fork server imports besides torch."""
    last_imports: LastImports | None = None
    """What it may import in addition, and whether a rank records that; None if neither."""
    wrap: tuple[str, ...] = ()
    """Words put before the command of each rank; `{rank}` and the like are filled in."""
    binding: str = ""
    """How ranks are bound to cores: `node`, `socket`, `exclusive`, `core-complex`, or empty for unbound."""
    stdin: int | None = None
    """The rank that reads the terminal; stdin of the others is empty."""
    grace: float = GRACE
    """Seconds between SIGTERM and SIGKILL."""
    timeout: float | None = None
    """Maximum seconds for the whole run; None for no limit."""
    hang_timeout: float = 0.0
    """Seconds without progress of any rank after which the run counts as hanging; 0 for no limit."""
    on_hang: str = "warn"
    """What is done then: a value of `OnHang`."""
    on_end: str = ""
    """A shell command to run once at the end of the run; empty for none."""
    hang_from_start: bool = False
    """True if that counts from the start of the ranks, and not only once torch in one of them has a process group."""
    script_spawns: bool = False
    """True if the script calls torch.multiprocessing.spawn by itself."""
    launcher_args: tuple[str, ...] = ()
    """Arguments for an external launcher."""
    max_restarts: int = 0
    """Maximum number of restarts of all ranks after a failure."""
    always_restart: bool = False
    """True to restart also after the same failure came twice in the first minute of an attempt."""
    spare_nodes: int = 0
    """Number of hosts beside those that run the ranks; they take the place of hosts that fail."""
    restart_delay: float = RESTART_DELAY
    """Seconds before the second restart in a row; see `restarts.delay`."""
    ssh: tuple[str, ...] = ("ssh",)
    """The ssh command with its options."""
    signals_to_handle: str = ",".join(ENDING)
    """TORCHELASTIC_SIGNALS_TO_HANDLE of the ranks."""
    allocation: str = ""
    """Id of the scheduler's job in which the run is."""
    passes: tuple[str, ...] = PASSES
    """Signals that muster forwards to ranks that handle them."""
    role: str = ROLE
    """ROLE_NAME of the ranks."""
    log_dir: str = ""
    """Common prefix of the directories that also contain a node's logs under torchrun's names, such as `/logs/` or
    `/logs/ID_`; empty for none."""
    terminal: TerminalSize | None = None
    """The pseudo-terminal used as stdout and stderr of ranks; None for none."""
    lease: float = 0.0
    """Seconds for which a node keeps its ranks running without a connection."""
    rendezvous: str = OPEN
    """How ranks on other nodes reach the store: `OPEN` or `AUTHENTICATED`."""
    python_named: bool = False
    """True if the user chose `python`; otherwise one that `setup` puts first in PATH replaces it."""
    scheduler: str = ""
    """The scheduler of its nodes: a key of `SCHEDULERS`; empty for none."""
    runtime: str = "bare"
    """What its ranks run in: a key of `RUNTIMES`."""
    hold: float | None = None
    """Seconds without a run after which this session ends, 0 for no limit; None if the run is no session."""
    session: str = ""
    """Id of the session on which it runs."""
    runtime_value: str = ""
    """The value of the option that chose the runtime, such as an image name."""
    mounts: tuple[str, ...] = ()
    """What the user wants to be visible in a container, as `SOURCE:TARGET` or `SOURCE:TARGET:ro`."""
    runs: str = ""
    """The directory of runs, which is visible in a container; empty without one."""

    @property
    def quits(self) -> bool:
        """Whether SIGQUIT (Ctrl-\\) stops the run gracefully; otherwise it kills muster, as it does torchrun."""
        return "SIGQUIT" in self.signals_to_handle.split(",")


class Host(NamedTuple):
    """A machine, as far as planning needs it."""

    name: str
    user: str = ""
    """Login user; empty for the one in the ssh configuration."""
    python: str = ""
    """The interpreter of its ranks; empty for the job's."""
    setup: tuple[str, ...] = ()
    """Shell lines for this host, after those of the job."""
    gpus: tuple[str, ...] = ()
    """The GPUs that its ranks may see; empty for all."""
    threads: int | None = 0
    """OpenMP threads of each of its ranks; 0 for no setting, None until the host has reported its cores."""
    cpus: tuple[tuple[int, ...], ...] = ()
    """For each local rank, the cores that it may use; empty if ranks are not bound."""
    cpus_of_tasks: int | None = None
    """Number of cores of the scheduler's job on the host, if it was requested as cores per task."""


class Rank(NamedTuple):
    """One process of the training, and its position."""

    rank: int
    local_rank: int
    node: int
    world_size: int
    local_world_size: int
    nodes: int
    cpus: tuple[int, ...] = ()
    """The cores that it is bound to; empty for all."""


class Node(NamedTuple):
    """A host's part in a job."""

    number: int
    host: Host
    ranks: tuple[Rank, ...]


class TextFile(NamedTuple):
    """A file that is written before a launcher is started."""

    path: Text
    text: Text


class Command(NamedTuple):
    """A command for an agent to start. It runs one rank, or all its ranks with a `fork_server`.

    The environment of these ranks is in `Plan.environments`. `env`, `env_defaults` and `unset_pattern` are those of an
    external launcher, which has no ranks here.
    """

    node: int
    argv: tuple[Text, ...]
    ranks: tuple[Rank, ...]
    cwd: str
    fork_server: bool = False
    """Start it once as a fork server, and fork the ranks from it."""
    python_index: int | None = 0
    """Index of the interpreter in `argv`, for a Python program; the agent replaces it by its own."""
    signal_group: bool = False
    """Whether signals go to its process group, as from a terminal, instead of the single process."""
    launcher: str = ""
    """Name of the external launcher, if it is one: it starts the ranks, which register themselves."""
    files: tuple[TextFile, ...] = ()
    """Files written before it is started."""
    env: Variables = MappingProxyType({})
    """Environment variables to set."""
    env_defaults: Variables = MappingProxyType({})
    """Environment variables to set, unless the node's own environment has them."""
    unset_pattern: str = ""
    """Pattern of the node's environment variables to remove."""


class NodeEnvironment(NamedTuple):
    """The environment of the ranks of one node.

    A rank inherits the node's environment, or what an external launcher passes on. Variables matching
    `unset_pattern` are removed; those matching `restored_pattern` get the node's values again; then `env_defaults`,
    `env` and the rank's own variables are applied.
    """

    env: Variables
    """Set for all ranks of the node."""
    env_defaults: Variables
    """Set for all ranks of the node, unless a rank inherits the variable."""
    ranks: tuple[Variables, ...]
    """Set for single ranks, in the order of the node's ranks."""
    unset_pattern: str = ""
    """Pattern of inherited variables to remove."""
    restored_pattern: str = ""
    """Pattern of variables that get the node's values, whatever a launcher has changed."""


class RankCommand(NamedTuple):
    """The command of a rank that an external launcher starts; the rank gets it when it registers."""

    argv: tuple[str, ...]
    python_index: int | None
    """Index of the interpreter in `argv`."""
    args_index: int | None
    """Index in `argv` for arguments that the launcher gives each rank, such as `--local-rank=3`; None to drop them."""
    signal_group: bool = False
    """Whether signals go to the process group of the rank."""
    tasks: bool = False
    """True if each rank is a task of the scheduler, which signals it without muster."""


class Role(NamedTuple):
    """One of the programs of a run, how its ranks are started, and the nodes and ranks that are its own."""

    name: str
    job: Job
    """What its ranks run."""
    first_node: int
    nodes: int
    first_rank: int
    ranks: int
    """The number of its ranks, which are numbered on from those of the role before."""
    main: bool = False
    """True if the run ends once all ranks of such roles have succeeded."""
    rank_command: RankCommand | None = None
    """What its ranks run if an external launcher starts them."""
    external_rendezvous: bool = False
    """True if the rendezvous of its ranks does not use muster's store, and only needs a port."""

    @property
    def own_nodes(self) -> range:
        """The numbers of its nodes."""
        return range(self.first_node, self.first_node + self.nodes)

    @property
    def own_ranks(self) -> range:
        """The numbers of its ranks in the run."""
        return range(self.first_rank, self.first_rank + self.ranks)


class Plan(NamedTuple):
    """Everything that will be started; it can be printed, compared and stored."""

    job: Job
    nodes: tuple[Node, ...]
    commands: tuple[Command, ...]
    environments: tuple[NodeEnvironment, ...] = ()
    """Environments of the ranks, by node."""
    rank_command: RankCommand | None = None
    """As in `Role`, for one program; with roles, each has its own."""
    external_rendezvous: bool = False
    """As in `Role`, for one program."""
    spares: tuple[Host, ...] = ()
    """Hosts that take the place of lost ones."""
    roles: tuple[Role, ...] = ()
    """The roles of a run with several programs, in order; empty for one program. `job` is then that of the first."""

    def role_of(self, node: int) -> Role | None:
        """Return the role of a node; None without roles."""
        return next((role for role in self.roles if node in role.own_nodes), None)

    @property
    def parts(self) -> tuple[Role, ...]:
        """The programs of the run: its roles, or one that is the whole run."""
        if self.roles:
            return self.roles
        whole = Role(self.job.role, self.job, 0, len(self.nodes), 0, self.world_size)
        return (whole._replace(rank_command=self.rank_command, external_rendezvous=self.external_rendezvous),)

    def job_of(self, node: int) -> Job:
        """Return what the ranks of a node run."""
        role = self.role_of(node)
        return self.job if role is None else role.job

    @property
    def stores(self) -> tuple[int, ...]:
        """The nodes that hold a store: the first node of each program."""
        return tuple(part.first_node for part in self.parts)

    @property
    def world_size(self) -> int:
        """The total number of ranks."""
        return sum(len(node.ranks) for node in self.nodes)

    @property
    def reader(self) -> int | None:
        """The rank that reads muster's stdin if a terminal is attached: the named one, or the only one."""
        return 0 if self.job.stdin is None and self.world_size == 1 else self.job.stdin

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the nodes, by number."""
        return tuple(node.host.name for node in self.nodes)


def as_json(value: Any) -> Any:
    """Convert one of the values above for `json`: named tuples become objects."""
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
