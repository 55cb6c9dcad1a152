"""The logs of the ranks of a node, as its agent handles them: notice what grows, send what is wanted, keep time."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from muster.agent.failure import explain
from muster.agent.log_overflow import Overflow, may_fill_up
from muster.agent.log_timeline import NAME, Appender, Timeline
from muster.agent.logfiles import LogFile, LogWatcher, Piece, tail
from muster.agent.pseudo_terminal import PseudoTerminal
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit
from muster.protocol.paths import rank_file

KEEP = "keep"
"""The reader that keeps on node 0 what the ranks of this node write here alone."""
_ENOUGH = 1 << 20
"""Bytes sent to a reader and not yet taken beyond which no more is read for it; the files keep it."""
_PIECE = 1 << 16
_BREATH = 0.01
"""Seconds between two looks at growing logs: many small lines are taken together."""
_MUCH = 1 << 14
"""Bytes that come through a pipe at once where it is not worth while to wait for more: whoever writes waits then."""
_LOOK = 0.25
"""The same, where the kernel does not tell of growth."""
_PIECES = 1024
"""Pieces that wait to be sent to a reader, beyond which it is only kept which streams have more."""


class LogSubscription:
    """Somebody who wants output: the terminal, a viewer, or who keeps it where it is needed."""

    def __init__(self, want: bool | list[int], offsets: Mapping[str, int], tail: int | None) -> None:
        self.want, self.offsets, self.tail = want, offsets, tail
        """Ranks (all, none, or a list); from where (`"0/3.out": 17`); without that only so many last bytes."""
        self.in_flight = 0
        """Bytes that were sent and that nobody has taken yet."""
        self.places: dict[LogFile, int] = {}
        self.unsent: deque[Piece] = deque()
        """What was written and not yet sent, in the order in which it was, of earlier attempts too."""

    def wants(self, rank: int) -> bool:
        """What this rank writes is wanted."""
        return self.want is True or bool(self.want and rank in self.want)

    def grown(self, piece: Piece) -> None:
        """There may be more in this stream."""
        if not self.wants(piece.stream.rank):
            return
        if self.unsent and self.unsent[-1].stream is piece.stream:
            self.unsent.pop()
        self.unsent.append(piece)
        if len(self.unsent) > _PIECES:
            self.unsent = deque(Piece(*item) for item in dict(self.unsent).items())

    def place(self, stream: LogFile) -> int:
        """How far it was read, or from where."""
        if stream not in self.places:
            name = f"{stream.attempt}/{stream.rank}.{stream.kind}"
            self.places[stream] = self.offsets[name] if name in self.offsets else self._last(stream)
        return self.places[stream]

    def _last(self, stream: LogFile) -> int:
        """The beginning of a line, `tail` bytes before the end as it was when the reader came."""
        if self.tail is None:
            return 0
        begin = max(0, stream.size() - self.tail)
        if not begin:
            return 0
        cut = stream.at(begin, self.tail).find(b"\n") + 1
        return begin + cut if cut else begin


class Outlets(NamedTuple):
    """Where a rank writes."""

    out: tuple[str, ...]
    """Its stdout is the first of these that can be opened: the log, or the pipe that leads there."""
    err: tuple[str, ...]
    pipes: tuple[str, str] | None
    """What it may change over to when it cannot write its stdout, and its stderr, any more."""
    screen: str
    """What it opens as both of them in their place: a pseudo-terminal; empty for none."""


class LogStreamer:
    """What the ranks write. `complain` writes something into agent.log."""

    node_folder = ""
    """Where the times at which ranks wrote are kept; there is one once something is followed."""

    def __init__(self, loop: EventLoop, emit: Emit, complain: Callable[[str], object]) -> None:
        self.loop, self.emit, self.complain = loop, emit, complain
        self.readers: dict[str, LogSubscription] = {}
        self._follower: LogWatcher | None = None
        self._attempt, self._folder = 0, ""
        self._streams: list[LogFile] = []
        """Of all attempts."""
        self._shown: set[int] = set()
        self._timeline: Timeline | None = None
        self.terminal: dict[str, int] | None = None
        """`rows` and `columns` of the pseudo-terminal that each rank has; None for none."""
        self._screens: dict[int, PseudoTerminal] = {}
        """Of all attempts, as the pipes are."""
        self.clock = time.time
        """The time, by the clock that all nodes of the run go by."""
        self._overflows: dict[tuple[int, str], Overflow] = {}
        """The pipe of each log, by rank and kind."""
        self._risky = False
        """The disk may be full before this attempt ends: ranks write into pipes from the start."""

    def read(self, name: str, want: bool | list[int], offsets: Mapping[str, int], tail: int | None) -> None:
        """Have a reader, or have one begin again from other places."""
        self.readers[name] = reader = LogSubscription(want, offsets, tail)
        for stream in self._streams:
            reader.grown(Piece(stream, stream.size()))
            reader.place(stream)

    def acknowledge(self, name: str, count: int) -> None:
        """A reader has done with so many bytes, and takes more."""
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
        self._follower = LogWatcher(folder, ranks, attempt)
        self._streams += self._follower.streams.values()
        for reader in self.readers.values():
            reader.tail = None  # what begins now is seen from its beginning
        self._watch(self._follower)

    def follow_more(self, rank: int) -> None:
        """Follow the files of one rank more, which may have written already."""
        assert self._follower is not None
        for stream in self._follower.add(rank):
            self._streams.append(stream)
        self.loop.call_later(_BREATH, self.notice)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal on which ranks are shown has another size now."""
        if self.terminal is not None:
            self.terminal.update(rows=rows, columns=columns)
        for screen in self._screens.values():
            screen.resize(rows, columns)

    def outlets(self, rank: int) -> Outlets:
        """Where this rank is to write in this attempt. Without a pipe it can only write its files."""
        logs = [rank_file(self._folder, rank, kind) for kind in ("out", "err")]
        screen = self._screen(rank)
        try:
            overflows = [self._overflow(rank, kind) for kind in ("out", "err")]
        except OSError as error:  # there is no descriptor left, or no /proc
            self.complain(f"there is no pipe for the logs of rank {rank}: {processes.reason(error)}")
            return Outlets((logs[0],), (logs[1],), None, screen)
        out, err = (overflow.pipe for overflow in overflows)
        if self._risky or screen:
            for overflow in overflows:
                overflow.begin()
        if self._risky:
            return Outlets((out, logs[0]), (err, logs[1]), None, screen)
        return Outlets((logs[0], out), (logs[1], err), (out, err), screen)

    def _screen(self, rank: int) -> str:
        """The pseudo-terminal of this rank; empty where it has none."""
        if self.terminal is None:
            return ""
        if rank not in self._screens:
            try:
                self._screens[rank] = PseudoTerminal(**self.terminal)
            except OSError as error:
                self.emit("note", text=f"rank {rank} has no pseudo-terminal: {error.strerror}")
                self.terminal = None
                return ""
            self._overflow(rank, "out", self._screens[rank].master)
        return self._screens[rank].path

    def _overflow(self, rank: int, kind: str, source: int | None = None) -> Overflow:
        """The pipe of a log; it serves all attempts, for later there may be no descriptor for one. Raises OSError."""
        if (rank, kind) not in self._overflows:
            overflow = Overflow(f"rank {rank}'s {'stdout' if kind == 'out' else 'stderr'}", source=source)
            if source is None and overflow.fd >= processes.first_reserved():
                overflow.close()
                raise OSError(errno.EMFILE, "too few descriptors are left (`ulimit -n`)")
            overflow.lead_to(rank_file(self._folder, rank, kind))
            self._overflows[rank, kind] = overflow
            self._look_at(rank, kind)
        return self._overflows[rank, kind]

    def _look_at(self, rank: int, kind: str) -> None:
        self.loop.add_reader(self._overflows[rank, kind].fd, lambda: self._flowed(rank, kind))

    def _flowed(self, rank: int, kind: str) -> None:
        """Something has come through a pipe. Look no more for a breath, unless much has come."""
        overflow = self._overflows[rank, kind]
        if self._drain(rank, kind) >= _MUCH:
            return
        self.loop.remove_reader(overflow.fd)
        self.loop.call_later(_BREATH, lambda: self._look_at(rank, kind))

    def _drain(self, rank: int, kind: str) -> int:
        """Take what is in a pipe, or a good part of what keeps coming; gives how many bytes that were."""
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
        """These bytes are in no file: look through them all the same, and show them to who has seen all before them."""
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
        """Tell the supervisor what a log lacks."""
        overflow = self._overflows[rank, kind]
        overflow.told = overflow.loss
        self.emit("unlogged", attempt=self._attempt, rank=rank, stream=kind, **overflow.loss._asdict())

    def settle(self, rank: int | None = None) -> None:
        """This rank, or whoever else wrote, has ended: take the rest, and tell what was lost in all."""
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
        """Some log has grown. Look no more for a breath: a chatty rank would keep this process busy."""
        if follower is not self._follower:
            return
        self.notice(decide=False)
        self.loop.remove_reader(follower.fd)

        def again() -> None:
            if follower is self._follower:
                self._watch(follower)

        self.loop.call_later(_BREATH, again)

    def notice(self, decide: bool = True) -> None:
        """Take note of what has grown. Unless it is to `decide`, what is in doubt of the order may wait a moment."""
        pieces = self._follower.notice(decide) if self._follower is not None else []
        if self._follower is not None and self._follower.undecided:
            self._look_for_tracebacks(self._follower.in_doubt)
            self.loop.call_later(_BREATH, lambda: self.notice(decide=False))
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
        """Look at once, even where the order is in doubt: the time of a traceback tells which rank of all nodes failed
        first."""
        for stream in dict.fromkeys(grown):
            if stream.kind == self._says_why(stream.rank):
                stream.scan()

    def send(self) -> None:
        """Send what is wanted, as far as it is taken."""
        for name, reader in self.readers.items():
            while reader.unsent and reader.in_flight < _ENOUGH:
                stream, upto = piece = reader.unsent.popleft()
                offset = reader.place(stream)
                data = stream.at(offset, min(_PIECE, upto - offset)) if upto > offset else b""
                if len(data) == _PIECE:
                    # what is more than a reader takes at once goes behind the others
                    (reader.unsent.append if upto - offset > _ENOUGH else reader.unsent.appendleft)(piece)
                if data:
                    reader.places[stream] += len(data)
                    reader.in_flight += len(data)
                    place = {"rank": stream.rank, "stream": stream.kind, "attempt": stream.attempt, "offset": offset}
                    self.emit("output", data, reader=name, **place)

    def finish(self, drain: bool) -> None:
        """No more will be written; unless `drain`, what is not yet sent never will be."""
        self.settle()
        self.notice()
        if self._timeline is not None:
            self._timeline.flush()
        if not drain:
            self.readers.clear()

    @property
    def sent(self) -> bool:
        """All that is wanted has been sent."""
        return not any(reader.unsent for reader in self.readers.values())

    @property
    def kept(self) -> bool:
        """Who keeps a copy elsewhere has done with all that was sent."""
        return KEEP not in self.readers or self.readers[KEEP].in_flight <= 0

    def _says_why(self, rank: int) -> str:
        """The stream that holds what a rank wrote on stderr."""
        return "out" if rank in self._screens else "err"

    def rank_ended(self, rank: int) -> None:
        """All that this rank wrote is to be in its log."""
        self.settle(rank)

    def why(self, rank: int, signalled: bool) -> dict[str, Any]:
        """The last words of a rank that failed, and when they began."""
        self.notice()
        kind = self._says_why(rank)
        overflow = self._overflows.get((rank, kind))
        said = tail(rank_file(self._folder, rank, kind)) + (overflow.recent if overflow is not None else b"")
        words = explain(said, signalled, mixed=kind == "out")
        streams = self._follower.of(rank) if self._follower is not None else []
        words["t"] = next((stream.traceback_at for stream in streams if stream.traceback_at), None)
        if words["kind"] == "ended" or words["t"] is None:
            words["t"] = time.monotonic()
        return words
