"""The agent's handling of the logs of its node's ranks: detect growth, send output to readers, record times."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from muster.agent.failure import explain, notes_of
from muster.agent.failure_evidence import gather
from muster.agent.log_overflow import Overflow, may_fill_up
from muster.agent.log_timeline import NAME, Appender, Timeline
from muster.agent.logfiles import LogFile, LogWatcher, Piece, tail
from muster.agent.pseudo_terminal import PseudoTerminal
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit
from muster.protocol.paths import rank_file

RESULT = "result"
"""The kind of the file with the result of a rank, which only `KEEP` reads (`payloads/call.py`)."""
KEEP = "keep"
"""The reader on node 0 that copies logs which exist only on this node."""
_ENOUGH = 1 << 20
"""Maximum number of unacknowledged bytes sent to a reader; the rest stays in the files."""
_PIECE = 1 << 16
_BREATH = 0.01
"""Seconds between checks of growing logs: many short lines are handled together."""
_MUCH = 1 << 14
"""Number of bytes read from a pipe at once above which it is read again without a pause: the writer is waiting."""
_LOOK = 0.25
"""Seconds between checks of growing logs if the kernel does not report growth."""
_LAST = 1 << 13
"""Number of bytes at the end of a log to search for remarkable lines."""
_PIECES = 1024
"""Maximum number of pieces queued for a reader; beyond it only the streams that have more are recorded."""


class LogSubscription:
    """A reader of output: the terminal, a viewer, or the copy of logs on node 0."""

    def __init__(self, want: bool | list[int], offsets: Mapping[str, int], tail: int | None) -> None:
        self.want, self.offsets, self.tail = want, offsets, tail
        """Ranks (all, none, or a list); offsets by log (`"0/3.out": 17`); otherwise only the last `tail` bytes."""
        self.in_flight = 0
        """Number of bytes sent and not acknowledged yet."""
        self.places: dict[LogFile, int] = {}
        self.unsent: deque[Piece] = deque()
        """What was written and not sent yet, in the order of writing, also from earlier attempts."""

    def wants(self, rank: int) -> bool:
        """Return True if this rank's output is requested."""
        return self.want is True or bool(self.want and rank in self.want)

    def grown(self, piece: Piece) -> None:
        """Queue the growth of a stream."""
        if not self.wants(piece.stream.rank):
            return
        if self.unsent and self.unsent[-1].stream is piece.stream:
            self.unsent.pop()
        self.unsent.append(piece)
        if len(self.unsent) > _PIECES:
            self.unsent = deque(Piece(*item) for item in dict(self.unsent).items())

    def place(self, stream: LogFile) -> int:
        """Return the offset up to which the stream was sent, or from which it is to be sent."""
        if stream not in self.places:
            name = f"{stream.attempt}/{stream.rank}.{stream.kind}"
            self.places[stream] = self.offsets[name] if name in self.offsets else self._last(stream)
        return self.places[stream]

    def _last(self, stream: LogFile) -> int:
        """Return the start of a line, `tail` bytes before the end of the stream when the reader came."""
        if self.tail is None:
            return 0
        begin = max(0, stream.size() - self.tail)
        if not begin:
            return 0
        cut = stream.at(begin, self.tail).find(b"\n") + 1
        return begin + cut if cut else begin


class Outlets(NamedTuple):
    """The files, pipes or terminal that a rank writes to."""

    out: tuple[str, ...]
    """Paths for its stdout, of which the first that can be opened is used: the log, or the pipe to it."""
    err: tuple[str, ...]
    pipes: tuple[str, str] | None
    """Pipes it switches to when it can no longer write its stdout and its stderr."""
    screen: str
    """Pseudo-terminal to open as both instead; empty for none."""


class LogStreamer:
    """The output of this node's ranks. `complain` writes a message to agent.log."""

    with_results = False
    """True if results of ranks are sent to `KEEP`: ranks call a function, and nobody else has this run directory."""
    node_folder = ""
    """Directory of the file with the times of output; set before logs are followed."""

    def __init__(self, loop: EventLoop, emit: Emit, complain: Callable[[str], object]) -> None:
        self.loop, self.emit, self.complain = loop, emit, complain
        self.readers: dict[str, LogSubscription] = {}
        self._follower: LogWatcher | None = None
        self._attempt, self._folder = 0, ""
        self._streams: list[LogFile] = []
        """Streams of all attempts."""
        self._shown: set[int] = set()
        self._timeline: Timeline | None = None
        self.terminal: dict[str, int] | None = None
        """`rows` and `columns` of each rank's pseudo-terminal; None for none."""
        self._screens: dict[int, PseudoTerminal] = {}
        """Pseudo-terminals by rank; like the pipes, they serve all attempts."""
        self.clock = time.time
        """Time of day on the clock that all nodes of the run use."""
        self._overflows: dict[tuple[int, str], Overflow] = {}
        """The pipe of each log, by rank and kind."""
        self._risky = False
        """True if the disk may be full before this attempt ends: ranks write into pipes from the start."""

    def read(self, name: str, want: bool | list[int], offsets: Mapping[str, int], tail: int | None) -> None:
        """Add a reader, or restart one from other offsets."""
        self.readers[name] = reader = LogSubscription(want, offsets, tail)
        for stream in self._streams:
            if stream.kind == RESULT and name != KEEP:
                continue
            reader.grown(Piece(stream, stream.size()))
            reader.place(stream)

    def acknowledge(self, name: str, count: int) -> None:
        """Record that a reader has processed so many bytes and accepts more."""
        if name in self.readers:
            self.readers[name].in_flight -= count

    def follow(self, attempt: int, folder: str, ranks: Iterable[int]) -> None:
        """Follow the files of a new attempt."""
        self.notice()
        if self._follower is not None:
            self.loop.remove_reader(self._follower.fd)
            self._follower.close()
        self.settle()
        for (rank, kind), overflow in self._overflows.items():
            overflow.lead_to(rank_file(folder, rank, kind))
        self._attempt, self._folder, self._shown = attempt, folder, set()
        self._risky = may_fill_up(folder)
        kinds = ("out", "err", RESULT) if self.with_results else ("out", "err")
        self._follower = LogWatcher(folder, ranks, attempt, kinds)
        self._streams += self._follower.streams.values()
        for reader in self.readers.values():
            reader.tail = None  # output from now on is sent from its beginning
        self._watch(self._follower)

    def follow_more(self, rank: int) -> None:
        """Follow the files of one more rank, which may have written already."""
        assert self._follower is not None
        for stream in self._follower.add(rank):
            self._streams.append(stream)
        self.loop.call_later(_BREATH, self.notice)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the pseudo-terminals."""
        if self.terminal is not None:
            self.terminal.update(rows=rows, columns=columns)
        for screen in self._screens.values():
            screen.resize(rows, columns)

    def outlets(self, rank: int) -> Outlets:
        """Return where this rank is to write in this attempt. Without a pipe it can write only its files."""
        logs = [rank_file(self._folder, rank, kind) for kind in ("out", "err")]
        screen = self._screen(rank)
        try:
            overflows = [self._overflow(rank, kind) for kind in ("out", "err")]
        except OSError as error:  # no descriptors left, or no /proc
            self.complain(f"cannot create a pipe for the logs of rank {rank}: {processes.reason(error)}")
            return Outlets((logs[0],), (logs[1],), None, screen)
        out, err = (overflow.pipe for overflow in overflows)
        if self._risky or screen:
            for overflow in overflows:
                overflow.begin()
        if self._risky:
            return Outlets((out, logs[0]), (err, logs[1]), None, screen)
        return Outlets((logs[0], out), (logs[1], err), (out, err), screen)

    def _screen(self, rank: int) -> str:
        """Return the path of this rank's pseudo-terminal; empty if it has none."""
        if self.terminal is None:
            return ""
        if rank not in self._screens:
            try:
                self._screens[rank] = PseudoTerminal(**self.terminal)
            except OSError as error:
                self.emit("note", text=f"warning: no pseudo-terminal for rank {rank}: {error.strerror}")
                self.terminal = None
                return ""
            self._overflow(rank, "out", self._screens[rank].master)
        return self._screens[rank].path

    def _overflow(self, rank: int, kind: str, source: int | None = None) -> Overflow:
        """Return the pipe of a log. Raises OSError.

        It serves all attempts, because a later one may have no descriptors left.
        """
        if (rank, kind) not in self._overflows:
            overflow = Overflow(f"{'stdout' if kind == 'out' else 'stderr'} of rank {rank}", source=source)
            if source is None and overflow.fd >= processes.first_reserved():
                overflow.close()
                raise OSError(errno.EMFILE, "too few file descriptors left (`ulimit -n`)")
            overflow.lead_to(rank_file(self._folder, rank, kind))
            self._overflows[rank, kind] = overflow
            self._look_at(rank, kind)
        return self._overflows[rank, kind]

    def _look_at(self, rank: int, kind: str) -> None:
        self.loop.add_reader(self._overflows[rank, kind].fd, lambda: self._flowed(rank, kind))

    def _flowed(self, rank: int, kind: str) -> None:
        """Handle data in a pipe. Unless there is much, pause before checking again."""
        overflow = self._overflows[rank, kind]
        if self._drain(rank, kind) >= _MUCH:
            return
        self.loop.remove_reader(overflow.fd)
        self.loop.call_later(_BREATH, lambda: self._look_at(rank, kind))

    def _drain(self, rank: int, kind: str) -> int:
        """Read what is in a pipe, up to a limit; return the number of bytes."""
        overflow, taken = self._overflows[rank, kind], 0
        while taken < _ENOUGH:
            moved = overflow.take()
            if moved is None:
                break
            taken += moved.size
            if moved.lost:
                self._lose(rank, kind, moved.lost)
        if overflow.loss.going_on != overflow.told.going_on:
            self._tell_loss(rank, kind)
        return taken

    def _lose(self, rank: int, kind: str, data: bytes) -> None:
        """Search bytes that are in no file for tracebacks, and send them to a reader that has seen all before them."""
        assert self._follower is not None
        stream = next(stream for stream in self._follower.of(rank) if stream.kind == kind)
        if kind == self._says_why(rank):
            stream.scan()
            stream.look_through(data)
        reader = self.readers.get("")
        if reader is None or not reader.wants(rank):
            return
        self.notice()
        self.send()
        if reader.in_flight < _ENOUGH and not any(piece.stream is stream for piece in reader.unsent):
            reader.in_flight += len(data)
            place = {"rank": rank, "stream": kind, "attempt": self._attempt, "offset": reader.place(stream)}
            self.emit("output", data, reader="", **place)

    def _tell_loss(self, rank: int, kind: str) -> None:
        """Report to the controller what is missing in a log."""
        overflow = self._overflows[rank, kind]
        overflow.told = overflow.loss
        self.emit("unlogged", attempt=self._attempt, rank=rank, stream=kind, **overflow.loss._asdict())

    def settle(self, rank: int | None = None) -> None:
        """Read the rest of a rank's pipes (or of all) after its exit, and report the total loss."""
        for (number, kind), overflow in self._overflows.items():
            if rank is None or number == rank:
                self._drain(number, kind)
                overflow.settle()
                if overflow.loss != overflow.told:
                    self._tell_loss(number, kind)

    def _watch(self, follower: LogWatcher) -> None:
        if follower.fd >= 0:
            self.loop.add_reader(follower.fd, lambda: self._noticed(follower))
        else:
            self.loop.call_later(_LOOK, lambda: self._noticed(follower))

    def _noticed(self, follower: LogWatcher) -> None:
        """Handle growth of logs. Pause before checking again: a rank with much output would keep this process busy."""
        if follower is not self._follower:
            return
        self.notice(decide=False)
        self.loop.remove_reader(follower.fd)

        def again() -> None:
            if follower is self._follower:
                self._watch(follower)

        self.loop.call_later(_BREATH, again)

    def notice(self, decide: bool = True) -> None:
        """Record what has grown. Unless `decide`, growth whose order is uncertain may wait for a moment."""
        pieces = self._follower.notice(decide) if self._follower is not None else []
        if self._follower is not None and self._follower.undecided:
            self._look_for_tracebacks(self._follower.in_doubt)
            self.loop.call_later(_BREATH, lambda: self.notice(decide=False))
        results = [piece for piece in pieces if piece.stream.kind == RESULT] if self.with_results else []
        if results and KEEP in self.readers:
            for piece in results:
                self.readers[KEEP].grown(piece)
        pieces = [piece for piece in pieces if piece not in results] if results else pieces
        self._look_for_tracebacks(piece.stream for piece in pieces)
        for stream in dict.fromkeys(piece.stream for piece in pieces):
            if stream.rank not in self._shown:
                self._shown.add(stream.rank)
                self.emit("first_output", rank=stream.rank, attempt=self._attempt)
        for piece in pieces:
            for reader in self.readers.values():
                reader.grown(piece)
        if pieces:
            if self._timeline is None:
                write = Appender(os.path.join(self.node_folder, NAME))
                self._timeline = Timeline(write, self.loop.call_later, self.clock)
            self._timeline.grown(self._attempt, ((stream.rank, stream.kind, upto) for stream, upto in pieces))

    def _look_for_tracebacks(self, grown: Iterable[LogFile]) -> None:
        """Search new output at once, even in uncertain order: the time of a traceback shows which rank failed first."""
        for stream in dict.fromkeys(grown):
            if stream.kind == self._says_why(stream.rank):
                stream.scan()

    def send(self) -> None:
        """Send requested output, as far as the readers accept it."""
        for name, reader in self.readers.items():
            while reader.unsent and reader.in_flight < _ENOUGH:
                stream, upto = piece = reader.unsent.popleft()
                offset = reader.place(stream)
                data = stream.at(offset, min(_PIECE, upto - offset)) if upto > offset else b""
                if len(data) == _PIECE:
                    # the excess of one stream is queued behind the others
                    (reader.unsent.append if upto - offset > _ENOUGH else reader.unsent.appendleft)(piece)
                if data:
                    reader.places[stream] += len(data)
                    reader.in_flight += len(data)
                    place = {"rank": stream.rank, "stream": stream.kind, "attempt": stream.attempt, "offset": offset}
                    self.emit("output", data, reader=name, **place)

    def finish(self, drain: bool) -> None:
        """Handle the end of all output; unless `drain`, what is not sent yet is dropped."""
        self.settle()
        self.notice()
        if self._timeline is not None:
            self._timeline.flush()
        if not drain:
            self.readers.clear()

    def close(self) -> None:
        """Close all files, in a process that continues after the run."""
        if self._follower is not None:
            self.loop.remove_reader(self._follower.fd)
            self._follower.close()
            self._follower = None
        for overflow in self._overflows.values():
            self.loop.remove_reader(overflow.fd)
            overflow.close()
        self._overflows.clear()

    @property
    def sent(self) -> bool:
        """True if all requested output was sent."""
        return not any(reader.unsent for reader in self.readers.values())

    @property
    def kept(self) -> bool:
        """True if the copy of logs on node 0 has acknowledged everything."""
        return KEEP not in self.readers or self.readers[KEEP].in_flight <= 0

    def _says_why(self, rank: int) -> str:
        """Return the stream that has what a rank wrote to stderr."""
        return "out" if rank in self._screens else "err"

    def rank_ended(self, rank: int) -> None:
        """Complete the log of a rank that has exited."""
        self.settle(rank)

    def why(self, rank: int, code: int | None, number: int | None) -> dict[str, Any]:
        """Return the cause of a rank's failure from what it left, and when that began."""
        self.notice()
        kind = self._says_why(rank)
        overflow = self._overflows.get((rank, kind))
        streams = {stream.kind: stream for stream in self._follower.of(rank)} if self._follower is not None else {}
        stream = streams.get(kind)
        offset = stream.traceback_offset if stream is not None else 0
        unlogged = overflow.recent if overflow is not None else b""
        seen = stream.traceback_at if stream is not None else None
        evidence = gather(self._folder, rank, kind, offset, unlogged, seen)
        found = explain(evidence._replace(code=code, signalled=number is not None, mixed=kind == "out"))
        if evidence.noted_at is not None:
            found["t"] = evidence.noted_at
        elif found["kind"] != "ended" and stream is not None and stream.traceback_at:
            found["t"] = stream.traceback_at
        else:
            found["t"] = time.monotonic()
        return found

    def notes(self, rank: int) -> list[str]:
        """Return what else the output of a rank that has exited tells."""
        out, err = (tail(rank_file(self._folder, rank, kind), _LAST) for kind in ("out", "err"))
        return notes_of(out, err)
