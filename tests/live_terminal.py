"""`muster top` on a terminal of 24 rows and 80 columns: what it shows, and keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_HIDDEN = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]")


ON_IT = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Terminal:
    """A program on a terminal of its own, and what it shows. `with` ends it in any case."""

    def __init__(self, pid: int, fd: int, process: subprocess.Popen[str] | None = None) -> None:
        self.pid, self.fd, self._process = pid, fd, process
        self.before = termios.tcgetattr(self.fd)
        self.came = b""

    @classmethod
    def here(cls, argv: Sequence[str], env: dict[str, str], cwd: Path) -> Terminal:
        """Start a program here; the terminal is its controlling one."""
        pid, fd = pty.fork()
        if pid == 0:
            try:
                _resize(1, 24, 80)
                os.chdir(cwd)
                os.execvpe(argv[0], list(argv), env)
            finally:
                os._exit(127)
        return cls(pid, fd)

    @classmethod
    def of(cls, start: Callable[[int], subprocess.Popen[str]]) -> Terminal:
        """Return the terminal of a program that `start` starts, given the descriptor for its stdin and its output."""
        fd, inner = pty.openpty()
        _resize(fd, 24, 80)
        process = start(inner)
        os.close(inner)
        return cls(process.pid, fd, process)

    def _wait(self) -> int:
        if self._process is not None:
            return self._process.wait()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                self._wait()
        os.close(self.fd)

    def resize(self, rows: int, columns: int) -> None:
        """Resize it, as a user does with the mouse."""
        _resize(self.fd, rows, columns)

    def press(self, keys: str) -> None:
        """Type these keys."""
        os.write(self.fd, keys.encode())

    def more(self, seconds: float) -> bool:
        """Read what comes within this time; return False at the end."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # all have closed it
            data = b""
        self.came += data
        return bool(data)

    def shows(self, *words: str, within: float = 120.0) -> str:
        """Wait until the screen, which is drawn anew each time, has all these words; return what it has."""
        deadline, before = time.monotonic() + within, ""
        while time.monotonic() < deadline:
            self.came = b""
            self.press("\x0c")
            self.more(1.0)
            while select.select([self.fd], [], [], 0.2)[0] and self.more(0):
                pass
            now = _HIDDEN.sub(b" ", self.came).decode(errors="replace")
            for text in (now, before + now):  # what a key has changed is drawn once, maybe in two parts
                if all(word in text for word in words):
                    return text
            before = now
        raise AssertionError(f"{words!r} are not shown:\n{text}")

    def end(self) -> tuple[int, str]:
        """Return the exit code, and what was shown at last; the terminal is as it was."""
        self.came = b""
        while self.more(30.0):
            pass
        status = self._wait()
        self.pid = 0
        after = self.came.rpartition(b"\x1b[?1049l")[2] if b"\x1b[?1049l" in self.came else self.came
        return status, _HIDDEN.sub(b"", after).decode(errors="replace").replace("\r\n", "\n").strip("\r")


def _resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
