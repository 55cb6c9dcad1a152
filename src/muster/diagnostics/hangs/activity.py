"""What a rank is doing, from its stacks and from what the kernel knows about its threads. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from muster.core.fold import by_value
from muster.core.inspection import Inspection, ThreadState
from muster.core.verdict import Activity, Frame, Situation
from muster.diagnostics.stack_text import Origin, Thread, origin, threads_of

_SLEEPS = ("nanosleep", "clock_nanosleep")
_REAPS = ("wait4", "waitid", "waitpid")
_LOCKS_FILES = ("flock", "fcntl")
_WAITS_IN_PROCESS = ("futex", "futex_wait", "futex_waitv", "sem_wait")
_POLLS = ("select", "pselect6", "poll", "ppoll", "epoll_wait", "epoll_pwait", "epoll_pwait2")

_DEBUGGERS = ("/pdb.py", "/bdb.py", "/cmd.py", "/IPython/terminal/debugger.py")


class _Library(NamedTuple):
    """A frame of a library that tells what its caller waits for."""

    file: str
    """The end of the path of its file."""
    functions: tuple[str, ...]
    activity: Activity


_LIBRARY: tuple[_Library, ...] = (
    _Library("torch/utils/data/dataloader.py", ("_try_get_data", "_get_data", "_shutdown_workers"), Activity.LOADER),
    _Library("/subprocess.py", (), Activity.SUBPROCESS),
    _Library("/multiprocessing/popen_fork.py", ("poll", "wait"), Activity.SUBPROCESS),
    _Library("/queue.py", ("get", "put", "join"), Activity.QUEUE),
    _Library("/multiprocessing/queues.py", ("get", "put"), Activity.QUEUE),
    _Library("/multiprocessing/connection.py", (), Activity.QUEUE),
    _Library("/concurrent/futures/_base.py", ("result", "wait", "as_completed", "exception"), Activity.THREAD),
    _Library("/concurrent/futures/thread.py", ("shutdown",), Activity.THREAD),
    _Library("/threading.py", ("join", "_wait_for_tstate_lock", "_shutdown", "_join"), Activity.THREAD),
    _Library("/threading.py", (), Activity.LOCK),
)
"""The first that is found in the stack, of those further in than the user's code, decides."""


def activity_of(inspection: Inspection) -> Situation:
    """Return what the main thread of a rank is doing, apart from collectives."""
    threads = threads_of(inspection.stacks)
    main = threads[0] if threads else Thread(())
    kernel = inspection.threads[0] if inspection.threads else ThreadState(inspection.pid)
    uses_cpu = any(thread.state == "R" and _computes(thread, kernel) for thread in inspection.threads)
    found = Situation(
        (inspection.rank,),
        _activity(main, threads, kernel, uses_cpu),
        user=main.user,
        inner=main.inner,
        call=kernel.call,
        target=kernel.target,
        pid=inspection.pid or kernel.pid,
        holder=kernel.holder,
        uses_cpu=uses_cpu,
    )
    if found.activity in (Activity.STOPPED, Activity.KERNEL):
        return found
    if found.activity in _VAGUE and (inspection.exiting or _is_exiting(inspection.stacks, main)):
        return found._replace(activity=Activity.EXITING, uses_cpu=False)
    module = _imported(main)
    if module:
        found = found._replace(details=(f"importing {module}",))
        if found.activity in (Activity.COMPUTING, Activity.SYSTEM_CALL, Activity.UNKNOWN):
            found = found._replace(activity=Activity.IMPORTING)
    if found.activity is Activity.LOCK:
        found = found._replace(held_by=_other_waiter(threads))
    threaded = found.activity is Activity.QUEUE and main.has("/queue.py") is not None
    if threaded and not any(thread.is_of_user for thread in threads[1:]):
        found = found._replace(details=(*found.details, "no thread of the script is left that could serve the queue"))
    if found.activity in (Activity.LOADER, Activity.SUBPROCESS, Activity.QUEUE):
        found = found._replace(details=(*found.details, *_children(inspection.children, found)))
    return found


_VAGUE = (Activity.COMPUTING, Activity.PYTHON, Activity.SYSTEM_CALL, Activity.LOCK, Activity.UNKNOWN)
_NO_FRAME = "<no Python frame>"
_OUTERMOST = ("<module>", "_run_module_as_main")
"""The functions in which Python runs a script."""


def _is_exiting(stacks: str, main: Thread) -> bool:
    """Return whether the interpreter exits: it runs what is registered for that, or nothing any more."""
    if not main.frames:
        return _NO_FRAME in stacks
    own = any(origin(frame.file) is Origin.USER for frame in main.frames)
    return not (own or main.cut) and main.frames[-1].function not in _OUTERMOST


def _computes(thread: ThreadState, main: ThreadState) -> bool:
    """Return whether a thread computes for the main thread: pools inherit its name, those of libraries have others."""
    return thread.name == main.name or thread.name.startswith("pt_autograd")


def _activity(main: Thread, threads: Sequence[Thread], kernel: ThreadState, uses_cpu: bool) -> Activity:
    call = kernel.call
    if kernel.state in ("T", "t"):
        return Activity.STOPPED
    if kernel.state == "D":
        return Activity.KERNEL
    if any(main.has(file) for file in _DEBUGGERS):
        return Activity.DEBUGGER
    library = _library(main)
    if library is not None:
        return library
    if call in _LOCKS_FILES or kernel.holder:
        return Activity.FILE_LOCK
    if call in _SLEEPS or (call in _POLLS and not kernel.target):
        return Activity.SLEEPING
    if call in _REAPS:
        return Activity.SUBPROCESS
    if uses_cpu and (not call or call in _WAITS_IN_PROCESS):
        return Activity.COMPUTING
    if call in _WAITS_IN_PROCESS:
        # a lock of Python has no frame of its own, nor has code in C++ that waits for another thread
        return Activity.LOCK if main.inner is None else Activity.SYSTEM_CALL
    if call:
        return Activity.SYSTEM_CALL
    return Activity.UNKNOWN


def _library(main: Thread) -> Activity | None:
    """Return what the library code is for that the user's code has called."""
    called: list[Frame] = []
    for frame in main.frames:
        if origin(frame.file) is Origin.USER:
            break
        called.append(frame)
    inner = Thread(tuple(called))
    for known in _LIBRARY:
        if inner.has(known.file, *known.functions):
            return known.activity
    return None


def _imported(main: Thread) -> str:
    """Return the name of the module whose import is under way, the outermost one; empty if none is."""
    imports = False
    for frame in reversed(main.frames):
        if frame.file.startswith("<frozen importlib"):
            imports = True
        elif imports:
            return module_name(frame.file)
    return ""


def module_name(file: str) -> str:
    """Return the name of the module of a file, without its package."""
    parts = re.sub(r"\.\w+$", "", file).split("/")
    return parts[-2] if parts[-1] == "__init__" and len(parts) > 1 else parts[-1]


def _other_waiter(threads: Sequence[Thread]) -> Frame | None:
    """Return where the only other thread of the script is, which then has the lock; None if there are several."""
    others = [thread.user for thread in threads[1:] if thread.is_of_user]
    return others[0] if len(others) == 1 else None


_STATES: Mapping[str, str] = {
    "Z": "has exited",
    "X": "has exited",
    "T": "is stopped",
    "t": "is stopped",
    "R": "is computing",
}


def _children(children: Sequence[ThreadState], waiting: Situation) -> list[str]:
    """Return what the processes do that the rank waits for."""
    of_loader = waiting.activity is Activity.LOADER
    if of_loader and not children:
        return ["it has no DataLoader worker left"]
    found = []
    for how, pids in by_value(
        (child.pid, _doing(child, "" if of_loader else child.name)) for child in children
    ).items():
        name = "DataLoader worker" if of_loader else "process"
        numbers = ", ".join(map(str, pids[:_SHOWN])) + (f" and {len(pids) - _SHOWN} more" if len(pids) > _SHOWN else "")
        several = "s" if of_loader else "es"
        found.append(f"{name} {numbers} {how}" if len(pids) == 1 else f"{name}{several} {numbers}: each {how}")
    return found[:_SHOWN]


_SHOWN = 4
"""Processes that are shown one by one."""


def _doing(child: ThreadState, command: str) -> str:
    """Return what a process does, after its name."""
    how = _STATES.get(child.state, "is running")
    if how == "is running" and child.call in _SLEEPS:
        how = "is sleeping"
    elif how == "is running" and child.call:
        how = f"is blocked in {child.call}()" + (f" of {child.target}" if child.target else "")
    return f"({command}) {how}" if command else how
