"""The end of a rank without the destructors of C++ objects that live as long as their process, if nobody can notice."""

from __future__ import annotations

import os
import sys

_LIBRARIES = (
    *(
        "ld(-linux[^/]*)?",
        "lib(c|m|dl|rt|pthread|util|resolv|crypt|gcc_s|stdc[+][+]|gomp|gfortran|quadmath|nss_[a-z0-9_]+)",
    ),
    "lib(z|bz2|lzma|zstd|ffi|ssl|crypto|sqlite3|uuid|expat|readline|ncursesw?|tinfow?|panelw?|mpdec|db)",
    *("libpython[0-9.]+[a-z]*", "lib(scipy_)?openblas[^/.]*"),
)
"""Libraries of the system, of Python, and for arithmetic, without versions."""

_FILES = (
    "lib-dynload/[^/]+",
    "torch/lib/lib(torch|torch_cpu|torch_python|torch_global_deps|c10|shm)[.]so",
    "torch/_C[.][^/]+",
    "(numpy|markupsafe|psutil|regex|safetensors|tokenizers|yaml)/([^/]+/)*[^/]+[.]so",
    "python[0-9.]*[a-z]*",
)
"""Extensions of Python, torch without CUDA, the interpreter."""


def is_known(path: str) -> bool:
    """Return True if this file of native code is known to do nothing at the exit that anybody could notice."""
    import re

    library = "(" + "|".join(_LIBRARIES) + ")(-[0-9a-f]+)*(-[0-9.]+)?[.]so([.][0-9.]+)?"
    return re.search("/(" + "|".join([library, *_FILES]) + ")$", path) is not None


def loaded_code(maps: str) -> set[str]:
    """Return the files of native code of a process, from its /proc/PID/maps."""
    found = set()
    for line in maps.splitlines():
        # most lines are about data: only the others are worth a split
        if "x" in line[line.find(" ") : line.find(" ") + 5] and "/" in line:
            path = line.split(None, 5)[5]
            if path.startswith("/"):
                found.add(path)
    return found


_KNOWN: set[str] = set()
"""Files of which it is known already that `is_known` returns True."""


def note_known_code() -> None:
    """Remember which native code of this process is known, so that its forks need not find out."""
    _KNOWN.update(filter(is_known, _own_code() or ()))


def _own_code() -> set[str] | None:
    """Return the files of native code of this process; None if they cannot be read."""
    try:
        with open("/proc/self/maps", errors="replace") as file:
            return loaded_code(file.read())
    except OSError:
        return None


def leave_registrations() -> None:
    """Have torch.library not take back what it has registered, if all native code here is known: see below.

    It would do that in finalizers of 134 libraries of torch, which write to the pages of its tables, too.
    Call it before those, and after the script.
    """
    finalize = getattr(sys.modules.get("weakref"), "finalize", None)
    if finalize is not None and _is_all_known():
        for info in list(finalize._registry.values()):
            if getattr(info.func, "__module__", "") == "torch.library":
                info.atexit = False


def _is_all_known() -> bool:
    """Return whether nothing in this process does anything at the exit that anybody could notice."""
    if "KINETO_USE_DAEMON" in os.environ or "git" in str(getattr(sys.modules.get("torch"), "__version__", "")):
        return False  # the daemon gets a trace at the end; a torch that was built here may measure its own coverage
    code = _own_code()
    return code is not None and all(path in _KNOWN or is_known(path) for path in code)


def end_after_call() -> None:
    """End this process now, if its function (`payloads/call.py`) has returned, and nothing is left to do.

    Called after all other functions for the exit. What follows in CPython takes 25 ms of CPU time, as it writes to the
    pages that ranks share, and ends nothing that a function can have left: process groups of torch are the exception,
    and files, which are flushed here. Objects from before the fork are frozen, and not among those that `gc` knows.
    """
    if not getattr(sys.modules.get("__main__"), "muster_function_returned", False) or not _is_all_known():
        return
    groups = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_world", None)
    if groups is not None and groups.pg_map:
        return
    import gc
    from _io import _IOBase  # io.IOBase is an ABC, which would look at all of its subclasses

    for each in [*(found for found in gc.get_objects() if isinstance(found, _IOBase)), sys.stdout, sys.stderr]:
        try:
            each.flush()
        except Exception:
            pass  # it is closed, or only read
    os._exit(0)


def let_workers_finish() -> None:
    """Let the threads of gloo put down the tensors of the last collective: for that they need the interpreter's lock.

    A thread that asks for the lock while the interpreter exits is ended by it (before Python 3.14), inside of a
    destructor, so that C++ aborts the process: "terminate called without an active exception". A plain rank is rarely
    met by that, as its exit takes longer; this one has left out what took so long. Nobody waits for a collective that
    is not complete: its thread sleeps.
    """
    if "torch.distributed.distributed_c10d" not in sys.modules:
        return
    from time import monotonic, sleep

    until, asleep = monotonic() + _FINISH, 0
    while asleep < _ASLEEP and monotonic() < until:
        sleep(0.0003)  # whoever waits for the lock has it now, or is seen running
        asleep = 0 if any(map(_is_running_worker, os.listdir("/proc/self/task"))) else asleep + 1


_FINISH = 10.0
"""Seconds that a thread may take, on a machine without a free core, to put down the tensors of a collective."""

_ASLEEP = 3
"""How often all must be seen asleep: one that meets the lock taken, just while it is looked at, sleeps as well."""

_WORKER = "(pt_gloo_runloop)"
"""The threads of torch that run collectives of gloo, as /proc names them."""


def _is_running_worker(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/stat", errors="replace") as file:
            stat = file.read()
    except OSError:
        return False  # it has just ended
    return _WORKER in stat and stat.rpartition(")")[2].split()[0] == "R"


def skip_destructors() -> None:
    """Have this process end without destructors, if all native code in it is known to do nothing in them.

    They take 110 ms of CPU time in a rank, as they write to each page of torch's tables, which ranks share. So when
    `exit` is called, after all of Python's teardown, the buffers of C are flushed, and the process ends. Anything else
    (an extension of the script, CUDA, MPI, a profiler, an LD_PRELOAD) may have to write, or to tell its peers.
    """
    if not _is_all_known():
        return
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        flush, end, on_exit, at_exit = libc.fflush, libc._exit, libc.on_exit, libc.__cxa_atexit
    except (OSError, AttributeError, ImportError):  # on_exit is an extension of glibc
        return
    # the last one is called first: fflush(NULL), then _exit(status, NULL)
    if on_exit(end, None) == 0:
        at_exit(flush, None, None)
