"""Forward stdin to a remote rank: in pieces, no faster than it reads, across broken connections."""

from __future__ import annotations

import os
from collections.abc import Callable

from muster.linux.eventloop import EventLoop

_PIECE = 1 << 16
_AHEAD = 1 << 20
"""Bytes in flight that the rank has not read yet, beyond which no more is read here."""


class Stdin:
    """Forwards this process's stdin by `tell`, called with the bytes, their offset, and whether this is the end.

    Bytes are kept until they are known to have been read: the connection may break.
    """

    def __init__(self, loop: EventLoop, tell: Callable[[bytes, int, bool], object], fd: int = 0):
        self.loop, self.tell, self.fd = loop, tell, fd
        self._kept = bytearray()
        self._begin = 0
        """Offset in stdin of the first kept byte."""
        self._ended = self._plain = self._resting = False
        self._read_on()

    def taken(self, upto: int) -> None:
        """Handle that the rank has read the first `upto` bytes."""
        count = min(max(0, upto - self._begin), len(self._kept))
        del self._kept[:count]
        self._begin += count
        self._read_on()

    def again(self) -> None:
        """Resend what was not acknowledged, over a new connection."""
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
            except PermissionError:  # a regular file cannot be polled: it is always ready
                self._plain = True
        while self._plain and not self._ended and len(self._kept) < _AHEAD:
            self._read()

    def look(self) -> None:
        """Continue reading if muster is in the foreground of its terminal again."""
        if self._resting and self._foreground():
            self._resting = False
            self._read_on()

    def _readable(self) -> None:
        if self._foreground():
            self._read()
        else:  # what is typed is for another program, and the kernel would stop this process (SIGTTIN)
            self._resting = True
        self._read_on()

    def _foreground(self) -> bool:
        try:
            return not os.isatty(self.fd) or os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # not the terminal of this session, so reading it is always allowed
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
