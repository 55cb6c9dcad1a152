"""Bring stdin to a rank elsewhere: in pieces, no faster than it is read there, though connections break."""

from __future__ import annotations

import os
from collections.abc import Callable

from muster.linux.eventloop import EventLoop

_PIECE = 1 << 16
_AHEAD = 1 << 20
"""Bytes that are under way, and that the rank has not taken yet, beyond which no more is read here."""


class Stdin:
    """The stdin of this process, given to `tell`: bytes, at which byte of all they begin, whether these are the end.

    What is not known to have been taken is kept: its connection may break.
    """

    def __init__(self, loop: EventLoop, tell: Callable[[bytes, int, bool], object], fd: int = 0):
        self.loop, self.tell, self.fd = loop, tell, fd
        self._kept = bytearray()
        self._begin = 0
        """Where in stdin the first byte of these is."""
        self._ended = self._plain = self._resting = False
        self._read_on()

    def taken(self, upto: int) -> None:
        """The rank has taken the first so many bytes."""
        count = min(max(0, upto - self._begin), len(self._kept))
        del self._kept[:count]
        self._begin += count
        self._read_on()

    def again(self) -> None:
        """There is a new connection; of what was sent over the last one nobody knows how much came."""
        for start in range(0, len(self._kept), _PIECE):
            self.tell(bytes(self._kept[start : start + _PIECE]), self._begin + start, False)
        if self._ended:
            self.tell(b"", self._begin + len(self._kept), True)

    def _read_on(self) -> None:
        """Read while there is room."""
        room = len(self._kept) < _AHEAD and not self._ended and not self._resting
        if not room:
            self.loop.remove_reader(self.fd)
        elif not self._plain:
            try:
                self.loop.add_reader(self.fd, self._readable)
            except PermissionError:  # a plain file cannot be waited for: it is all there
                self._plain = True
        while self._plain and not self._ended and len(self._kept) < _AHEAD:
            self._read()

    def look(self) -> None:
        """Go on where muster is in the foreground of its terminal again."""
        if self._resting and self._foreground():
            self._resting = False
            self._read_on()

    def _readable(self) -> None:
        if self._foreground():
            self._read()
        else:  # what is typed is for somebody else, and the kernel would stop this process (SIGTTIN)
            self._resting = True
        self._read_on()

    def _foreground(self) -> bool:
        try:
            return not os.isatty(self.fd) or os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # it is not the terminal of this session: anybody may read it
            return True

    def _read(self) -> None:
        try:
            data = os.read(self.fd, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.tell(data, self._begin + len(self._kept), not data)
        self._kept += data
        self._ended = not data
