"""What the ranks of an attempt are doing at one moment: stacks, collectives, state in the kernel. Values only.

Agents make one `Inspection` per rank (`agent/inspection.py`); a `Snapshot` has those of all nodes.
"""

from __future__ import annotations

from typing import NamedTuple

from muster.core.results import TextEnum


class CollectiveRecord(NamedTuple):
    """One collective as torch's flight recorder of a rank has it."""

    group: str
    """The name of the process group; `0` is the default one."""
    seq: int
    """Its number in the group, from 1: the same on all ranks if all call the same collectives."""
    op: str
    """The operation, such as `all_reduce`, without the name of the backend."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """The shape of each input tensor."""
    dtypes: tuple[str, ...] = ()
    """The type of each input tensor, in torch's words: `Float`."""
    created: float = 0.0
    """When the rank called it, in seconds since 1970 by the clock of its host."""
    done: bool = False
    p2p: bool = False
    """True for send and recv, whose `seq` counts by pairs of ranks."""


class CollectiveTimes(NamedTuple):
    """When a rank called the collectives of a process group: the last 2,000 of all its groups."""

    rank: int
    group: str
    seqs: tuple[int, ...] = ()
    """Their numbers, oldest first."""
    created: tuple[float, ...] = ()
    """When each was called, in seconds since 1970 by the clock of the rank's host."""


class GroupState(NamedTuple):
    """How far a rank is in one process group."""

    group: str
    description: str = ""
    """`default_pg`, or what the script has named it."""
    enqueued: int = 0
    """The number of the last collective that the rank has called; 0 for none."""
    completed: int = 0
    """The number of the last one that has ended."""
    ranks: tuple[int, ...] = ()
    """Its ranks, if the recorder knows them."""


class ThreadState(NamedTuple):
    """What a thread, or another process, waits for in the kernel."""

    pid: int
    """The id of the thread or process."""
    name: str = ""
    state: str = ""
    """A letter of proc_pid_stat(5): R runs, S sleeps, D waits in the kernel, T is stopped, Z has exited."""
    call: str = ""
    """The system call it is in, by name; empty if unknown or none."""
    target: str = ""
    """What the call works on: a path, `pipe`, `socket 10.0.0.1:29500`, `child process 123`."""
    holder: int = 0
    """The process that holds the file lock it waits for; 0 if none."""
    cpu: float = 0.0
    """Its CPU time in seconds."""


class Inspection(NamedTuple):
    """What one rank is doing."""

    rank: int
    node: int
    pid: int = 0
    stacks: str = ""
    """The Python stacks of its threads, as faulthandler writes them; empty if the rank did not write any."""
    recorder: bool = False
    """True if its collectives could be read; the fields below are empty otherwise."""
    collectives: tuple[CollectiveRecord, ...] = ()
    """The last ones, oldest first."""
    groups: tuple[GroupState, ...] = ()
    waits: tuple[str, ...] = ()
    """What torch itself says it is in now: names of its wait counters that are active, such as `TCPStore__wait`."""
    threads: tuple[ThreadState, ...] = ()
    """Its threads, the main thread first."""
    children: tuple[ThreadState, ...] = ()
    """The processes that it has started and that have not been reaped."""
    env: tuple[tuple[str, str], ...] = ()
    """MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE as they are in the process while it is in init_process_group."""
    exiting: bool = False
    """True if its interpreter has begun to exit, and writes no stacks any more."""
    step: int | None = None
    steps: int | None = None
    """The step that it reported last by `muster.progress`, and the number of steps; None without a report."""


class SnapshotReason(TextEnum):
    """Why a snapshot was taken."""

    REQUEST = "request"
    """A command asked for it."""
    FAILURE = "failure"
    """Before the other ranks were terminated, because one failed."""
    STOP = "stop"
    """Before the ranks were terminated for another reason: a time limit, `muster kill`."""
    HANG = "hang"
    """No progress for the time of --hang-timeout."""


class Snapshot(NamedTuple):
    """What the ranks of an attempt did at one moment."""

    when: float
    """Seconds since the start of the run."""
    reason: SnapshotReason
    attempt: int
    inspections: tuple[Inspection, ...] = ()
    """By rank. A rank that has exited has none."""
    silent: tuple[int, ...] = ()
    """Nodes whose agent did not answer."""
    clock_offsets: tuple[float, ...] = ()
    """Seconds by which the clock of each node is ahead of that of node 0, by node; empty if they were not measured."""
