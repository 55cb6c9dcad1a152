"""`muster logs --fold`: the output of ranks with equal lines shown once, below the ranks that wrote them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from muster.core.folding import Block, LineFolder
from muster.core.hostlist import fold_hostlist
from muster.core.layout import named
from muster.ui.terminal import Where, keep_part, last_state

_LONGEST = 1 << 16
"""Bytes after which a line is cut: binary output may have no newline at all."""


class FoldedLines:
    """Splits the output of ranks into lines, and folds equal ones."""

    def __init__(self, where: Mapping[int, Where], colour: bool, tail: int | None = None) -> None:
        """`tail`: fold only the last lines, this many of all ranks together."""
        self._hosts = {rank: host for rank, (host, _, _) in where.items()}
        self._colour = colour
        self._folder = LineFolder(self._hosts)
        self._parts: dict[tuple[int, str], bytearray] = {}
        """Incomplete lines."""
        self._last: deque[tuple[int, str, bytes, float | None]] | None = None if tail is None else deque(maxlen=tail)
        self._headed: tuple[int, ...] = ()
        """The ranks of the last block that was shown."""

    def feed(self, rank: int, stream: str, data: bytes, moment: float | None = None) -> bytes:
        """Return what to write now after these bytes of a rank, which were written at Unix time `moment`."""
        part = self._parts.setdefault((rank, stream), bytearray())
        whole, newline, rest = data.rpartition(b"\n")
        lines: list[bytes] = []
        if newline:
            lines = (bytes(part) + whole).split(b"\n")
            part.clear()
        keep_part(part, rest)
        if len(part) > _LONGEST:
            lines.append(bytes(part))
            part.clear()
        return b"".join(self._put(rank, stream, line, moment) for line in lines)

    def rest(self) -> bytes:
        """Return what is left, with the last lines that did not end with a newline."""
        left = [(*key, bytes(part)) for key, part in sorted(self._parts.items()) if part]
        self._parts.clear()
        text = b"".join(self._put(*line, None) for line in left)
        if self._last is not None:
            last, self._last = self._last, None
            text += b"".join(self._put(*line) for line in last)
        return text + self._shown(self._folder.rest())

    def _put(self, rank: int, stream: str, line: bytes, moment: float | None) -> bytes:
        if self._last is not None:
            self._last.append((rank, stream, line, moment))
            return b""
        text = last_state(line).decode("utf-8", "surrogateescape")
        pieces = [text[begin : begin + _LONGEST] for begin in range(0, len(text), _LONGEST)] or [""]
        return b"".join(self._shown(self._folder.add(rank, stream, piece, moment)) for piece in pieces)

    def _shown(self, blocks: Iterable[Block]) -> bytes:
        return b"".join(map(self._block, blocks))

    def _block(self, block: Block) -> bytes:
        """Return the lines of a block below its ranks, which are not repeated."""
        head, self._headed = block.ranks != self._headed, block.ranks
        lines = [f"  {line}" if line else "" for line in block.lines]
        return ("\n".join([*([self._heading(block.ranks)] if head else []), *lines]) + "\n").encode(
            "utf-8", "surrogateescape"
        )

    def _heading(self, ranks: Sequence[int]) -> str:
        text = ranks_in_words(ranks, self._hosts)
        return f"\x1b[1m{text}:\x1b[0m" if self._colour else f"{text}:"


def ranks_in_words(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Return ranks with their hosts, such as `ranks 0-2,5 on n1,n2`; without hosts if all ranks have the same one."""
    if len(set(hosts.values())) < 2:
        return named(ranks)
    return f"{named(ranks)} on {fold_hostlist(dict.fromkeys(hosts[rank] for rank in ranks))}"
