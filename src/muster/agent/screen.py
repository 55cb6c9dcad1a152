"""A pseudo-terminal for a rank (`--tty`): what is written there is kept in its log, and shown from there as ever."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_PIECE = 1 << 16
_MOST = 1 << 18
"""Bytes that are taken at a time, so that a rank that writes without end keeps nothing waiting."""
_NARROWEST = 20


class Screen:
    """The pseudo-terminal of one rank in one attempt. stdout and stderr are both this terminal, as in a shell, so they
    keep their order, and one log has both."""

    def __init__(self, log: str, rows: int, columns: int) -> None:
        """`log` is the file in which it is kept. Raises OSError, as where the system has no more of them."""
        self.master, self._slave = os.openpty()
        try:
            self.path = os.ttyname(self._slave)
            """What a rank opens. It stays open here: there is no end of file between two writers."""
            settings = termios.tcgetattr(self._slave)
            settings[1] &= ~termios.OPOST  # line feeds are left to the terminal that shows them; the log has plain ones
            termios.tcsetattr(self._slave, termios.TCSANOW, settings)
            self.resize(rows, columns)
            os.set_blocking(self.master, False)
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except BaseException:
            os.close(self.master)
            os.close(self._slave)
            raise

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size. Whoever looks after the rank sends SIGWINCH: it is not the rank's controlling terminal,
        which would be the one whose Ctrl-C ends it."""
        size = struct.pack("HHHH", rows, max(_NARROWEST, columns), 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def take(self, most: int = _MOST) -> None:
        """Move what was written into the log. What a full disk does not take is lost: a rank never waits for it."""
        while most > 0:
            try:
                data = os.read(self.master, _PIECE)
            except OSError:  # nothing more for now
                return
            most -= len(data)
            try:
                while data:
                    data = data[os.write(self._log, data) :]
            except OSError:
                pass

    def drain(self) -> None:
        """Take all that was written: the rank has ended."""
        self.take(1 << 40)

    def close(self) -> None:
        """Close it; whoever still writes there gets EIO."""
        for fd in (self.master, self._slave, self._log):
            os.close(fd)
