"""Whether the ranks of a node make progress: measured every few seconds, without a question to their Python.

A rank makes progress if it reports another step (`muster.progress`), or if its collectives, its output, its CPU time,
its input and output, or its page faults grow. CPU time and files count only while no collective is pending: a rank that
waits in one may spin, as with NCCL. A rank that reads its terminal waits for a person. The agent reports how long it is
since any of its ranks made progress; what that means is up to the controller, which knows the other nodes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from muster.agent import flight_recorder, rank_server
from muster.agent.patience import Patience
from muster.agent.rank_server import Subject
from muster.linux import kernel_waits, procfs

_CPU = 0.05
"""Share of a core that counts as progress: waiting with time-outs, and watchdog threads, need less."""

_IO = 1 << 16
"""Bytes read or written, by any call that moves files, that count as progress."""

_FAULTS = 16
"""Page faults with input that count as progress: a program that is loaded from a slow file server."""

_ANSWERS = 0.5
"""Seconds within which a rank says how far its collectives are."""


class Loop(rank_server.Loop, Protocol):
    """The part of an event loop that the measurement uses."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> object:
        """Call `callback` once after `seconds`."""


class Measured(NamedTuple):
    """How far a rank is at one moment."""

    when: float
    """Monotonic time."""
    output: int = 0
    """Bytes of its logs."""
    cpu: float = 0.0
    """Seconds of CPU time, with its descendants."""
    io: int = 0
    faults: int = 0
    collectives: int = -1
    """A number that changes with its collectives; -1 if its recorder did not answer."""
    pending: bool = False
    """True if it has called one that is not complete."""
    step: int = -1
    """The step that it reported; -1 if it reports none."""


def progressed(before: Measured, now: Measured) -> bool:
    """Return whether a rank has made progress between two moments."""
    if (
        now.output != before.output
        or now.step != before.step
        or (now.collectives >= 0 and now.collectives != before.collectives)
    ):
        return True
    if now.pending and before.pending:
        return False
    busy = now.cpu - before.cpu >= _CPU * (now.when - before.when)
    return busy or now.io - before.io >= _IO or now.faults - before.faults >= _FAULTS


class ProgressWatch:
    """Measures the ranks of a node at regular intervals, and calls `tell` with the time of the last progress.

    `tell` is called at each measurement once there was none for half of `patience`, and once when there is progress
    again. `always`: ranks count from their start, and not only once torch in one of them has a process group.
    """

    def __init__(
        self,
        loop: Loop,
        patience: float,
        subjects: Callable[[], list[Subject]],
        logs: Callable[[int], Iterable[str]],
        step: Callable[[int], int],
        reader: int | None,
        tell: Callable[[float], object],
        always: bool,
    ) -> None:
        """`logs` returns the log files of a rank, `step` the step that it reported, -1 for none.

        `reader` is the rank that has a stdin.
        """
        self._loop, self._patience, self._subjects, self._logs = loop, patience, subjects, logs
        self._step, self._reader, self._tell, self._always = step, reader, tell, always
        # torch puts its whole recorder into each answer: some milliseconds of a thread of the rank
        self._interval = min(30.0, max(0.2, patience / 8))
        self._before: dict[tuple[int, int], Measured] = {}
        """By rank and process."""
        self._last = time.monotonic()
        self._told = False
        self._attempt = 0

    def begin(self) -> None:
        """Begin anew: ranks have been started."""
        self._attempt += 1
        self._before, self._last, self._told = {}, time.monotonic(), False
        self._later(self._attempt)

    def end(self) -> None:
        """Stop measuring."""
        self._attempt += 1

    def _later(self, attempt: int) -> None:
        self._loop.call_later(self._interval, lambda: self._measure(attempt))

    def _measure(self, attempt: int) -> None:
        if attempt != self._attempt:
            return
        subjects = self._subjects()
        answers: dict[int, bytes] = {}
        awaited: set[int] = set()
        requests: list[rank_server.Request] = []

        def answered(rank: int, body: bytes | None) -> None:
            awaited.discard(rank)
            if body is not None:
                answers[rank] = body

        patience = Patience(_ANSWERS)
        grouped = False
        for subject in subjects:
            if subject.socket and os.path.exists(subject.socket):
                grouped = True
                awaited.add(subject.rank)
                callback = partial(answered, subject.rank)
                requests.append(rank_server.Request(self._loop, subject.socket, rank_server.COLLECTIVES, callback))

        def look() -> None:
            if awaited and not patience.over():
                self._loop.call_later(0.02, look)
                return
            for request in reversed(requests):
                request.cancel()
            if attempt == self._attempt:
                self._judge(subjects, answers, grouped)
                self._later(attempt)

        look()

    def _judge(self, subjects: list[Subject], answers: Mapping[int, bytes], grouped: bool) -> None:
        processes = dict(procfs.all_processes())
        now = {
            (subject.rank, subject.pid): self._of(subject, processes, answers.get(subject.rank)) for subject in subjects
        }
        moved = set(now) != set(self._before) or not (grouped or self._always)
        moved = moved or any(progressed(self._before[rank], found) for rank, found in now.items())
        moved = moved or any(subject.rank == self._reader and reads_stdin(subject.pid) for subject in subjects)
        self._before = now
        if moved:
            self._last = time.monotonic()
        idle = time.monotonic() - self._last
        if idle >= self._patience / 2 or (moved and self._told):
            self._told = not moved
            self._tell(self._last)

    def _of(self, subject: Subject, processes: Mapping[int, procfs.Stat], answer: bytes | None) -> Measured:
        family, waiting = [], [subject.pid]
        children: dict[int, list[int]] = {}
        for pid, seen in processes.items():
            children.setdefault(seen.parent, []).append(pid)
        while waiting:
            pid = waiting.pop()
            if pid in processes:
                family.append(pid)
                waiting += children.get(pid, [])
        called, pending = -1, False
        found = None if answer is None else flight_recorder.progress(answer)
        if found is not None:
            called, pending = found
        return Measured(
            time.monotonic(),
            sum(_size(path) for path in self._logs(subject.rank)),
            sum(processes[pid].cpu for pid in family) / os.sysconf("SC_CLK_TCK"),
            sum(map(_bytes_moved, family)),
            sum(processes[pid].faults for pid in family),
            called,
            pending,
            self._step(subject.rank),
        )


def reads_stdin(pid: int) -> bool:
    """Return whether the main thread of a process waits for its stdin, as a debugger's prompt does."""
    found = kernel_waits.call_of(pid, pid)
    if found.call == "read":
        return found.args[0] == 0
    # readline waits for descriptor 0 alone; the sleep of Python before 3.11 waits for none
    return found.call in ("select", "pselect6") and found.args[0] == 1


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _bytes_moved(pid: int) -> int:
    """Return what a process has read and written; 0 if that may not be read."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            fields = dict(line.split(b":") for line in file.read().splitlines())
        return int(fields[b"rchar"]) + int(fields[b"wchar"])
    except (OSError, ValueError, KeyError):
        return 0
