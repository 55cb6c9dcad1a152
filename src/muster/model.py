"""The nouns: what a person asked for, what follows from it, and how it ended. No method touches the world."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Mapping, Optional, Tuple

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Program:
    """What each rank runs."""

    kind: str
    """`script` (a file for Python), `module` (as `python -m`), or `command` (any program)."""
    argv: Tuple[str, ...]
    """The script, module or command first, its own arguments after it."""

    @property
    def title(self) -> str:
        """A short name for people and for file names: `train` for `dir/train.py`."""
        last = self.argv[0].rstrip("/").rpartition("/")[2]
        return last[:-3] if last.endswith(".py") else last


@dataclass(frozen=True)
class Job:
    """What the person asked for, with every default filled in."""

    program: Program
    launcher: str
    """A key of `LAUNCHERS`."""
    ranks_per_node: int
    python: str
    """The interpreter of the ranks."""
    python_why: str
    """How it was chosen, in words."""
    cwd: str
    """Absolute path in which the ranks start."""
    threads: int
    """OpenMP threads of each rank, or 0 to leave the number alone."""
    name: str = ""
    """A name by which the person finds the run again."""
    env: Environment = field(default_factory=dict)
    """Variables to set for every rank, over those of the node."""
    setup: Tuple[str, ...] = ()
    """Shell lines that the node runs before anything else, such as `module load cuda`."""
    preload: Tuple[str, ...] = ()
    """Modules that the warm interpreter imports besides torch."""
    wrap: Tuple[str, ...] = ()
    """Words put before the command of each rank; `{rank}` and the like are filled in."""
    gpus: Tuple[str, ...] = ()
    """The GPUs of the node that the ranks may see; empty for all."""
    binding: str = ""
    """How ranks are bound to cores: `node`, `socket`, `exclusive`, `core-complex`, or empty for not at all."""
    stdin: Optional[int] = None
    """The rank that reads the terminal; the others find an empty stdin."""
    grace: float = 10.0
    """Seconds between asking a rank to end and ending it."""
    timeout: Optional[float] = None
    """Seconds that the whole run may take."""
    max_restarts: int = 0
    """How many times all ranks are started again after a failure."""


@dataclass(frozen=True)
class Host:
    """A machine, as far as planning must know it."""

    name: str
    cpus: Tuple[Tuple[int, ...], ...] = ()
    """For each local rank, the cores that it may use; empty when ranks are not bound."""


@dataclass(frozen=True)
class Rank:
    """One process of the training, and its place among the others."""

    rank: int
    local_rank: int
    node: int
    world_size: int
    local_world_size: int
    nodes: int
    cpus: Tuple[int, ...] = ()
    """The cores that it is bound to; empty for all."""


@dataclass(frozen=True)
class Node:
    """A host's part in this job."""

    index: int
    host: Host
    ranks: Tuple[Rank, ...]


@dataclass(frozen=True)
class Command:
    """One thing for an agent to start. It carries one rank, or, when `forks`, all that are named."""

    node: int
    argv: Tuple[str, ...]
    ranks: Tuple[Rank, ...]
    env: Environment
    """Common to all ranks it carries; each rank's own names come from `ranks.environment`."""
    defaults: Environment
    """Common to all ranks it carries, unless the node's own environment says otherwise."""
    cwd: str
    forks: bool = False
    """Start it once as a warm interpreter and fork the ranks from it."""
    python_at: Optional[int] = 0
    """Where in `argv` the interpreter stands, when it is a Python program; its agent puts its own there."""
    group: bool = False
    """Signals go to its whole process group, as a terminal would send them, not to the one process."""


@dataclass(frozen=True)
class Plan:
    """Everything that will be started; it prints, compares and is stored."""

    job: Job
    nodes: Tuple[Node, ...]
    commands: Tuple[Command, ...]

    @property
    def world_size(self) -> int:
        """The number of ranks on all nodes."""
        return sum(len(node.ranks) for node in self.nodes)


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, as far as its own words tell."""

    kind: str
    """`raised` (a Python exception of its own), `lost peer` (it fell because another was gone), or `ended`."""
    when: float
    """Seconds since the run began at which the first word of it was seen."""
    summary: str = ""
    """The last line of its traceback or of its stderr."""
    frames: Tuple[str, ...] = ()
    """The last lines that it printed about it, unaltered."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    node: int
    when: float
    """Seconds since the run began."""
    code: Optional[int] = None
    """Its exit status, when it exited."""
    signal: Optional[int] = None
    """The signal that ended it, when one did."""
    by_us: bool = False
    """It ended after muster had asked it to."""
    failure: Optional[Failure] = None

    @property
    def ok(self) -> bool:
        """It exited with status 0."""
        return self.code == 0

    @property
    def status(self) -> int:
        """As a shell tells it: the exit status, or 128 + the signal."""
        return 128 + self.signal if self.signal is not None else int(self.code or 0)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. The file `outcome.json` of the run directory is this."""

    state: str
    """`succeeded`, `failed`, `interrupted`, `killed`, `timed out`, or `broken` (muster itself failed)."""
    code: int
    """The exit status of `muster run`."""
    duration: float
    """Seconds from the start of muster to the last end."""
    attempt: int = 0
    """The number of the last attempt, from 0."""
    reason: str = ""
    """What began the end, in words, when no rank did."""
    first: Optional[RankEnd] = None
    """The rank that failed first."""
    ends: Tuple[RankEnd, ...] = ()
    """How each rank of the last attempt ended, by rank."""
    left: Tuple[str, ...] = ()
    """Processes that ranks had left behind and that were ended, or that still live, in words."""


def as_json(value: Any) -> Dict[str, Any]:
    """Turn one of the values above into what `json` can write."""
    return asdict(value)


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Read back what `as_json(outcome)` wrote; unknown keys of a newer muster are left out."""

    def end(item: Optional[Mapping[str, Any]]) -> Optional[RankEnd]:
        if item is None:
            return None
        failure = item.get("failure")
        kept = {key: item[key] for key in item if key in _names(RankEnd) and key != "failure"}
        if failure is not None:
            failure = dict(failure, frames=tuple(failure.get("frames", ())))
            failure = Failure(**{key: failure[key] for key in failure if key in _names(Failure)})
        return RankEnd(failure=failure, **kept)

    kept = {key: data[key] for key in data if key in _names(Outcome) - {"first", "ends", "left"}}
    ends = tuple(found for found in map(end, data.get("ends", ())) if found is not None)
    return Outcome(first=end(data.get("first")), ends=ends, left=tuple(data.get("left", ())), **kept)


def _names(kind: Any) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind))
