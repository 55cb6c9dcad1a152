"""Checks of the fork server: whether ranks that are forked from it would behave as plain Python."""

from __future__ import annotations

import os
import sys

from .withheld import is_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


_OF_RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID"),
)
"""Environment variables that ranks have and a fork server does not, or that differ between ranks."""


def namesakes(before: set[str], hidden: Mapping[str, Any] | None = None) -> list[str]:
    """Return the files beside the script that have the name of a module that is loaded already.

    The script's `import json` means its own json.py, but a forked rank would find Python's. `hidden` are loaded modules
    that are not in `sys.modules`. Modules are looked up, not listed: in a fork that would copy the pages they are on.
    """
    import _imp

    if getattr(sys.flags, "safe_path", False):
        return []
    folder = os.getcwd()
    if sys.argv[0] != "-m":
        folder = sys.argv[0] if os.path.isdir(sys.argv[0]) else os.path.dirname(os.path.realpath(sys.argv[0]))
    hidden = hidden or {}
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    found = []
    for name in names:
        module = name[:-3] if name.endswith(".py") else name
        if module in before or "." in module or not (module in hidden or module in sys.modules):
            continue
        # built-in and frozen modules come before any file
        if module in sys.builtin_module_names or _imp.is_frozen(module):
            continue
        path = os.path.join(folder, name)
        package = os.path.exists(os.path.join(path, "__init__.py"))
        theirs = getattr(hidden.get(module) or sys.modules.get(module), "__file__", None) or ""
        if (path.endswith(".py") or package) and not os.path.realpath(theirs).startswith(os.path.realpath(path)):
            found.append(name)
    return found


def depends_on_rank(reads: set[str], at_start: set[str]) -> str | None:
    """Return why Python's startup code would behave differently in a rank, or None: here it runs once, without one.

    `at_start` are the modules loaded before sitecustomize, such as those of lines in .pth files.
    """
    import re

    asked = sorted(reads & set(_OF_RANKS))
    if asked:
        return f"sitecustomize reads {asked[0]}, which is set only in ranks"
    texts = []
    for folder in sys.path:
        if folder.endswith(("site-packages", "dist-packages")) and os.path.isdir(folder):
            texts += [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pth")]
    for name in at_start:
        path = getattr(sys.modules.get(name), "__file__", None) or ""
        if path.endswith(".py") and not is_standard(name, sys.modules.get(name.partition(".")[0])):
            texts.append(path)
    for path in texts:
        try:
            with open(path, "rb") as file:
                found = re.search(rb"""["'](%s)["']""" % "|".join(_OF_RANKS).encode(), file.read(1 << 18))
        except OSError:
            continue
        if found:
            return f"{path} reads {found[1].decode()}, which is set only in ranks"
    return None


def traced() -> str | None:
    """Return why a tracer or profiler active at startup needs a new process, or None."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6)))):
        return "a tracer or profiler is active before the script starts"
    return None


def why_unfit() -> str | None:
    """Return why ranks must not be forked from this process, or None."""
    opened = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            opened.add(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    devices = sorted(path for path in opened if path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/accel")))
    if devices:
        return "an import opened " + devices[0]
    if threads() > 1:
        pause_openmp()
    if threads() > 1:
        return f"an import started threads ({threads() - 1}, named {', '.join(sorted(set(names_of_threads())))})"
    return None


_FORK_SAFE = ("jemalloc_bg_thd",)
"""Threads whose library handles forks: jemalloc, which pandas loads with pyarrow, does their work without them in a
child (`background_thread_postfork_child` of jemalloc 5)."""


def names_of_threads() -> list[str]:
    """Return the names of the threads of this process, except those that are fork-safe."""
    names = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm") as file:
                names.append(file.read().strip())
        except OSError:
            pass  # it has ended
    return [name for name in names if name not in _FORK_SAFE]


def threads() -> int:
    """Return how many threads a child would lose, plus one. OpenBLAS ends its own when this process forks."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(names_of_threads())


def pause_openmp() -> None:
    """Make OpenMP end the threads of its pool, if an import created one."""
    import ctypes

    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}
    for path in paths:
        try:
            ctypes.CDLL(path).omp_pause_resource_all(2)
        except (OSError, AttributeError):
            pass
