"""A pseudo-terminal for a rank (`--tty`). What is written there goes into its log, and is shown from there as ever."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_NARROWEST = 20


class PseudoTerminal:
    """The pseudo-terminal of one rank. stdout and stderr are both this terminal, as in a shell: they keep their order,
    and one log has both."""

    def __init__(self, rows: int, columns: int) -> None:
        """Raises OSError, as where the system has no more of them."""
        self.master, slave = os.openpty()  # both stay open: there is no end of file between two writers
        try:
            self.path = os.ttyname(slave)
            """What a rank opens."""
            settings = termios.tcgetattr(slave)
            settings[1] &= ~termios.OPOST  # line feeds are left to the terminal that shows them; the log has plain ones
            termios.tcsetattr(slave, termios.TCSANOW, settings)
            self.resize(rows, columns)
            os.set_blocking(self.master, False)
        except BaseException:
            os.close(self.master)
            os.close(slave)
            raise

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size. Whoever looks after the rank sends SIGWINCH: it is not the rank's controlling terminal,
        which would be the one whose Ctrl-C ends it."""
        size = struct.pack("HHHH", rows, max(_NARROWEST, columns), 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
