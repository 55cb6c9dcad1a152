"""What makes a plain `python script.py` a warm interpreter, a rank, or the keeper of the store.

It stands alone in a folder as `sitecustomize.py`, first on PYTHONPATH, so Python imports it before the script: after
the interpreter is complete, before anything of the person's runs. It takes itself away again. What happens then is
the `mode` in MUSTER_HOOK:

    prove   tell that the hook is reached, and which torch is there; go on
    rank    become a rank; go on, and Python runs the script
    serve   import torch, then fork ranks when the agent asks. Each child goes on, and Python itself runs the script in
            it: no frame of ours is below it, and `__main__`, exits, signals and tracebacks are Python's own
    store   keep the store of an attempt until the agent ends this process

In the mode `rank` nothing may be imported that stays: a module of the person's may bear the same name.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Any


_OURS = {"__future__", "json", "traceback"}
"""Modules that this file may have imported; a plain Python would not have them yet."""


def _enter() -> dict[str, Any]:
    """Take the hook away, as if it had never been; give the configuration."""
    import marshal  # a part of the interpreter, unlike json: it is there before any import

    conf: dict[str, Any] = marshal.loads(bytes.fromhex(os.environ.pop("MUSTER_HOOK")))
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    sys.path_importer_cache.pop(folder, None)
    if conf["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = conf["pythonpath"]
    return conf


def _theirs() -> bool:
    """Import the sitecustomize that the hook stands before, if there is one; True if so."""
    import _frozen_importlib
    import _frozen_importlib_external

    spec = _frozen_importlib_external.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None:
        return False
    module = _frozen_importlib.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return True


def _tell(fd: int, **message: Any) -> None:
    """Send one message to the agent: four bytes of length, then JSON."""
    import json

    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(fd, data) :]


def _prove(conf: Mapping[str, Any]) -> None:
    """Tell which Python this is and which torch it would import, without importing it."""
    import re
    from importlib.machinery import PathFinder

    found, version = PathFinder.find_spec("torch", sys.path), None
    if found and found.origin:
        try:
            with open(os.path.join(os.path.dirname(found.origin), "version.py")) as file:
                version = re.search(r"__version__ = '([^']+)'", file.read())
        except OSError:
            pass
    python = ".".join(map(str, sys.version_info[:3]))
    _tell(conf["fd"], op="proven", torch=version and version.group(1), has_torch=found is not None, python=python)
    os.close(conf["fd"])


# ---- a rank ---------------------------------------------------------------------------------------------------------


def _become_rank(stack: Mapping[str, Any] | None) -> None:
    """What every Python rank has: whole lines in its log at once, and its stacks on a signal."""
    loaded = "faulthandler" in sys.modules
    import faulthandler

    if not loaded:
        del sys.modules["faulthandler"]
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)
    if stack:
        fd = os.open(stack["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # out of the way of the numbers that the script will see
            high = os.dup2(fd, 200, inheritable=False)
            os.close(fd)
        except OSError:  # fewer are allowed
            high = fd
        faulthandler.register(stack["signal"], file=high, all_threads=True)


def _read_anew() -> None:
    """Have `sys.stdin` find out what it reads: until now it was /dev/null, in which one can seek."""
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


def _keep_store(fd: int, host: str, port: int) -> None:
    """Serve the store of one attempt on a socket that the agent listens on already, until the agent ends this."""
    import importlib
    import signal

    try:
        distributed: Any = importlib.import_module("torch.distributed")
    except ImportError:
        os._exit(3)
    if not distributed.is_available():  # a torch can be built without it
        os._exit(3)
    store = distributed.TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=fd)
    while store:
        signal.pause()


# ---- the warm interpreter -------------------------------------------------------------------------------------------


class _Warm:
    """Import once, fork often. Never compute: after an OpenMP region here a child would hang in its own."""

    def __init__(self, conf: dict[str, Any]) -> None:
        import atexit
        import gc
        import time

        self.conf, self.clock = conf, time.monotonic
        self.fd: int = conf["fd"]
        self.times = {"python": self.clock()}
        self.theirs = False
        self.their_error: BaseException | None = None
        self.ours = not os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
        # Registered before torch's own, so it runs after them and after the script's.
        atexit.register(self.leak)
        self.leaving = False
        gc.disable()  # nothing that an import makes is garbage

    def prepare(self) -> None:
        """Import everything; tell the agent how it went. Never raises."""
        import gc
        import importlib
        import traceback

        try:
            self.theirs = _theirs()
        except BaseException as error:
            self.their_error = error  # each rank raises it again, as plain Python would
        before = set(sys.modules) - _OURS
        # Without this, counting GPUs opens the driver, and no child could use a GPU.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        for name in self.conf["preload"]:
            try:
                importlib.import_module(name)
            except BaseException as error:
                missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
                text = "".join(traceback.format_exception_only(type(error), error)).strip()
                _tell(self.fd, op="failed", module=name, missing=missing, text=text, trace=traceback.format_exc())
                os._exit(1)
        if self.ours:
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        self.times["imported"] = self.clock()
        # What the standard library keeps (temporary files, threads, loggers) is torn down as ever.
        standard = getattr(sys, "stdlib_module_names", ()) or before
        main = sys.modules["__main__"]
        self.modules = [
            name
            for name, module in sys.modules.items()
            if module is not main and name.partition(".")[0] not in standard
        ]
        # Some hold on to `__main__` (dill, which torch imports where it is installed): found here, once, because
        # to look at all values in each rank would copy the pages on which they lie.
        self.mains = [
            (names, name)
            for names in [getattr(module, "__dict__", None) for module in list(sys.modules.values())]
            if type(names) is dict
            for name, value in list(names.items())
            if value is main
        ]
        unfit = self.hidden(before) or self.unfit()
        gc.freeze()
        gc.enable()
        torch = sys.modules.get("torch")
        _tell(
            self.fd,
            op="ready",
            unfit=unfit,
            times=self.times,
            torch=str(torch.__version__) if torch else None,
            cuda=torch.version.cuda if torch else None,
            python=".".join(map(str, sys.version_info[:3])),
        )

    def hidden(self, before: set[str]) -> str | None:
        """A file beside the script that bears the name of a module that is loaded already, in words; or None.

        The script's `import json` means its own json.py, and a forked rank would find Python's.
        """
        if getattr(sys.flags, "safe_path", False):
            return None
        folder = os.getcwd()
        if sys.argv[0] != "-m":
            folder = sys.argv[0] if os.path.isdir(sys.argv[0]) else os.path.dirname(os.path.realpath(sys.argv[0]))
        loaded = {name for name in set(sys.modules) - before if "." not in name}
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            return None
        for name in names:
            module = name[:-3] if name.endswith(".py") else name
            if module not in loaded or module in sys.builtin_module_names:
                continue
            path = os.path.join(folder, name)
            package = os.path.exists(os.path.join(path, "__init__.py"))
            theirs = getattr(sys.modules[module], "__file__", None) or ""
            if (path.endswith(".py") or package) and not os.path.realpath(theirs).startswith(os.path.realpath(path)):
                return f"{name} beside the script bears the name of a module that torch, or --preload, imports"
        return None

    def unfit(self) -> str | None:
        """Why ranks must not be forked from this process, or None."""
        opened = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                opened.add(os.readlink("/proc/self/fd/" + name))
            except OSError:
                pass
        devices = sorted(path for path in opened if path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/accel")))
        if devices:
            return "an import opened " + devices[0]
        if self.threads() > 1:
            self.pause_openmp()
        if self.threads() > 1:
            names = set()
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/comm") as file:
                    names.add(file.read().strip())
            return f"an import started threads ({self.threads() - 1}, named {', '.join(sorted(names))})"
        return None

    def threads(self) -> int:
        """How many threads a child would lose, plus one. OpenBLAS ends its own when this process forks."""
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return len(os.listdir("/proc/self/task"))

    def pause_openmp(self) -> None:
        """Have OpenMP end the threads of its pool, if an import made one."""
        import ctypes

        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}
        for path in paths:
            try:
                ctypes.CDLL(path).omp_pause_resource_all(2)
            except (OSError, AttributeError):
                pass

    def serve(self) -> None:
        """Fork when asked. Returns only in a child that is to run the script; ends with the agent."""
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
                if self.brood(order, agent, passed):
                    return
                for fd in passed:
                    os.close(fd)
                passed = []

    def brood(self, order: Mapping[str, Any], agent: socket.socket, passed: list[int]) -> bool:
        """Fork a short-lived process that forks those asked for and ends, so that they become the agent's children.

        True in a rank, False in the warm interpreter itself.
        """
        middle = os.fork()
        if middle:
            _, status = os.waitpid(middle, 0)
            if status:
                text = f"a helper process ended (wait status {status})"
                _tell(self.fd, op="unforked", order=order["order"], pids={}, text=text)
            return False
        try:
            middle, pids = os.getpid(), {}
            gate, held = os.pipe()  # ends when this process does
            for name, child in order["children"].items():
                pid = os.fork()
                if pid == 0:
                    agent.close()
                    os.close(held)
                    self.child(middle, gate, child, passed)
                    self.leaving = True
                    return True
                pids[name] = pid
        except OSError as error:
            _tell(self.fd, op="unforked", order=order["order"], pids=pids, text=str(error))
        else:
            _tell(self.fd, op="forked", order=order["order"], pids=pids)
        finally:
            if not self.leaving:
                os._exit(0)
        return self.leaving

    def child(self, middle: int, gate: int, child: Mapping[str, Any], passed: list[int]) -> None:
        """Go from a fork of this process to a rank about to run its script, or to the keeper of the store."""
        try:
            os.close(self.fd)
            self.settle(middle, gate, child)
            if "store" in child:
                _keep_store(passed[0], *child["store"])
            for fd in passed:
                os.close(fd)
            self.become(child)
        except BaseException as error:
            os.write(2, (f"muster: this rank could not be set up: {error!r}\n").encode())
            os._exit(125)

    def settle(self, middle: int, gate: int, child: Mapping[str, Any]) -> None:
        """Wait until this process is the agent's own child, and bind its life to the agent's."""
        import ctypes
        import signal
        import time

        os.setsid()
        os.read(gate, 1)
        os.close(gate)
        while os.getppid() == middle:  # the kernel closes files a moment before it gives children away
            time.sleep(0.0002)
        agent = self.conf["agent"]
        # only now: the kernel would forget it with the parent that it was told of
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != agent:
            os._exit(1)
        for target, path in ((1, child["out"]), (2, child["err"])):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(fd, target)
            os.close(fd)

    def become(self, child: Mapping[str, Any]) -> None:
        """Undo whatever tells this process from a fresh one."""
        import types

        stdin = self.conf["stdin"]
        if stdin is not None:
            if child["stdin"]:
                os.dup2(stdin, 0)
                _read_anew()
            os.close(stdin)
        os.environ.update(child["env"])
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
            threading.main_thread()._set_native_id()  # a fork changes it, and Python (3.11) does not look
        torch = sys.modules.get("torch")
        if child["cpus"]:
            os.sched_setaffinity(0, child["cpus"])
            if torch and not os.environ.get("OMP_NUM_THREADS"):
                torch.set_num_threads(len(child["cpus"]))
        # Seeds that were drawn by an import would be the same in all ranks.
        if torch:
            torch.default_generator.seed()
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()
        process = sys.modules.get("multiprocessing.process")
        if process:
            process.current_process().authkey = os.urandom(32)
        tracker = sys.modules.get("multiprocessing.resource_tracker")
        if tracker:
            # One of the parent's would be shared by all ranks, and free nothing until the last of them ends.
            tracker._resource_tracker._fd = tracker._resource_tracker._pid = None
        _become_rank(child["stack"])

    def leak(self) -> None:
        """At a rank's exit: leave the imported modules alone. Tearing them down dirties every page they share.

        `distributed_c10d` is torn down: it holds the process groups, whose end does something.
        """
        if not self.leaving:
            return
        import ctypes

        for name in self.modules:
            if name == "torch.distributed.distributed_c10d":
                continue
            module = sys.modules.pop(name, None)
            if module is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))


def _main() -> bool:
    conf = _enter()
    if conf["mode"] == "serve":
        warm = None
        try:
            warm = _Warm(conf)
            warm.prepare()
            warm.serve()
        finally:
            # Whatever happened: only a child that is to run the script may go on from here.
            if warm is None or not warm.leaving:
                os._exit(1)
        if warm.their_error is not None:
            raise warm.their_error
        return warm.theirs
    if conf["mode"] == "prove":
        _prove(conf)
    elif conf["mode"] == "store":
        _keep_store(conf["fd"], *conf["store"])
    elif conf["mode"] == "rank":
        _become_rank(conf["stack"])
        sys.modules.pop("__future__", None)
    return _theirs()


if not _main():
    raise ImportError("nothing to customize", name="sitecustomize")
