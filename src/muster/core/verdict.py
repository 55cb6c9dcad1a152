"""Why the ranks of a run stand still, as a value: made by `diagnostics/hangs`, worded by `ui/hang_text.py`. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.core.results import TextEnum


class VerdictKind(TextEnum):
    """What keeps the ranks from going on."""

    MISSING = "missing"
    """Ranks have not come to a collective that others wait in."""
    EXITED = "exited"
    """Ranks have exited, and others wait for them."""
    NOT_JOINED = "not joined"
    """Ranks have not called init_process_group, in which others wait."""
    NOT_CONNECTED = "not connected"
    """Ranks are in init_process_group and cannot complete it."""
    MISMATCH = "mismatch"
    """Ranks call different collectives, or the same one with different shapes or types."""
    UNEVEN = "uneven"
    """The loop of some ranks has ended earlier than that of the others."""
    EXTRA_CALL = "extra call"
    """Ranks wait in a collective that the others never call."""
    CYCLE = "cycle"
    """Ranks wait for each other: in different process groups, or for a lock."""
    SILENT = "silent"
    """Ranks wait for ranks on hosts that do not answer."""
    COMPLETE = "complete"
    """All ranks are in the same collective, which does not complete."""
    PROGRESS = "progress"
    """The ranks make progress."""
    NO_WAIT = "no wait"
    """No rank is seen waiting for another."""
    UNKNOWN = "unknown"


class Activity(TextEnum):
    """What a rank is doing."""

    COLLECTIVE = "collective"
    """It waits in a collective, or in send or recv."""
    JOINING = "joining"
    """It is in init_process_group or new_group."""
    STORE = "store"
    """It waits for a key in the store."""
    COMPUTING = "computing"
    """It runs, outside of Python code."""
    PYTHON = "python"
    """It runs Python code of the script."""
    SLEEPING = "sleeping"
    LOCK = "lock"
    """It waits for a lock of its own process."""
    FILE_LOCK = "file lock"
    QUEUE = "queue"
    """It waits for an item of a queue, or for room in it."""
    LOADER = "loader"
    """It waits for a worker of a DataLoader."""
    THREAD = "thread"
    """It waits for the end of a thread."""
    SUBPROCESS = "subprocess"
    """It waits for another process."""
    SYSTEM_CALL = "system call"
    """It is blocked in another system call."""
    IMPORTING = "importing"
    DEBUGGER = "debugger"
    """It waits in pdb."""
    STOPPED = "stopped"
    """By SIGSTOP, or by a debugger."""
    KERNEL = "kernel"
    """It is blocked in the kernel (state D)."""
    EXITING = "exiting"
    """Its interpreter exits: the script has ended, and no code of the user's runs."""
    EXITED = "exited"
    NO_ANSWER = "no answer"
    """Its host does not answer."""
    UNKNOWN = "unknown"


class Frame(NamedTuple):
    """A line of a Python stack."""

    file: str
    line: int
    function: str


class Collective(NamedTuple):
    """A call that ranks wait in."""

    op: str
    """`all_reduce`; also `init_process_group`, `TCPStore.wait` and other calls that wait for other ranks."""
    group: str = ""
    """The name of the process group; empty for the default one, and if unknown."""
    seq: int = 0
    """Its number in the group; 0 if unknown."""
    sizes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    """As torch names them in Python: `float32`."""


class Situation(NamedTuple):
    """Ranks that are in the same place and do the same."""

    ranks: tuple[int, ...]
    activity: Activity
    collective: Collective | None = None
    """The call that they wait in."""
    seconds: float | None = None
    """For how long, in the rank that has waited longest; or how long ago they exited."""
    user: Frame | None = None
    """The innermost frame of their own code."""
    inner: Frame | None = None
    """The innermost frame of a library, if that is further in."""
    call: str = ""
    """The system call that they are blocked in."""
    target: str = ""
    """What it works on: a path, `pipe`, `socket 10.0.0.1:29500`, `child process 123`; or a module that is imported."""
    pid: int = 0
    """The process of the first of these ranks."""
    holder: int = 0
    """The process that holds the file lock."""
    held_by: Frame | None = None
    """Where the thread is that seems to hold the lock."""
    uses_cpu: bool = False
    code: int | None = None
    """With which code they exited."""
    signal: int | None = None
    """Which signal killed them."""
    details: tuple[str, ...] = ()
    """More facts, each a phrase: `DataLoader worker 123 has exited`."""


class Verdict(NamedTuple):
    """Why the ranks of a run stand still."""

    kind: VerdictKind
    odd: tuple[int, ...] = ()
    """The ranks that cause it; empty if that is not known."""
    waiting: tuple[int, ...] = ()
    """The ranks that wait for them."""
    collective: Collective | None = None
    """What they wait in."""
    seconds: float | None = None
    """For how long."""
    situations: tuple[Situation, ...] = ()
    """What each rank does, the odd ranks first. No rank is in two of them."""
    silent: tuple[int, ...] = ()
    """Nodes that did not answer."""
    notes: tuple[str, ...] = ()
    """What else the evidence tells, each a sentence."""

    def situations_of(self, ranks: tuple[int, ...]) -> tuple[Situation, ...]:
        """Return the situations that any of these ranks is in."""
        return tuple(found for found in self.situations if set(found.ranks) & set(ranks))


# ---- as JSON --------------------------------------------------------------------------------------------------------


def verdict_as_json(found: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON, without fields that have their default value."""
    data: dict[str, Any] = _as_json(found)
    return data


def _as_json(value: Any) -> Any:
    if isinstance(value, TextEnum):
        return str(value)
    if not isinstance(value, tuple):
        return value
    names: tuple[str, ...] | None = getattr(value, "_fields", None)
    if names is None:
        return list(map(_as_json, value))
    defaults: dict[str, Any] = getattr(value, "_field_defaults", {})
    fields = dict(zip(names, value))
    return {name: _as_json(item) for name, item in fields.items() if name not in defaults or item != defaults[name]}
