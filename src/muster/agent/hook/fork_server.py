"""The fork server: an interpreter that has imported torch and forks ranks when the agent asks."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` may not be imported yet
import os
import sys

from .fitness import depends_on_rank, namesakes, traced, why_unfit
from .footprint import Footprint
from .messages import tell
from .quick_exit import (
    end_after_call,
    leave_registrations,
    let_workers_finish,
    note_known_code,
    skip_destructors,
)
from .rank import become_rank, outlast_full_disk
from .store import keep_store
from .torch_server import LOGGER
from .withheld import EnvironmentReads, Withheld, is_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


class ForkServer:
    """The fork server: import once, fork often.

    It never computes: after an OpenMP region here a child would hang in its own.
    """

    def __init__(self, conf: dict[str, Any]) -> None:
        import atexit
        import gc
        import time

        self.conf, self.clock = conf, time.monotonic
        outlast_full_disk(None)  # before any import keeps a reference to stderr, as handlers of logging do
        self.fd: int = conf["fd"]
        self.times = {"python": self.clock()}
        self.theirs = False
        self.their_error: BaseException | None = None
        self.reads = EnvironmentReads()
        self.ahead = Withheld(conf["counting"])
        self.ours = not os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
        # Registered before torch's own, so it runs after them and after the script's.
        atexit.register(self.skip_teardown)
        self.leaving, self.skip_destructors, self.end_after_call = False, skip_destructors, end_after_call
        self.let_workers_finish = let_workers_finish
        self.mains: list[tuple[dict[str, Any], str]] = []
        """Names of `__main__` in other modules: the module's names, and the one that is `__main__`."""
        self.searched: set[str] = set()
        """The modules that were searched for those."""
        self.before: set[str] = set()
        """The modules that were there before the imports for ranks."""
        self.told: dict[str, Any] = {}
        """What was reported about the imports, as far as it does not depend on the script."""
        gc.disable()  # imports produce no garbage

    def prepare(self, import_theirs: Callable[[], bool]) -> None:
        """Import everything; report the result to the agent. Never raises.

        `import_theirs` imports the user's own sitecustomize, and returns True if there is one.
        """
        at_start = set(sys.modules) - {"__future__", "sitecustomize"}
        with self.reads:
            try:
                # Before any import of ours that a plain Python would not have made at this point.
                self.theirs = import_theirs()
            except BaseException as error:
                self.their_error = error  # each rank raises it again, as plain Python would
        before = self.before = set(sys.modules) - {"__future__"}
        unfit = depends_on_rank(self.reads.names, at_start) or traced()
        if unfit is None:
            self.import_ahead(before)
            unfit = why_unfit()
        shadowed = namesakes(before)
        self.ahead.hide()
        if unfit is None and not shadowed:
            for module, names in self.conf["found"]:
                self.import_found(module, names)
        if self.ours:
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        self.times["imported"] = self.clock()
        import gc

        torch = self.ahead.modules.get("torch")
        self.note_mains()
        note_known_code()
        gc.freeze()
        gc.enable()
        self.told = {
            "unfit": unfit,
            "reads": sorted(self.reads.names),
            "torch": str(torch.__version__) if torch else None,
            "cuda": torch.version.cuda if torch else None,
            "python": ".".join(map(str, sys.version_info[:3])),
        }
        self.report(shadowed)

    def note_mains(self) -> None:
        """Find the modules that keep a reference to `__main__` (dill, which torch imports if installed).

        They are found once here, because searching all values in each rank would copy the pages on which they are.
        Modules that were searched before are not searched again.
        """
        main = sys.modules["__main__"]
        for modules in (sys.modules, self.ahead.modules):
            for key in modules.keys() - self.searched:
                names = getattr(modules[key], "__dict__", None)
                if type(names) is dict:
                    self.mains += [(names, name) for name, value in list(names.items()) if value is main]
            self.searched.update(modules)

    def report(self, shadowed: list[str]) -> None:
        """Tell the agent about the imports; `shadowed` are files beside the script with the names of modules."""
        tell(self.fd, op="preloaded", **self.told, namesakes=shadowed, times=self.times)

    def import_ahead(self, before: set[str]) -> None:
        """Import what the ranks will use, and note what that changed in this process."""
        # Imports for later parts of the hook come before the search for modules that hide those of the script.
        import ctypes  # noqa: F401
        import importlib
        import json  # noqa: F401
        import signal  # noqa: F401
        import socket  # noqa: F401
        import tempfile
        import traceback
        import warnings

        # Without this, counting GPUs opens the driver, and no child could use a GPU.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        filters: list[Any] = list(warnings.filters)
        directory = tempfile.tempdir
        warner: Any = warnings
        show, warner.showwarning = warnings.showwarning, self.ahead.note_warning
        for name in self.conf["preload"]:
            self.ahead.importing = name.partition(".")[0]
            known = set(sys.modules)
            try:
                with self.reads:
                    importlib.import_module(name)
            except BaseException as error:
                missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
                text = "".join(traceback.format_exception_only(type(error), error)).strip()
                tell(
                    self.fd, op="preload_failed", module=name, missing=missing, text=text, trace=traceback.format_exc()
                )
                os._exit(1)
            self.ahead.note(name, known)
        for name in self.conf.get("optional", ()):
            self.ahead.importing, known = name, set(sys.modules)
            try:
                with self.reads:
                    importlib.import_module(name)
            except Exception:  # it is missing, or broken: the rank that imports it says so
                continue
            self.ahead.note(name, known)
        warner.showwarning = show
        self.ahead.filters = [entry for entry in warnings.filters if not any(entry is old for old in filters)]
        if directory is None:
            self.ahead.tempdir, tempfile.tempdir = tempfile.tempdir, None
        # The state of the standard library (temporary files, threads, loggers) is torn down as usual.
        main = sys.modules["__main__"]
        self.ahead.modules = {
            name: module
            for name, module in sys.modules.items()
            if module is not main and not is_standard(name, sys.modules.get(name.partition(".")[0]))
        }
        self.ahead.choose(before)
        self.ahead.map_asked(self.conf["asked"])
        self.ahead.names |= self.reads.names

    def import_found(self, module: str, names: Sequence[str]) -> None:
        """Import what the script will import, as its own statement would; if that must wait for the script, exit."""
        import tempfile
        import warnings

        if self.ahead.has(module, names):
            return
        key = f"from {module} import {', '.join(names)}" if names else f"import {module}"
        self.ahead.begin_unit(key)
        footprint, reads = Footprint(self.ahead.modules), EnvironmentReads()
        known, directory = set(sys.modules), tempfile.tempdir
        warner: Any = warnings
        show, warner.showwarning = warnings.showwarning, self.ahead.note_warning
        why = ""
        try:
            with reads, footprint:
                found: Any = __import__(module, {"__name__": "__main__"}, None, tuple(names) or None, 0)
                for name in names:
                    if name != "*" and f"{module}.{name}" not in sys.modules:
                        getattr(found, name)
        except BaseException as error:
            why = f"cannot be imported: {type(error).__name__}: {error}"
        warner.showwarning = show
        tempfile.tempdir = directory
        self.reads.names |= reads.names
        self.ahead.names |= reads.names
        here = os.path.dirname(__file__)
        if not why and any(where.startswith(here) for _, _, where, _ in self.ahead.warnings.get(key, ())):
            why = "warns about the line that imports it"
        why = why or footprint.why_unfit(reads.names, set(self.conf["own"]))
        if not why:
            shadowed = namesakes(known)
            why = f"imports a module with the name of {shadowed[0]} next to the script" if shadowed else ""
        if why:
            # What it has done to this process cannot be undone.
            tell(self.fd, op="found_unfit", statement=key, why=why)
            os._exit(0)
        self.ahead.end_unit(key)

    def serve(self) -> None:
        """Fork on request. Returns only in a child that is to run the script; exits with the agent."""
        import json
        import socket

        agent = socket.socket(fileno=os.dup(self.fd))
        data = b""
        passed: list[int] = []
        while True:
            more, fds, _, _ = socket.recv_fds(agent, 1 << 16, 16)
            if not more:
                os._exit(0)
            data += more
            passed += fds
            while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                length = int.from_bytes(data[:4], "big")
                order, data = json.loads(data[4 : 4 + length]), data[4 + length :]
                # the files of the next request may have come with this one, if both are read at once
                own, passed = passed[: order["passes"]], passed[order["passes"] :]
                leaves = self.fork_via_intermediate(order, agent, own)
                for fd in passed if leaves else own:
                    os.close(fd)
                if leaves:
                    return

    def fork_via_intermediate(self, order: Mapping[str, Any], agent: socket.socket, passed: list[int]) -> bool:
        """Fork a short-lived process that forks the requested ones and exits, so that they become the agent's children.

        Returns True in a rank, False in the fork server itself.
        """
        pids: dict[str, int] = {}
        try:
            middle = os.fork()
        except OSError as error:
            self.tell_failure(order, pids, error)
            return False
        if middle:
            _, status = os.waitpid(middle, 0)
            if status:
                text = f"a helper process failed (wait status {status})"
                tell(self.fd, op="fork_failed", order=order["order"], pids={}, text=text, limit=False)
            return False
        try:
            middle = os.getpid()
            raises = _let_sigint_end()
            gate, held = os.pipe()  # closed when this process exits
            for name, child in order["children"].items():
                pid = os.fork()
                if pid == 0:
                    agent.close()
                    os.close(held)
                    self.child(middle, gate, child, passed)
                    self.leaving = True
                    if raises:
                        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
                    return True
                pids[name] = pid
        except OSError as error:
            self.tell_failure(order, pids, error)
        else:
            tell(self.fd, op="forked", order=order["order"], pids=pids)
        finally:
            if not self.leaving:
                os._exit(0)
        return self.leaving

    def tell_failure(self, order: Mapping[str, Any], pids: Mapping[str, int], error: OSError) -> None:
        """Tell the agent that nothing more can be forked; `pids` are the children that there are."""
        limit = isinstance(error, BlockingIOError)  # EAGAIN
        tell(self.fd, op="fork_failed", order=order["order"], pids=pids, text=str(error), limit=limit)

    def child(self, middle: int, gate: int, child: Mapping[str, Any], passed: list[int]) -> None:
        """Turn a fork of this process into a rank about to run its script, or into the store process."""
        try:
            os.close(self.fd)
            self.adopt_by_agent(middle, gate, child)
            if "store" in child:
                keep_store(passed[0], *child["store"])
            for fd in passed:
                os.close(fd)
            self.become_rank(child)
        except BaseException as error:
            os.write(2, (f"muster: error: cannot set up this rank: {error!r}\n").encode())
            os._exit(125)

    def adopt_by_agent(self, middle: int, gate: int, child: Mapping[str, Any]) -> None:
        """Wait until this process is the agent's own child, and tie its life to the agent's."""
        import ctypes
        import signal
        import time

        os.setsid()
        os.read(gate, 1)
        os.close(gate)
        while os.getppid() == middle:  # the kernel closes files a moment before it reparents children
            time.sleep(0.0002)
        agent = self.conf["agent"]
        # only now: the kernel would clear it on reparenting
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != agent:
            os._exit(1)
        write_to(child["out"], child["err"], child.get("screen"))

    def become_rank(self, child: Mapping[str, Any]) -> None:
        """Undo what distinguishes this process from a new one."""
        import atexit
        import types

        stdin = self.conf["stdin"]
        if stdin is not None:
            if child["stdin"]:
                os.dup2(stdin, 0)
                _read_anew()
            os.close(stdin)
        os.environ.update(child["env"])
        atexit.register(leave_registrations)  # before the script's own functions, so it runs after them
        # The old one is frozen with all the rest: what the script leaves in it would never be collected.
        main = types.ModuleType("__main__")
        vars(main).update(vars(sys.modules["__main__"]))
        if "__annotations__" in vars(main):
            vars(main)["__annotations__"] = {}
        old = sys.modules["__main__"]
        # multiprocessing knows it by a second name, and unpickles by that what comes from spawned processes
        for name in [name for name, module in sys.modules.items() if module is old]:
            sys.modules[name] = main
        for names, name in self.mains:
            names[name] = main
        threading = sys.modules.get("threading")
        if threading:
            threading.main_thread()._set_native_id()  # a fork changes it, and Python (3.11) does not update it
        self.ahead.env = dict(os.environ)
        self.ahead.index = child["index"]
        torch = self.ahead.modules.get("torch")
        if child["cpus"]:
            os.sched_setaffinity(0, child["cpus"])
            if torch and not os.environ.get("OMP_NUM_THREADS"):
                torch.set_num_threads(len(child["cpus"]))
        # Seeds drawn by an import would be the same in all ranks.
        if torch:
            torch.default_generator.seed()
        if "numpy.random" in self.ahead.modules:
            self.ahead.modules["numpy.random"].seed()
        for package in ("multiprocessing", "multiprocess"):  # the second one is a copy of the first with dill
            # looked up, not merged: a rank would copy the pages of all modules
            process = self.loaded(f"{package}.process")
            if process:
                process.current_process().authkey = os.urandom(32)
            tracker = self.loaded(f"{package}.resource_tracker")
            if tracker:
                # The parent's would be shared by all ranks, and free nothing until the last of them exits.
                tracker._resource_tracker._fd = tracker._resource_tracker._pid = None
        become_rank(child["stack"], child["pipes"], True, self.ahead.modules.get(LOGGER))

    def loaded(self, name: str) -> Any:
        """Return a loaded module, which may be withheld; None if it is not loaded."""
        return self.ahead.modules.get(name) or sys.modules.get(name)

    def skip_teardown(self) -> None:
        """Leave the imported modules alone at a rank's exit: tearing them down dirties every page they share.

        `distributed_c10d` is torn down: it holds the process groups, whose destruction has effects.
        """
        if not self.leaving:
            return
        self.end_after_call()
        self.let_workers_finish()
        import ctypes

        self.skip_destructors()
        groups = "torch.distributed.distributed_c10d"
        if groups in sys.modules:
            del self.ahead.modules[groups]
        for name in self.ahead.modules:
            sys.modules.pop(name, None)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.ahead.modules))


def _let_sigint_end() -> bool:
    """Have SIGINT end this process without KeyboardInterrupt; return False if it is ignored or handled.

    A rank may get one as soon as its pid is known. It has nothing to clean up then, and no traceback to write.
    """
    if _signal.getsignal(_signal.SIGINT) != _signal.default_int_handler:
        return False
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    return True


def write_to(out: Sequence[str], err: Sequence[str], screen: str | None = None) -> None:
    """Make stdout and stderr the first of these files that can be opened; or both a terminal, the `screen`."""
    for target, paths in ((1, out), (2, err)):
        # not as the controlling terminal, whose keys send signals
        fd = os.open(screen, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) if screen else _open_first(paths)
        os.dup2(fd, target)
        os.close(fd)


def _open_first(paths: Sequence[str]) -> int:
    """Open the first of these paths that can be opened, to append, as `processes.open_first` does."""
    error: OSError | None = None
    for path in paths:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as failed:
            error = failed
    assert error is not None
    raise error


def _read_anew() -> None:
    """Recreate `sys.stdin` for its new file: until now it was /dev/null, which is seekable."""
    import io

    old: Any = sys.stdin
    if old is None:
        return
    raw: Any = io.FileIO(0, "r", closefd=False)
    raw.name = old.name
    new: Any = io.TextIOWrapper(io.BufferedReader(raw), encoding=old.encoding, errors=old.errors)
    new.mode = old.mode
    sys.stdin = new
    sys.__stdin__ = new  # type: ignore[misc]
