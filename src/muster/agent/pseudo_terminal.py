"""A pseudo-terminal for a rank (`--tty`). Its output goes to the rank's log, and is shown from there as usual."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_NARROWEST = 20


class PseudoTerminal:
    """The pseudo-terminal of one rank.

    stdout and stderr are both this terminal, as in a shell: their order is kept, and one log has both.
    """

    def __init__(self, rows: int, columns: int) -> None:
        """Raises OSError, for example if the system has no more of them."""
        self.master, slave = os.openpty()  # both stay open: no end of file between two writers
        try:
            self.path = os.ttyname(slave)
            """The path that a rank opens."""
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
        """Change its size.

        The caller sends SIGWINCH to the rank, because this is not its controlling terminal: a controlling terminal
        would send the rank SIGINT for Ctrl-C.
        """
        size = struct.pack("HHHH", rows, max(_NARROWEST, columns), 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
