"""A mark of a run that its processes inherit, whatever they do to their environment, session or parent.

It is the soft limit of RLIMIT_RTTIME, the CPU time that a process with real-time scheduling may take without blocking.
By default there is none. A limit of more than 100,000 years limits nothing, and its digits have room for a run. The
hard limit stays, so each process can set another one.
"""

from __future__ import annotations

import resource
import zlib

_LEAST = 1 << 62
_UNLIMITED = resource.RLIM_INFINITY


def mark_of_run(run_id: str) -> int:
    """Return the mark of a run: two runs rarely have the same one."""
    data = run_id.encode()
    return _LEAST | zlib.crc32(data) << 24 | zlib.crc32(data[::-1]) >> 8


def put(mark: int) -> None:
    """Mark this process, and those that it will start; 0 removes a mark. A limit that the user has set stays."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        if (soft == _UNLIMITED or soft >= _LEAST) and hard == _UNLIMITED:
            resource.setrlimit(resource.RLIMIT_RTTIME, (mark or _UNLIMITED, hard))
    except (OSError, ValueError):
        pass  # the processes are then found by their environment alone


def mark_of_process(pid: int) -> int:
    """Return the mark of a process; 0 if it has none, or is gone."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            line = next((line for line in file if line.startswith(b"Max realtime timeout")), b"")
    except OSError:
        return 0
    words = line.split()
    return int(words[3]) if len(words) > 3 and words[3].isdigit() and int(words[3]) >= _LEAST else 0
