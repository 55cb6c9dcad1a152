"""The lines of the kernel log that may explain the death of a process, where this user may read it."""

from __future__ import annotations

import os
import re
from collections import deque

_TELLING = re.compile(
    r"oom-kill:constraint=|Kill(?:ed)? process \d+|segfault at|general protection|traps: |NVRM: Xid"
    r"|[Hh]ardware memory|Hardware Error|Memory failure|I/O error|EXT4-fs error|Remounting filesystem"
)
"""Lines that are kept."""

_ENOUGH = 200
"""Maximum number of lines that are kept, the last ones."""

_MUCH = 20_000
"""Maximum number of lines that are read at once."""

_FIRST_NAMESPACE = "pid:[4026531836]"
"""The namespace of the machine itself (PROC_PID_INIT_INO): only there the kernel log has the pids that we see."""


class KernelLog:
    """The kernel log from now on."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.readable = False
        """True if it can be read, and its pids are those of this process's namespace."""
        self.lines: deque[str] = deque(maxlen=_ENOUGH)
        """The telling lines since then."""
        self._fd = -1
        try:
            if os.readlink("/proc/self/ns/pid") == _FIRST_NAMESPACE:
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
                self.readable = True
        except OSError:
            pass  # dmesg_restrict, a container, no such file

    def update(self) -> None:
        """Read what the kernel has written since the last call. Never blocks."""
        for _ in range(_MUCH if self.readable else 0):
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # lines were overwritten before they were read
            except OSError:
                self.readable = False
                return
            # priority,sequence,time,flags;text, then lines of key=value pairs
            text = record.decode("utf-8", "replace").partition(";")[2].partition("\n")[0]
            if _TELLING.search(text):
                self.lines.append(text[:400])

    def about(self, pid: int) -> list[str]:
        """Return the lines about a process, and those about no process: errors of hardware and of file systems."""
        named = re.compile(rf"(?:process |pid=|\[){pid}(?!\d)")
        other = re.compile(r"process \d+|pid=\d+|\[\d+\]")
        return [line for line in self.lines if named.search(line) or not other.search(line)]

    def killed(self) -> list[str]:
        """Return the lines about processes that the OOM killer has killed."""
        return [line for line in self.lines if re.search(r"oom-kill:constraint=|Kill(?:ed)? process \d+", line)]

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self.readable = -1, False
