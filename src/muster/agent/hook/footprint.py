"""What an import leaves in its process, besides modules: whether ranks may share it, and the script not see it."""

from __future__ import annotations

import os
import sys

from .fitness import pause_openmp, threads
from .withheld import is_standard

FunctionType = type(is_standard)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FORK_AWARE = frozenset(
    (
        *("torch", "numpy", "fsspec", "huggingface_hub", "filelock", "pyarrow", "multiprocess", "aiohttp", "dill"),
        *(
            "transformers",
            "accelerate",
            "datasets",
            "tokenizers",
            "safetensors",
            "scipy",
            "sklearn",
            "joblib",
            "psutil",
        ),
    )
)
"""Packages whose functions for forks and for exits, finalizers, process ids and random ids were read.

They are forked like this by multiprocessing, too. The shared ids are those of sessions with the Hugging Face Hub.
"""


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_standard(frame: Any) -> bool:
    package = _package(frame)
    return is_standard(package, sys.modules.get(package))


def _is_known(package: str) -> bool:
    return package in _FORK_AWARE or is_standard(package, sys.modules.get(package))


class Footprint:
    """The state of this process before an import; as a context, it notes what the import registers."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.modules = modules
        """Modules that are loaded, also if they are hidden now."""
        self.calls: dict[str, str] = {}
        """What packages did, by their names."""
        self.descriptors, self.sizes = descriptors(), sizes_of_output()
        self.before = self.state()
        self.env = dict(os.environ)
        self.finalizers = self.list_finalizers()

    def __enter__(self) -> None:
        import atexit
        import random

        self.watched = [
            self.watch(os, "register_at_fork", "registers a function for forks"),
            self.watch(atexit, "register", "registers a function for the exit"),
            # what is unique in a process would be the same in all ranks
            self.watch(os, "urandom", "draws random bytes"),
            self.watch(random, "_urandom", "draws random bytes"),
            self.watch(os, "getpid", "asks for its process id"),
        ]
        self.known = set(sys.modules)

    def watch(self, module: Any, name: str, what: str) -> tuple[Any, str, Any, Any]:
        """Replace a function by one that notes which package calls it."""
        original = getattr(module, name)

        def noted(*args: Any, **more: Any) -> Any:
            frame: Any = sys._getframe(1)
            while frame.f_back is not None and _is_standard(frame):
                frame = frame.f_back
            self.calls.setdefault(_package(frame), what)
            return original(*args, **more)

        setattr(module, name, noted)
        return module, name, original, noted

    def __exit__(self, *_: object) -> None:
        originals = {}
        for module, name, original, noted in self.watched:
            setattr(module, name, original)
            originals[noted] = original
        # `from os import getpid` in one of the new modules
        for name in set(sys.modules) - self.known:
            names = getattr(sys.modules.get(name), "__dict__", None)
            if type(names) is dict:
                for key, value in list(names.items()):
                    if type(value) is FunctionType and value in originals:
                        names[key] = originals[value]

    def state(self) -> dict[str, Any]:
        """Return what an import must not change, by its name in messages."""
        import _locale
        import logging
        import random
        import signal
        import threading

        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        signals = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
        context: Any = getattr(sys.modules.get("multiprocessing.context"), "_default_context", None)
        found = {
            "sys.path": list(sys.path),
            "sys.argv": list(sys.argv),
            "the import hooks": list(sys.path_hooks),
            "sys.excepthook": (sys.excepthook, sys.displayhook, threading.excepthook),
            "sys.stdout": (sys.stdout, sys.stderr, sys.stdin),
            "the trace function": (sys.gettrace(), sys.getprofile(), getattr(threading, "_trace_hook", None)),
            "the recursion limit": sys.getrecursionlimit(),
            "the working directory": os.getcwd(),
            "the signal handlers": [signal.getsignal(number) for number in signals],
            "the locale": _locale.setlocale(_locale.LC_ALL),
            "the logging configuration": (
                logging.root.level,
                list(logging.root.handlers),
                logging.root.manager.disable,
            ),
            "the logger class": logging.getLoggerClass(),
            "the built-in names": sorted(vars(sys.modules["builtins"])),
            "the state of random": random.getstate(),
            "the start method of multiprocessing": getattr(context, "_actual_context", None),
        }
        torch: Any = self.modules.get("torch")
        if torch is not None:
            found["torch's random state"] = torch.default_generator.get_state().tolist()
            found["torch's default types"] = str(torch.get_default_dtype())
            found["the number of threads"] = torch.get_num_threads()
        numbers: Any = self.modules.get("numpy.random")
        if numbers is not None:
            found["numpy's random state"] = bytes(numbers.get_state()[1])
        return found

    @staticmethod
    def list_finalizers() -> dict[Any, str]:
        """Return the module of each function that `weakref.finalize` has registered."""
        finalize: Any = getattr(sys.modules.get("weakref"), "finalize", None)
        if finalize is None:
            return {}
        return {key: str(getattr(info.func, "__module__", "")) for key, info in list(finalize._registry.items())}

    def why_unfit(self, reads: set[str], own: set[str]) -> str:
        """Return why ranks should not be forked from what this process is now; empty if they may.

        `reads` are the environment variables that the import read, `own` those that ranks do not share.
        """
        asked = sorted(reads & own)
        if asked:
            return f"reads {asked[0]}, which each rank has for itself"
        if reads and set(self.env) <= reads:
            return "copies the environment"
        for name, value in self.env.items():
            if os.environ.get(name) != value:
                return f"changes the environment variable {name}"
        now = self.state()
        for name, value in self.before.items():
            if now[name] != value:
                return f"changes {name}"
        for package, what in self.calls.items():
            if not _is_known(package):
                return what
        for key, module in self.list_finalizers().items():
            package = module.partition(".")[0]
            if key not in self.finalizers and (module == "tempfile" or not _is_known(package)):
                return f"registers a finalizer of {package}"
        if sizes_of_output() != self.sizes:
            return "prints something"
        opened = sorted(descriptors() - self.descriptors)
        if opened:
            return f"opens {opened[0].partition(' ')[2]}"
        return self.why_shared()

    def why_shared(self) -> str:
        """Return what ranks would share, or lose: processes and threads; empty if nothing."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return "starts a process"
        except ChildProcessError:
            pass
        if len(os.listdir("/proc/self/task")) > 1 and threads() > 1:
            pause_openmp()
            if threads() > 1:
                return "starts a thread"
        torch: Any = self.modules.get("torch")
        return "initializes CUDA" if torch is not None and torch.cuda.is_initialized() else ""


def sizes_of_output() -> tuple[int, ...]:
    """Return the sizes of stdout and stderr, which are files here."""
    return tuple(os.fstat(fd).st_size for fd in (1, 2))


def descriptors() -> set[str]:
    """Return the files that this process has open, except those without a state."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink('/proc/self/fd/' + name)}")
        except OSError:
            pass
    return {each for each in found if each.partition(" ")[2] not in ("/dev/null", "/dev/urandom", "/proc/self/fd")}
