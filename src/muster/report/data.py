"""What the report of a run shows, as values. `collect.py` reads them, `page.py` makes the page of them. Pure."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.comparison import Difference, RunFacts
from muster.core.inspection import Snapshot
from muster.core.progress import Progress
from muster.core.provenance import Provenance
from muster.core.results import RankExit, RunResult, TextEnum
from muster.core.verdict import Verdict
from muster.ui.summary import Step


class RankSpan(NamedTuple):
    """The life of one rank in one attempt. Times are seconds since the start of the run; None if not seen."""

    rank: int
    node: int
    started: float | None = None
    """When its process was started."""
    output: float | None = None
    """When it wrote something for the first time."""
    ended: float | None = None
    end: RankExit | None = None
    """How it ended; without its failure, except in the last attempt."""


class Attempt(NamedTuple):
    """One attempt: all ranks were started once."""

    number: int
    began: float
    ended: float | None
    """When its last rank exited; None if it runs."""
    ranks: tuple[RankSpan, ...] = ()
    root_cause: RankExit | None = None
    """The rank that failed first; None if none did, or it is not known."""


class NodeStart(NamedTuple):
    """How long each step of the start-up took on a node."""

    node: int
    steps: tuple[tuple[Step, float], ...] = ()


class RankText(NamedTuple):
    """A text that several ranks have in common, up to numbers: those that differ are followed by `…`."""

    ranks: tuple[int, ...]
    text: str


class LogEnd(NamedTuple):
    """The last lines of a rank's log."""

    rank: int
    attempt: int
    stream: str
    """`out` or `err`."""
    lines: tuple[str, ...]
    more: bool = False
    """True if the log has more lines before."""


class Resource(TextEnum):
    """What is measured over time."""

    STEP = "step"
    """The step that a rank reported by `muster.progress`."""
    CPU = "cpu"
    """Of a rank with its descendants, in percent of a core."""
    NODE_CPU = "node cpu"
    """Of a machine, in percent of all its cores."""
    MEMORY = "memory"
    """Resident memory of a rank with its descendants, in bytes."""
    NODE_MEMORY = "node memory"
    """Of a machine without caches, in bytes."""
    GPU = "gpu"
    """In percent."""
    GPU_MEMORY = "gpu memory"
    """In bytes."""


class Series(NamedTuple):
    """A measured value over time: of a rank, a GPU, or a whole node."""

    resource: Resource
    node: int
    rank: int | None = None
    gpu: int | None = None
    points: tuple[tuple[float, float], ...] = ()
    """(seconds since the start of the run, value)."""


class Look(NamedTuple):
    """What the ranks did at one moment, and what follows from it."""

    snapshot: Snapshot
    verdict: Verdict


class ReportData(NamedTuple):
    """All that the report of one run shows. Nothing of it is secret."""

    run_id: str
    operand: str
    """The name of the run in commands."""
    name: str
    command: str
    """The command line."""
    cwd: str
    started: str
    """Local date and time."""
    state: str
    """A `RunState`, or with the reason if it is unknown."""
    made: str
    """When this report was made."""
    muster: str
    launcher: str
    hosts: tuple[str, ...] = ()
    ranks: int = 0
    outcome: RunResult | None = None
    """None while it runs, or if it is not known."""
    now: float = 0.0
    """Seconds since the start of the run: its duration, or its age while it runs."""
    attempts: tuple[Attempt, ...] = ()
    startup: tuple[NodeStart, ...] = ()
    tracebacks: tuple[RankText, ...] = ()
    """What failed ranks wrote about their failures, the first failure first."""
    looks: tuple[Look, ...] = ()
    """What the ranks did at some moments, the last one first."""
    logs: tuple[LogEnd, ...] = ()
    """The last lines of the ranks that matter."""
    resources: tuple[Series, ...] = ()
    before: RunFacts | None = None
    """The last successful run of the same script."""
    changes: tuple[Difference, ...] = ()
    """What differs from it."""
    provenance: tuple[Provenance, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    """Options of the run that are not defaults, by name."""
    pace: tuple[str, ...] = ()
    """Which ranks arrived late at the collectives, in words; empty if none did."""
    progress: Progress | None = None
    """The least step that a rank has reported last; None if none did."""
