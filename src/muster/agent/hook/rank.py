"""Setup of a Python rank, in its own process and before its script."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would be visible to the script
import os
import sys

from .torch_server import LOGGER, Until, serve_from_first_group
from .uncaught import note_uncaught

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


_NO_ROOM = (28, 122, 27)
"""ENOSPC, EDQUOT and EFBIG: the log cannot grow any more. (Importing errno here would be visible to the script.)"""


def outlast_full_disk(pipes: Sequence[str] | None) -> None:
    """Make Python's stdout and stderr survive a log that can no longer be written.

    The first write that fails for lack of space replaces descriptor 1, or 2, by the pipe to the agent: for this process
    and all that it starts later. Without a pipe the output is lost. That holds only for the log itself: if the script
    has replaced it by another file, errors are the script's.
    """
    import io
    from io import FileIO

    # the script may replace these functions
    open_, dup2, close, set_blocking, fstat = os.open, os.dup2, os.close, os.set_blocking, os.fstat
    flags, no_room = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, _NO_ROOM

    class Lasting(FileIO):
        log = (0, 0)
        pipe: str | None = None
        buffered = False

        def write(self, data: Any) -> int:
            try:
                return FileIO.write(self, data)
            except OSError as error:
                if error.errno not in no_room or _identity(fstat(self.fileno())) != self.log:
                    if not self.buffered:
                        raise
                    # The buffer retries at once, by FileIO's own method: the traceback has no line of this one.
                    del type(self).write
                    return 0
            if self.pipe is not None:
                try:
                    pipe = open_(self.pipe, flags)
                    set_blocking(pipe, True)
                    dup2(pipe, self.fileno())
                    close(pipe)
                    return FileIO.write(self, data)
                except OSError:
                    pass
            return memoryview(data).nbytes

    def _identity(found: os.stat_result) -> tuple[int, int]:
        return found.st_dev, found.st_ino

    for fd, name in ((1, "stdout"), (2, "stderr")):
        old: Any = getattr(sys, name)
        if type(old) is not io.TextIOWrapper or old.fileno() != fd:
            continue
        raw: Any = getattr(old.buffer, "raw", old.buffer)
        if type(raw) is FileIO:
            old.flush()
            unbuffered = raw is old.buffer
            # one class for each, because it may lose its method
            names = {**vars(Lasting), "__module__": FileIO.__module__, "buffered": not unbuffered}
            raw = type("FileIO", (FileIO,), names)(fd, "wb", closefd=False)
            raw.name = old.name
            new: Any = io.TextIOWrapper(
                raw if unbuffered else io.BufferedWriter(raw, raw._blksize),
                encoding=old.encoding,
                errors=old.errors,
                newline="\n",
                line_buffering=old.line_buffering,
                write_through=old.write_through,
            )
            new.mode = old.mode
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
        if hasattr(raw, "pipe"):  # the fork server has done this already for a rank that it forks
            raw.log, raw.pipe = _identity(fstat(fd)), pipes[fd - 1] if pipes else None


def become_rank(
    stack: Mapping[str, Any] | None, pipes: Sequence[str] | None, forked: bool = False, torch_logger: Any = None
) -> None:
    """Set up a Python rank: its name in `ps`, line buffering, stacks on a signal, a fallback for full disks."""
    path, imports = (stack["socket"], stack.get("imports")) if stack else ("", None)
    if (path or imports) and torch_logger is not None:
        serve_from_first_group(torch_logger, path, imports)
    elif (path or imports) and not forked:
        finders: list[Any] = sys.meta_path
        finders.insert(0, Until(LOGGER, lambda logger: serve_from_first_group(logger, path, imports)))
    rank = os.environ.get("RANK")
    if rank is not None:
        try:
            with open("/proc/self/comm", "wb", buffering=0) as comm:
                comm.write(b"rank " + os.fsencode(rank))
        except OSError:
            pass
    loaded = "faulthandler" in sys.modules
    import faulthandler

    if not loaded:
        del sys.modules["faulthandler"]
    outlast_full_disk(pipes)
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)
    if stack:
        note_uncaught(stack["note"])
        try:
            fd = os.open(stack["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:  # no space for another file: its stacks are not available
            return
        try:
            # away from the numbers that the script will see
            high = os.dup2(fd, 200, inheritable=False)
            os.close(fd)
        except OSError:  # the limit is lower
            high = fd
        _ignore_when_exiting(stack["signal"], forked)
        faulthandler.register(stack["signal"], file=high, all_threads=True)
        _mark_exit(high)


def _ignore_when_exiting(number: int, forked: bool) -> None:
    """Ignore this signal: before faulthandler handles it, and so again once that has removed its handler.

    It does so when the interpreter exits. A request for stacks may be on its way then, and the default action would end
    the process.
    """
    if forked:
        import ctypes  # it is loaded already

        ctypes.CDLL(None).signal(number, ctypes.c_void_p(_signal.SIG_IGN))  # which `signal.getsignal` does not tell
    else:
        _signal.signal(number, _signal.SIG_IGN)


def _mark_exit(fd: int) -> None:
    """Touch this file when the interpreter begins to exit: an error that was logged just before is why."""
    loaded = "atexit" in sys.modules
    import atexit

    if not loaded:
        del sys.modules["atexit"]
    utime, fstat, getpid, pid = os.utime, os.fstat, os.getpid, os.getpid()
    own = fstat(fd).st_dev, fstat(fd).st_ino

    def touch() -> None:
        try:
            now = fstat(fd)
            if getpid() == pid and (now.st_dev, now.st_ino) == own:  # the script may have closed it, and reused it
                utime(fd)
        except OSError:
            pass  # the script has closed it

    atexit.register(touch)
