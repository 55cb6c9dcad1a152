"""The logs of an attempt in the order of writing, using the times recorded by agents (`log_timeline.py`)."""

from __future__ import annotations

import heapq
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import IO, NamedTuple

from muster.agent.log_timeline import NAME, Grown, Reading
from muster.rundir.run import Run, Unreadable

Key = tuple[int, str]
"""(rank, stream)."""

_PIECE = 1 << 15
"""Bytes read at a time; for larger buffers malloc returns memory to the kernel, which costs more than reading."""
_OPEN = 128
"""Maximum number of open files."""
_BACK = 100_000
"""Number of spans that `begin_before_last` checks first; it checks all if these have too few lines."""


class Span(NamedTuple):
    """Bytes of a log from `begin` up to `end` that were written consecutively."""

    key: Key
    begin: int
    end: int
    time: float | None
    """Unix time; None if no agent recorded it."""


class Written(NamedTuple):
    """Output of a rank."""

    rank: int
    stream: str
    data: bytes
    time: float | None


class _Times:
    """The times recorded by one agent, as they arrive."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self._at, self._reading = 0, Reading()

    def more(self) -> Iterator[Grown]:
        """Yield what was added since the last call."""
        try:
            with self.run.open_file(self.name) as file:
                file.seek(self._at)
                while data := file.read(_PIECE):
                    self._at += len(data)
                    yield from self._reading.feed(data)
        except OSError:
            return


class Ordered:
    """The logs of some ranks of an attempt: each `read` returns what was added since the last one, in order."""

    def __init__(
        self, run: Run, attempt: int, keys: Sequence[Key], more: Callable[[int], Sequence[Grown]] = lambda attempt: ()
    ) -> None:
        """`more` returns growth of the logs of an attempt that is known from elsewhere, since it was last called."""
        self.run, self.attempt, self._more = run, attempt, more
        self.places: dict[Key, int] = dict.fromkeys(keys, 0)
        """How far each log was read."""
        self.untimed: set[int] = set()
        """Ranks with output of unknown time."""
        self._times: dict[str, _Times] = {}
        self._timed: set[Key] = set()
        self._stood: dict[Key, int] = {}
        """The length of each log at the last `read`."""
        self._files: OrderedDict[Key, IO[bytes]] = OrderedDict()

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()

    def read(self, all_of_it: bool) -> Iterator[Written]:
        """Yield the output since the last call.

        Unless `all_of_it`, output without a recorded time is held back until the next call: its time may still arrive.
        """
        sizes = {key: self._size(key) for key in self.places}
        yield from self._written(self._known(self._times, self.places))
        beyond = sizes if all_of_it else {key: min(size, self._stood.get(key, 0)) for key, size in sizes.items()}
        yield from self._written(self._unknown(self.places, beyond))
        self._stood = sizes

    def _written(self, spans: Iterable[Span]) -> Iterator[Written]:
        for key, begin, end, time in spans:
            if time is None:
                self.untimed.add(key[0])
            while begin < end:
                data = self._bytes(key, begin, min(_PIECE, end - begin))
                if not data:
                    break
                begin += len(data)
                yield Written(*key, data, time)

    # ---- order from recorded times ----------------------------------------------------------------------------------

    def _known(self, times: dict[str, _Times], places: dict[Key, int]) -> Iterator[Span]:
        """Yield the spans that agents recorded since `times` were last read, and advance `places`."""
        for path in sorted(self.run.path.glob(f"node_*/{NAME}")):
            name = str(path.relative_to(self.run.path))
            if name not in times:
                times[name] = _Times(self.run, name)
        told = [one.more() for one in times.values()]
        if times is self._times:
            told.append(iter(self._more(self.attempt)))
        for grown in heapq.merge(*told, key=attrgetter("time")):
            key = grown.rank, grown.stream
            if grown.attempt == self.attempt and key in places:
                self._timed.add(key)
                end = min(grown.upto, self._size(key)) if grown.upto > places[key] else 0
                if end > places[key]:
                    begin, places[key] = places[key], end
                    yield Span(key, begin, end, grown.time)

    def _unknown(self, places: dict[Key, int], upto: dict[Key, int]) -> Iterator[Span]:
        """Yield output without a recorded time: the agent was killed, its disk was full, or it is older."""
        for key, end in upto.items():
            if end > places[key]:
                begin, places[key] = places[key], end
                yield Span(key, begin, end, self._changed(key) if key in self._timed else None)

    # ---- where to start ---------------------------------------------------------------------------------------------

    def begin_since(self, since: float) -> None:
        """Start with the line being written at Unix time `since`; logs without times start at their beginning."""
        places = dict(self.places)
        for span in self._known({}, places):
            if span.time is not None and span.time > since:
                break
            self.places[span.key] = span.end
        for key, place in self.places.items():
            self.places[key] = self._line_begin(key, place)

    def begin_before_last(self, count: int) -> None:
        """Start early enough to include the last `count` lines."""
        for most in (_BACK, None):
            places = dict(self.places)
            last = deque(self._known({}, places), maxlen=most)
            last.extend(self._unknown(places, {key: self._size(key) for key in places}))
            found = self._back(last, count)
            if found is not None or most is None or len(last) < most:
                break
        if found is None:
            return
        for key, place in places.items():
            begin = self._line_begin(key, found.get(key, place))
            self.places[key] = max(self.places[key], begin)

    def _back(self, spans: deque[Span], count: int) -> dict[Key, int] | None:
        """Return for each log where to start for `count` lines; None if these spans have fewer."""
        found: dict[Key, int] = {}
        lines = 0
        for key, begin, end, _ in reversed(spans):
            while begin < end:
                start = max(begin, end - _PIECE)
                lines += self._bytes(key, start, end - start).count(b"\n")
                found[key] = end = start
                if lines > count:
                    return found
        return None

    def _line_begin(self, key: Key, place: int) -> int:
        """Return where the line starts that continues at this offset."""
        while place > 0:
            begin = max(0, place - _PIECE)
            at = self._bytes(key, begin, place - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            place = begin
        return 0

    # ---- files ------------------------------------------------------------------------------------------------------

    def _file(self, key: Key) -> IO[bytes] | None:
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        try:
            file = self.run.open_log(self.attempt, *key)
        except FileNotFoundError:
            return None
        except OSError as error:
            name = self.run.log(self.attempt, *key).relative_to(self.run.path)
            raise Unreadable(self.run, str(name), error.strerror or str(error)) from None
        self._files[key] = file
        if len(self._files) > _OPEN:
            self._files.popitem(last=False)[1].close()
        return file

    def _bytes(self, key: Key, begin: int, count: int) -> bytes:
        file = self._file(key)
        return b"" if file is None else os.pread(file.fileno(), count, begin)

    def _size(self, key: Key) -> int:
        file = self._file(key)
        return 0 if file is None else os.fstat(file.fileno()).st_size

    def _changed(self, key: Key) -> float | None:
        file = self._file(key)
        return None if file is None else os.fstat(file.fileno()).st_mtime
