"""Output that several ranks wrote, shown once: texts that are equal up to numbers are folded over ranks. Pure.

Ranks of one script print the same lines and raise the same exceptions. Numbers that differ between them (their own
rank, addresses, ports, times) do not prevent folding: the number of the first rank is shown, followed by `…`. Line
numbers in a traceback are no such numbers, because ranks at different lines are not at the same place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import eq
from typing import NamedTuple

MARK = "…"
"""Follows a number that differs between the folded ranks."""

_NUMBER = (
    # looking at the first character first makes this five times as fast
    r"(?=[-0-9])(?:0[xX][0-9a-fA-F]+|(?<=[Rr]ank)[0-9]+"
    # neither within a name (`fp16`) nor a line of code; dates, times and addresses are one number
    r'|(?<![A-Za-z0-9])(?<!", line )(?<!\.py:)(?<!\.cpp:)-?[0-9]+(?:[-.:,][0-9]+)*(?:[eE][-+]?[0-9]+)?)'
)
_BLANK = "\0"

_AHEAD = 128
"""Number of pending lines in which the counterpart of a line is searched for."""
_LINES, _CHARACTERS = 20_000, 4 << 20
"""Maximum number and size of pending lines: beyond it the older half is returned, and folds with nothing any more."""
_APART = 10.0
"""Seconds after which equal lines are no longer folded."""
_BLOCKS_BACK = 64
"""Number of blocks that a line may be moved up over, to join others of the same ranks."""


class Block(NamedTuple):
    """Consecutive lines that the same ranks wrote."""

    ranks: tuple[int, ...]
    lines: tuple[str, ...]


class FoldedText(NamedTuple):
    """A text that these ranks have in common, up to numbers."""

    ranks: tuple[int, ...]
    text: str


class _Shape(NamedTuple):
    """A text, and the numbers in it."""

    between: str
    """The text with a NUL in place of each number."""
    numbers: tuple[str, ...]


@lru_cache(maxsize=4096)
def _pattern(host: str) -> re.Pattern[str]:
    own = rf"(?<![\w.-]){re.escape(host)}(?![\w-])|" if host else ""
    return re.compile(own + _NUMBER)


def _shape(text: str, host: str = "") -> _Shape:
    """Return the shape of a text; the name of its own `host` is as good as a number."""
    host = host if host and host in text else ""
    return _cached_shape(text, host) if len(text) <= _SHORT else _new_shape(text, host)


def _new_shape(text: str, host: str) -> _Shape:
    numbers: list[str] = []

    def keep(found: re.Match[str]) -> str:
        numbers.append(found[0])
        return _BLANK

    return _Shape(_pattern(host).sub(keep, text.replace(_BLANK, "\\0")), tuple(numbers))


_SHORT = 1000
"""Maximum length of a text whose shape is cached, because other ranks will probably write the same."""
_cached_shape = lru_cache(maxsize=1024)(_new_shape)


def _unshaped(shape: _Shape, differs: Iterable[int]) -> str:
    """Return the text of a shape, with a mark after the numbers that differ."""
    pieces, marked = shape.between.split(_BLANK), frozenset(differs)
    text = [pieces[0]]
    for place, (number, piece) in enumerate(zip(shape.numbers, pieces[1:])):
        text += (number, MARK if place in marked else "", piece)
    return "".join(text)


def fold_texts(texts: Mapping[int, str], hosts: Mapping[int, str] | None = None) -> list[FoldedText]:
    """Fold whole texts by rank, such as tracebacks or stacks. `hosts`: the name of the host of each rank.

    The texts are ordered by their first rank.
    """
    groups: dict[str, tuple[_Shape, list[int], set[int]]] = {}
    for rank in sorted(texts):
        shape = _shape(texts[rank], (hosts or {}).get(rank, ""))
        first, ranks, differs = groups.setdefault(shape.between, (shape, [], set()))
        ranks.append(rank)
        differs.update(place for place, pair in enumerate(zip(first.numbers, shape.numbers)) if len(set(pair)) > 1)
    return [FoldedText(tuple(ranks), _unshaped(shape, differs)) for shape, ranks, differs in groups.values()]


class _Kind:
    """Pending lines of one stream that are equal up to numbers."""

    __slots__ = ("count", "ranks")

    def __init__(self) -> None:
        self.count = 0
        self.ranks = 0
        """The ranks that wrote one of them, as bits: a set of 1,024 of them would take 32 KiB."""


class _Line:
    """A pending line of one or several ranks, in the list of all pending lines."""

    __slots__ = ("differs", "following", "key", "kind", "ranks", "shape", "text", "time")

    def __init__(self, text: str, shape: _Shape, key: tuple[str, str], kind: _Kind, ranks: int, time: float | None):
        self.text, self.shape, self.key, self.kind, self.time = text, shape, key, kind, time
        self.ranks = ranks
        self.differs: set[int] = set()
        self.following: _Line | None = None


_NO_SHAPE = _Shape("", ())


class LineFolder:
    """Folds lines that ranks write, in bounded memory.

    The lines of each stream of a rank stay in order. A line is compared with pending lines of other ranks only: up to
    20,000 lines, 4 MiB and 10 s apart.
    """

    def __init__(self, hosts: Mapping[int, str]) -> None:
        """`hosts`: the name of the host of each rank."""
        self._hosts = hosts
        self._clear()

    def _clear(self) -> None:
        self._head = _Line("", _NO_SHAPE, ("", ""), _Kind(), 0, None)
        self._last_of: dict[tuple[int, str], _Line] = {}
        """The last pending line of each stream of a rank."""
        self._latest: dict[int, _Line] = {}
        """The last pending line of each rank."""
        self._kinds: dict[tuple[str, str], _Kind] = {}
        """By stream and shape."""
        self._count = self._size = 0

    def add(self, rank: int, stream: str, line: str, time: float | None = None) -> list[Block]:
        """Add a line, written at this Unix time if known, and return what can no longer change."""
        done = self._settled(time)
        latest = self._latest.get(rank, self._head)
        shape = _shape(line, self._hosts.get(rank, ""))
        key = stream, shape.between
        kind = self._kinds.setdefault(key, _Kind())
        found = self._joined(latest, rank, stream, line, shape, kind) if kind.ranks & ~(1 << rank) else None
        if found is None:
            found = self._latest[rank] = _Line(line, shape, key, kind, 1 << rank, time)
            latest.following, found.following = found, latest.following
            kind.count += 1
            self._count += 1
            self._size += len(line)
        kind.ranks |= 1 << rank
        self._last_of[rank, stream] = found
        if self._count > _LINES or self._size > _CHARACTERS:
            done += self._take(self._count // 2)
        return done

    def rest(self) -> list[Block]:
        """Return all pending lines."""
        return self._take(self._count)

    def _joined(self, latest: _Line, rank: int, stream: str, text: str, shape: _Shape, kind: _Kind) -> _Line | None:
        """Return the pending line of other ranks that this one equals, after adding the rank to it."""
        last = self._last_of.get((rank, stream), self._head)
        best, most, beyond = None, -1, False
        passed = last is latest
        for found in _ahead(last):
            if found.kind is kind:
                alike = sum(map(eq, shape.numbers, found.shape.numbers))
                if alike > most:
                    best, most, beyond = found, alike, passed
                if alike == len(shape.numbers):
                    break
            elif found is latest:
                passed = True
        if best is None:
            return None
        if best.text != text:
            pairs = enumerate(zip(shape.numbers, best.shape.numbers))
            best.differs.update(place for place, (mine, other) in pairs if mine != other)
            if 1 << rank < _first(best.ranks):
                best.text, best.shape = text, shape
        best.ranks |= 1 << rank
        if beyond:
            self._latest[rank] = best
        return best

    def _settled(self, now: float | None) -> list[Block]:
        """Return the lines at the beginning that were written long ago."""
        count, line = 0, self._head.following
        while now is not None and line is not None and line.time is not None and now - line.time > _APART:
            count, line = count + 1, line.following
        return self._take(count) if count else []

    def _take(self, count: int) -> list[Block]:
        """Remove the first pending lines, and return them as blocks."""
        taken: list[_Line] = []
        line = self._head.following
        while line is not None and len(taken) < count:
            taken.append(line)
            line = line.following
        if line is None:
            self._clear()
        else:
            self._head.following = line
            gone = set(map(id, taken))
            self._last_of = {key: kept for key, kept in self._last_of.items() if id(kept) not in gone}
            self._latest = {key: kept for key, kept in self._latest.items() if id(kept) not in gone}
            for one in taken:
                one.kind.count -= 1
                if not one.kind.count:
                    del self._kinds[one.key]
            self._count -= len(taken)
            self._size -= sum(len(one.text) for one in taken)
        return _blocks(taken)


def _ahead(line: _Line) -> Iterator[_Line]:
    """Yield the next lines after this one."""
    following = line.following
    for _ in range(_AHEAD):
        if following is None:
            return
        yield following
        following = following.following


def _blocks(lines: Sequence[_Line]) -> list[Block]:
    """Put lines of the same ranks together, without changing the order of the lines of any rank."""
    found: list[tuple[int, list[str]]] = []
    for line in lines:
        text = _unshaped(line.shape, line.differs) if line.differs else line.text
        place, sorts = len(found), True
        for at in range(len(found) - 1, max(-1, len(found) - _BLOCKS_BACK - 1), -1):
            ranks, texts = found[at]
            if ranks == line.ranks:
                texts.append(text)
                break
            if ranks & line.ranks:
                found.insert(place, (line.ranks, [text]))
                break
            sorts = sorts and _first(ranks) > _first(line.ranks)
            place = at if sorts else place
        else:
            found.insert(place, (line.ranks, [text]))
    return [Block(_numbers(ranks), tuple(texts)) for ranks, texts in found]


def _first(ranks: int) -> int:
    """Return the lowest bit that is set."""
    return ranks & -ranks


def _numbers(ranks: int) -> tuple[int, ...]:
    """Return the numbers of the bits that are set."""
    return tuple(place for place, bit in enumerate(reversed(f"{ranks:b}")) if bit == "1")
