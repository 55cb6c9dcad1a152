"""Stdin of the rank that reads: a descriptor of this machine, or a pipe that the controller's input is written to."""

from __future__ import annotations

import os

from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit


class RankStdin:
    """The stdin of one rank."""

    def __init__(self, loop: EventLoop, emit: Emit, fd: int | None, piped: bool) -> None:
        """`fd` is a descriptor of this process to use as stdin; `piped` means a pipe that `write` fills."""
        self.loop, self.emit, self.fd = loop, emit, fd
        self._feed: int | None = None
        """Write end of the pipe."""
        self._data, self._ended = bytearray(), False
        self._heard = 0
        """Number of bytes of input received."""
        if fd is not None:
            os.set_inheritable(fd, False)  # for that rank alone
        elif piped:
            self.fd, self._feed = os.pipe()
            os.set_blocking(self._feed, False)

    def write(self, data: bytes, at: int, end: bool) -> None:
        """Pass bytes, which begin at offset `at` of the input, to the stdin of the rank that reads.

        Bytes that were received before are skipped, because they are sent again after a connection broke; bytes after a
        gap are ignored until the missing ones are sent again.
        """
        if at > self._heard:
            return
        new = data[max(0, self._heard - at) :]
        self._heard += len(new)
        self._data += new
        self._ended = self._ended or end
        self._write_more()

    def close(self) -> None:
        """Close the pipe, in a process that continues after the run."""
        if self._feed is not None:
            self.loop.remove_writer(self._feed)
            os.close(self._feed)
            self._feed = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _write_more(self) -> None:
        """Write what the rank accepts now, and the rest later; report how much it has accepted."""
        if self._feed is not None:
            feed, loop = self._feed, self.loop
            try:
                while self._data:
                    del self._data[: os.write(feed, self._data[:4096])]
            except BlockingIOError:
                pass
            except OSError:  # it has exited, or closed its stdin
                self._data.clear()
            if self._data:
                loop.add_writer(feed, self._write_more)
            else:
                loop.remove_writer(feed)
            if self._ended and not self._data:
                os.close(feed)
                self._feed = None
        else:
            self._data.clear()
        self.emit("stdin_taken", upto=self._heard - len(self._data))
