"""What the ranks of a node are doing: their stacks, their collectives, and what their threads wait for in the kernel.

No rank is waited for: each is asked by requests that its event loop may leave unanswered, and what is there when the
time is up is reported (`patience.py`). The part from /proc needs no answer, so it exists for every rank, Python or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from muster.agent import flight_recorder, rank_server
from muster.agent.patience import Patience
from muster.agent.rank_server import Subject
from muster.agent.stacks import StackRequest
from muster.core.inspection import CollectiveTimes, Inspection, ThreadState
from muster.linux import environment, kernel_waits, procfs
from muster.protocol.progress_file import reported_step

WITHIN = 0.5
"""Seconds within which ranks must answer."""

_PAUSE = 0.005
"""Seconds between checks of their stacks."""

_MOST_THREADS, _MOST_CHILDREN = 64, 64
"""Threads of a rank, and processes that it has started, that are looked at."""

_LONGEST_STACKS = 1 << 16
"""Characters of the stacks of a rank: all ranks of a node must fit into one message."""


_OF_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
"""Variables that init_process_group reads."""


class Loop(rank_server.Loop, Protocol):
    """The part of an event loop that an inspection uses."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> object:
        """Call `callback` once after `seconds`."""


class _Pending:
    """The inspection of one rank, whose answers are still coming."""

    def __init__(self, loop: Loop, node: int, subject: Subject, patience: Patience) -> None:
        self._patience = patience
        reported = reported_step(os.path.dirname(subject.stack_file), subject.rank)
        self.found = Inspection(subject.rank, node, subject.pid, step=reported.get("step"), steps=reported.get("steps"))
        self._requests: list[rank_server.Request] = []
        self._awaited = 0
        self._stacks: StackRequest | None = None
        seen = procfs.stat(subject.pid)
        if seen is None or seen.state in ("T", "t", "Z", "X"):
            return  # it cannot answer
        self._stacks = StackRequest(subject.pid, subject.stack_file)
        if subject.socket and os.path.exists(subject.socket):
            # the handler was there before the socket
            self.found = self.found._replace(exiting=not self._stacks.possible)
            for handler, keep in ((rank_server.COLLECTIVES, self._collectives), (rank_server.WAITS, self._waits)):
                self._awaited += 1
                self._requests.append(rank_server.Request(loop, subject.socket, handler, partial(self._answered, keep)))

    def look(self, machine: kernel_waits.Machine, whole: bool) -> None:
        """Read what is in /proc: all of it, or the main thread alone."""
        pid = self.found.pid
        threads = tuple(_threads(pid, machine, _MOST_THREADS if whole else 1))
        self.found = self.found._replace(threads=threads, children=tuple(_children(pid, machine)) if whole else ())

    def _answered(self, keep: Callable[[bytes], None], body: bytes | None) -> None:
        self._awaited -= 1
        if body is not None and not self._patience.over():  # many ranks may answer at once: 10 ms for each
            keep(body)

    def _collectives(self, body: bytes) -> None:
        parsed = flight_recorder.parse(body)
        if parsed is not None:
            self.found = self.found._replace(recorder=True, collectives=parsed[0], groups=parsed[1])

    def _waits(self, body: bytes) -> None:
        self.found = self.found._replace(waits=flight_recorder.parse_waits(body) or ())

    def check(self) -> bool:
        """Return whether everything has been answered."""
        if self._stacks is not None and self._stacks.check():
            self._keep_stacks()
        return self._stacks is None and self._awaited == 0

    def _keep_stacks(self) -> None:
        if self._stacks is not None:
            # faulthandler writes the main thread last
            self.found = self.found._replace(stacks=self._stacks.text.replace("\0", "")[-_LONGEST_STACKS:])
            self._stacks = None
            if " in init_process_group" in self.found.stacks:
                values = environment.current(self.found.pid, _OF_RENDEZVOUS)
                self.found = self.found._replace(env=tuple(sorted(values.items())))

    def stop(self) -> None:
        """Stop waiting for answers."""
        self._keep_stacks()
        for request in reversed(self._requests):
            request.cancel()


def collect(
    subjects: Iterable[Subject],
    node: int,
    loop: Loop,
    then: Callable[[tuple[Inspection, ...]], object],
    within: float = WITHIN,
) -> None:
    """Inspect these ranks, and call `then` once with the result: when all have answered, at most after `within` s."""
    machine, patience = kernel_waits.Machine(), Patience(within)
    pending = [_Pending(loop, node, subject, patience) for subject in subjects]
    for rank in pending:
        rank.look(machine, whole=patience.left() > within / 2)

    def look() -> None:
        # all of them, each time: the stacks of one are read while another is waited for
        waiting = [rank for rank in pending if not rank.check()]
        if not waiting or patience.over():
            for rank in reversed(pending):  # so that no request starts because another one ends
                rank.stop()
            then(tuple(rank.found for rank in pending))
        else:
            loop.call_later(_PAUSE, look)

    look()


def collect_times(
    subjects: Iterable[Subject],
    loop: Loop,
    then: Callable[[tuple[CollectiveTimes, ...]], object],
    within: float = WITHIN,
) -> None:
    """Ask these ranks when they called their last collectives, and call `then` once with what they answer in time."""
    found: list[CollectiveTimes] = []
    awaited: set[int] = set()
    requests: list[rank_server.Request] = []
    told = False

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            for request in reversed(requests):
                request.cancel()
            then(tuple(sorted(found)))

    def answered(rank: int, body: bytes | None) -> None:
        awaited.discard(rank)
        if body is not None and not patience.over():
            found.extend(flight_recorder.parse_times(body, rank) or ())

    def look() -> None:
        if not awaited or patience.over():
            tell()
        else:
            loop.call_later(_PAUSE, look)

    patience = Patience(within)
    for subject in subjects:
        if subject.socket and os.path.exists(subject.socket):
            awaited.add(subject.rank)
            callback = partial(answered, subject.rank)
            requests.append(rank_server.Request(loop, subject.socket, rank_server.COLLECTIVES, callback))
    look()


def as_fields(value: Any) -> Any:
    """Return one of these records as JSON has it: named tuples become objects."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is None:
            return [as_fields(item) for item in value]
        return {name: as_fields(item) for name, item in zip(names, value)}
    return value


# ---- /proc ----------------------------------------------------------------------------------------------------------


def _threads(pid: int, machine: kernel_waits.Machine, most: int) -> Iterable[ThreadState]:
    for thread in kernel_waits.threads_of(pid)[:most] if most > 1 else [pid]:
        seen = procfs.stat(pid, thread)
        if seen is not None and seen.name != rank_server.THREAD:
            yield _state(pid, thread, seen, machine)


def _children(pid: int, machine: kernel_waits.Machine) -> Iterable[ThreadState]:
    """Yield the descendants of a process, its own children first."""
    waiting, count = kernel_waits.children_of(pid), 0
    while waiting and count < _MOST_CHILDREN:
        child = waiting.pop(0)
        seen = procfs.stat(child)
        if seen is not None:
            count += 1
            yield _state(child, child, seen, machine)
            waiting += kernel_waits.children_of(child)


def _state(pid: int, thread: int, seen: procfs.Stat, machine: kernel_waits.Machine) -> ThreadState:
    wait = kernel_waits.wait_of(pid, thread, seen.state, machine)
    return ThreadState(
        thread,
        seen.name,
        seen.state,
        wait.call,
        wait.target,
        machine.holder(pid) if wait.call in ("flock", "fcntl") else 0,
        seen.cpu / os.sysconf("SC_CLK_TCK"),
    )
