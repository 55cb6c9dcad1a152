"""The site hook, which makes a plain `python script.py` a fork server, a rank, or the store process.

It is the only file of a directory that is first on PYTHONPATH, so Python imports it as `sitecustomize` before the
script: when the interpreter is complete, and before any of the user's code. It removes its traces. What it does then
depends on the `mode` in MUSTER_HOOK:

    prove   report that the hook works, and the version of torch; continue
    rank    set up a rank; continue, and Python runs the script
    serve   import torch, then fork ranks when the agent asks. Each child continues, and Python itself runs the script
            in it: no frame of muster is below it, and `__main__`, exits, signals and tracebacks are Python's own
    store   serve the store of an attempt until the agent ends this process

In mode `rank` no imported module may remain: a module of the user may have the same name.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any


_OF_RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID"),
)
"""Environment variables that ranks have and a fork server does not, or that differ between ranks."""


def _enter() -> dict[str, Any]:
    """Remove all traces of the hook, and return the configuration."""
    import marshal  # part of the interpreter, unlike json: it needs no import from a file

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
    """Import the sitecustomize that the hook precedes; return True if there is one."""
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


def _is_standard(name: str, top: object) -> bool:
    """Return True if a module belongs to the standard library; `top` is its top-level module."""
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return name.partition(".")[0] in names
    path = getattr(top, "__file__", None)  # Python 3.9 has no list
    return path is None or (path.startswith(os.path.dirname(os.__file__) + os.sep) and "-packages" not in path)


def _tell(fd: int, **message: Any) -> None:
    """Send one message to the agent: four bytes of length, then JSON."""
    import json

    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(fd, data) :]


def _prove(conf: Mapping[str, Any]) -> None:
    """Report which Python this is and which torch it would import, without importing it."""
    import re
    from importlib.machinery import PathFinder

    found, text = PathFinder.find_spec("torch", sys.path), ""
    if found and found.origin:
        try:
            with open(os.path.join(os.path.dirname(found.origin), "version.py")) as file:
                text = file.read()
        except OSError:
            pass
    versions = [re.search(rf"^{name}\b.*= '([^']+)'", text, re.MULTILINE) for name in ("__version__", "cuda")]
    torch, cuda = (version and version.group(1) for version in versions)
    python = ".".join(map(str, sys.version_info[:3]))
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    _tell(conf["fd"], op="python_probed", torch=torch, cuda=cuda, has_torch=found is not None, python=python, path=path)
    os.close(conf["fd"])


# ---- a rank ---------------------------------------------------------------------------------------------------------


_NO_ROOM = (28, 122, 27)
"""ENOSPC, EDQUOT and EFBIG: the log cannot grow any more. (Importing errno here would be visible to the script.)"""


def _outlast_full_disk(pipes: Sequence[str] | None) -> None:
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


def _become_rank(
    stack: Mapping[str, Any] | None, pipes: Sequence[str] | None, forked: bool = False, torch_logger: Any = None
) -> None:
    """Set up a Python rank: its name in `ps`, line buffering, stacks on a signal, a fallback for full disks."""
    path = stack["socket"] if stack else ""
    if path and torch_logger is not None:
        _serve_from_first_group(torch_logger, path)
    elif path and not forked:
        finders: list[Any] = sys.meta_path
        finders.insert(0, _Until(_LOGGER, lambda logger: _serve_from_first_group(logger, path)))
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
    _outlast_full_disk(pipes)
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)
    if stack:
        _note_uncaught(stack["note"])
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
        faulthandler.register(stack["signal"], file=high, all_threads=True)
        _mark_exit(high)


def _mark_exit(fd: int) -> None:
    """Touch this file when the interpreter begins to exit: an error that was logged just before is why."""
    loaded = "atexit" in sys.modules
    import atexit

    if not loaded:
        del sys.modules["atexit"]
    utime, getpid, pid = os.utime, os.getpid, os.getpid()

    def touch() -> None:
        try:
            if getpid() == pid:
                utime(fd)
        except OSError:
            pass  # the script has closed it

    atexit.register(touch)


_LONGEST_TEXT, _MOST_FRAMES, _MOST_LINKS = 4000, 64, 10
"""Limits of a note: characters of a message, frames of an exception, exceptions of a chain or group."""


def _note_uncaught(path: str) -> None:
    """Write a note to this file when an exception ends the main thread, before anything is printed about it.

    A traceback in a log is no proof: programs log exceptions that they handle, and the script may replace
    sys.excepthook. Python raises an audit event before it calls that, whatever it is (sys.excepthook, PEP 578).
    """
    loaded = "time" in sys.modules
    import time

    if not loaded:
        del sys.modules["time"]
    # the script may replace these functions
    open_, write, close, getpid, monotonic = os.open, os.write, os.close, os.getpid, time.monotonic
    flags, pid = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, os.getpid()

    def plain(char: str) -> bool:
        return char >= " " and char not in '"\\' and not "\ud800" <= char <= "\udfff"

    def quoted(text: str) -> str:
        return '"' + "".join(char if plain(char) else f"\\u{ord(char):04x}" for char in text) + '"'

    def told(error: BaseException) -> str:
        kind = type(error)
        module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
        try:
            text = str(error.msg if isinstance(error, SyntaxError) else error)
            text = "\n".join([text, *map(str, getattr(error, "__notes__", ()))])
        except BaseException:
            text = "<exception str() failed>"
        return f"{module}{kind.__qualname__}{': ' if text else ''}{text}"[:_LONGEST_TEXT]

    def leaves(error: Any) -> list[str]:
        found: list[str] = []
        for item in getattr(error, "exceptions", ()) if hasattr(error, "derive") else ():
            found += leaves(item) or [told(item)]
        return found[:_MOST_LINKS]

    def described(error: BaseException, how: str) -> str:
        frames, trace = [], error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"[{quoted(code.co_filename)},{trace.tb_lineno or 0},{quoted(code.co_name)}]")
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and isinstance(error.filename, str) and isinstance(error.lineno, int):
            frames.append(f'[{quoted(error.filename)},{error.lineno},""]')
        parts = ",".join(frames[-_MOST_FRAMES:]), ",".join(map(quoted, leaves(error)))
        return f'{{"how":"{how}","text":{quoted(told(error))},"frames":[{parts[0]}],"leaves":[{parts[1]}]}}'

    def heard(event: str, args: Any) -> None:
        if event != "sys.excepthook" or getpid() != pid:
            return
        try:
            error, trace = args[2], args[3]
            if trace is not None and trace.tb_frame.f_back is not None:
                return  # an extension has printed an exception in a callback
            chain: list[str] = []
            how = ""
            while isinstance(error, BaseException) and len(chain) < _MOST_LINKS:
                chain.append(described(error, how))
                how = "caused by" if error.__cause__ is not None else "while handling"
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            fd = open_(path, flags, 0o600)
            write(fd, f'{{"at":{monotonic()},"chain":[{",".join(chain)}]}}\n'.encode())
            close(fd)
        except BaseException:
            pass  # the exit of a rank does not depend on it

    sys.addaudithook(heard)


# ---- torch's server, which answers questions about a rank ------------------------------------------------------------


_LOGGER = "torch.distributed.c10d_logger"
"""The module through whose `_WaitCounter` each call of init_process_group goes."""


def _serve_from_first_group(logger: Any, path: str) -> None:
    """Have torch start its server at `path` when this process calls init_process_group for the first time.

    `logger` is the module `_LOGGER`. The server has C++ threads, which answer while Python is blocked. They must not
    be there before: a thread more makes Python 3.12 warn of each fork. From then on torch has threads of its own. A
    torch without a server, or whose private names have changed, is left alone.
    """
    real: Any = getattr(logger, "_WaitCounter", None)
    if real is None:
        return
    rank = os.getpid()

    def counter(name: str, *more: Any) -> Any:
        if str(name).endswith(".init_process_group"):
            logger._WaitCounter = real
            if os.getpid() == rank:  # not in a child that it has forked
                _start_server(path)
        return real(name, *more)

    logger._WaitCounter = counter


def _start_server(path: str) -> None:
    """Start torch's server without a line in the log; do nothing if that is impossible."""
    import ctypes

    try:
        found = os.path.join(os.path.dirname(sys.modules["torch"].__file__ or ""), "lib", "libc10.so")
        # It writes a line when it starts, and three when it ends: it is never ended.
        level = ctypes.c_int.in_dll(ctypes.CDLL(found), "FLAGS_caffe2_log_level")
        server_type: Any = sys.modules["torch._C._distributed_c10d"]._WorkerServer
        before, level.value = level.value, 4
        try:
            server = server_type(path)
        finally:
            level.value = before
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    except Exception:
        return


class _Until:
    """A finder that is asked for one module, `name`, and calls `then` with it once it is imported.

    It removes itself when it is asked, and the other finders find the module.
    """

    def __init__(self, name: str, then: Any) -> None:
        self.name, self.then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of the other finders for the one module."""
        if name != self.name:
            return None
        finders: list[Any] = sys.meta_path
        finders.remove(self)
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        real, then = spec.loader, self.then

        class Loader(type(real)):  # type: ignore[misc]
            def exec_module(self, module: Any) -> None:
                module.__spec__.loader = module.__loader__ = real
                real.exec_module(module)
                then(module)

        loader = object.__new__(Loader)
        loader.__dict__.update(real.__dict__)
        spec.loader = loader
        return spec


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


def _keep_store(fd: int, host: str, port: int) -> None:
    """Serve the store of one attempt on the agent's listening socket, until the agent ends this process."""
    import importlib
    import signal

    try:
        distributed: Any = importlib.import_module("torch.distributed")
    except ImportError:
        os._exit(3)
    if not distributed.is_available():  # torch can be built without it
        os._exit(3)
    # a scheduler without cgroups signals all descendants of a task; the store lives as long as its agent wants
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)  # a fault of its own still kills it
    store = distributed.TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=fd)
    while store:
        signal.pause()


# ---- imports before the script --------------------------------------------------------------------------------------


class _Reads:
    """Context in which the names of environment variables that Python code reads are recorded."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __enter__(self) -> None:
        environ: Any = os.environ
        self.encode = encode = environ.encodekey  # every access by name goes through it

        def noted(name: str) -> bytes:
            # tqdm iterates over all variables to find those that begin with TQDM_: that is no read of the others
            if sys._getframe(2).f_code.co_name != "__iter__":
                self.names.add(name)
            found: bytes = encode(name)
            return found

        environ.encodekey = noted

    def __exit__(self, *_: object) -> None:
        environ: Any = os.environ
        environ.encodekey = self.encode


class _Ahead:
    """Modules that were imported before the script, hidden until the script imports them itself.

    So `"torch" in sys.modules` is False as in plain Python before the script imports torch; that moment is known, and a
    torch that the script puts earlier on `sys.path` is the one it gets. This is a finder of `sys.meta_path`: the
    script's imports are searched as usual, and if the result is the same file, the existing module is used instead of a
    new one.
    """

    def __init__(self, counting: Mapping[str, Any]) -> None:
        self.names, self.prefixes = set(counting["names"]), tuple(counting["prefixes"])
        self.caught_up, self.threads = set(counting["caught_up"]), int(counting["threads"])
        self.groups: dict[str, set[str]] = {}
        self.modules: dict[str, Any] = {}
        """All modules outside the standard library that were loaded before the script."""
        self.withheld: dict[str, dict[str, Any]] = {}
        """Those of them that the script has not imported yet, by top-level package."""
        self.filters: list[Any] = []
        self.importing = ""
        self.warnings: dict[str, list[tuple[Any, Any, str, int]]] = {}
        """Warnings during imports; each rank repeats them when its script imports the same."""
        self.tempdir: str | None = None
        self.asked: Any = None
        self.index = 0
        """Index of this rank's byte in `asked`."""
        self.env: dict[str, str] | None = None
        """The environment with which the script started, in a rank."""
        self.told: set[str] = set()
        """Environment variables set too late that the rank has reported."""

    def note_warning(self, message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        """Replacement of `warnings.showwarning`."""
        self.warnings.setdefault(self.importing, []).append((message, category, filename, lineno))

    def map_asked(self, asked: tuple[int, int] | None) -> None:
        """Share a byte per rank with the agent, which is set when the script has imported torch.

        `asked` is a descriptor and the number of bytes. Memory is shared, because a script may close descriptors.
        """
        if asked is None:
            return
        import ctypes

        fd, size = asked
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        address = libc.mmap(None, size, 3, 1, fd, 0)  # read and write; shared
        os.close(fd)
        if address != ctypes.c_void_p(-1).value:
            self.asked = (ctypes.c_char * size).from_address(address)

    def note(self, name: str, known: set[str]) -> None:
        """Record the import of `name`; `known` are the modules before."""
        tops = {module.partition(".")[0] for module in set(sys.modules) - known}
        self.groups.setdefault(name.partition(".")[0], set()).update(tops)

    def choose(self, before: set[str]) -> None:
        """Choose what is hidden: whole packages that were not there before, and that come from files."""
        from importlib.machinery import ExtensionFileLoader, SourceFileLoader

        there = {name.partition(".")[0] for name in before}
        for name, module in self.modules.items():
            top = name.partition(".")[0]
            spec = getattr(self.modules.get(top), "__spec__", None)
            if top not in there and type(getattr(spec, "loader", None)) in (SourceFileLoader, ExtensionFileLoader):
                self.withheld.setdefault(top, {})[name] = module

    def hide(self) -> None:
        """Hide what was chosen."""
        for modules in self.withheld.values():
            for name in modules:
                sys.modules.pop(name, None)
        self.set_filters([entry for entry in self.all_filters() if not any(entry is ours for ours in self.filters)])
        finders: list[Any] = sys.meta_path
        finders.insert(0, self)

    def all_filters(self) -> list[Any]:
        import warnings

        return list(warnings.filters)

    def set_filters(self, filters: list[Any]) -> None:
        import warnings

        entries: list[Any] = warnings.filters  # type: ignore[assignment]
        entries[:] = filters
        with warnings.catch_warnings():  # makes Python drop what it cached from the old ones
            pass

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of the other finders; its loader gives the existing module, if that is from the same file."""
        if name not in self.withheld:
            return None
        module = self.withheld[name][name]
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                break
        else:
            return None
        if spec.origin != module.__spec__.origin:
            self.tell(f"imports {name} from {spec.origin}, but {module.__spec__.origin} was already loaded")
            del self.withheld[name]
            return spec
        ahead, real = self, module.__spec__

        class Loader(type(spec.loader)):  # type: ignore[misc]
            def create_module(self, spec: Any) -> Any:
                return module

            def exec_module(self, module: Any) -> None:
                module.__spec__ = real
                ahead.show(name)

        Loader.__name__, Loader.__qualname__ = type(spec.loader).__name__, type(spec.loader).__qualname__
        Loader.__module__ = type(spec.loader).__module__
        loader = object.__new__(Loader)
        loader.__dict__.update(spec.loader.__dict__)
        spec.loader = loader
        return spec

    def show(self, top: str) -> None:
        """Show this package, which the script imports now, and what it imports itself."""
        tops = [name for name in {top, *self.groups.get(top, ())} if name in self.withheld]
        for name in tops:
            for module, value in self.withheld.pop(name).items():
                sys.modules.setdefault(module, value)
        if self.filters:
            self.set_filters(self.filters + [entry for entry in self.all_filters() if entry not in self.filters])
            self.filters = []
        if not self.withheld:
            finders: list[Any] = sys.meta_path
            finders.remove(self)
        if self.env is not None:
            self.catch_up(tops, self.env)
        for warning in self.warnings.pop(top, ()):
            import warnings

            warnings.warn_explicit(*warning)

    def catch_up(self, tops: list[str], env: Mapping[str, str]) -> None:
        """Do what the import of these packages would have done in the current environment."""
        changed = {name for name in {*env, *os.environ} if env.get(name) != os.environ.get(name)}
        if self.tempdir and "torch" in tops:
            import tempfile

            # torch makes Python choose the directory for temporary files
            if not tempfile.tempdir and not changed & {"TMPDIR", "TEMP", "TMP"}:
                tempfile.tempdir = self.tempdir
            tempfile.gettempdir()
        changed = {name for name in changed if name in self.names or name.startswith(self.prefixes)}
        late = changed - self.caught_up
        if "OMP_NUM_THREADS" in changed and not self.set_threads(tops):
            late.add("OMP_NUM_THREADS")
        torch = sys.modules.get("torch") if "torch" in tops else None
        if torch and self.asked is not None:
            self.asked[self.index] = b"1"
        if torch and "TORCH_LOGS" in changed:
            torch._logging._internal._init_logs()
        if torch and "TORCH_DISTRIBUTED_DEBUG" in changed:
            torch.distributed.set_debug_level_from_env()
        late -= self.told
        self.told |= late
        if late:
            by = tops[0] if len(tops) == 1 else "torch"
            self.tell(f"set {', '.join(sorted(late))} too late: {by} was already loaded")

    def set_threads(self, tops: list[str]) -> bool:
        """Apply OMP_NUM_THREADS as these packages do; return False if that is not known."""
        value = os.environ.get("OMP_NUM_THREADS", "")
        # MKL reduces a number above that of the cores
        if not value.isdigit() or not 0 < int(value) <= self.threads or "MKL_NUM_THREADS" in os.environ:
            return False
        if "torch" in tops:
            sys.modules["torch"].set_num_threads(int(value))
        if "numpy" in tops and "OPENBLAS_NUM_THREADS" not in os.environ:
            import ctypes

            with open("/proc/self/maps") as maps:
                paths = {line.split()[-1] for line in maps if "openblas" in line}
            for path in paths:
                library = ctypes.CDLL(path)
                for form in ("scipy_openblas_%s64_", "scipy_openblas_%s", "openblas_%s64_", "openblas_%s"):
                    if hasattr(library, form % "set_num_threads"):
                        getattr(library, form % "set_num_threads")(int(value))
                        break
        return True

    def tell(self, what: str) -> None:
        """Print a difference from plain Python."""
        os.write(2, f"muster: warning: this rank {what}; use `--launcher exec` for one interpreter per rank\n".encode())


# ---- the fork server ------------------------------------------------------------------------------------------------


class _ForkServer:
    """The fork server: import once, fork often.

    It never computes: after an OpenMP region here a child would hang in its own.
    """

    def __init__(self, conf: dict[str, Any]) -> None:
        import atexit
        import gc
        import time

        self.conf, self.clock = conf, time.monotonic
        _outlast_full_disk(None)  # before any import keeps a reference to stderr, as handlers of logging do
        self.fd: int = conf["fd"]
        self.times = {"python": self.clock()}
        self.theirs = False
        self.their_error: BaseException | None = None
        self.reads = _Reads()
        self.ahead = _Ahead(conf["counting"])
        self.ours = not os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
        # Registered before torch's own, so it runs after them and after the script's.
        atexit.register(self.skip_teardown)
        self.leaving = False
        gc.disable()  # imports produce no garbage

    def prepare(self) -> None:
        """Import everything; report the result to the agent. Never raises."""
        at_start = set(sys.modules) - {"__future__", "sitecustomize"}
        with self.reads:
            try:
                # Before any import of ours that a plain Python would not have made at this point.
                self.theirs = _theirs()
            except BaseException as error:
                self.their_error = error  # each rank raises it again, as plain Python would
        before = set(sys.modules) - {"__future__"}
        unfit = self.depends_on_rank(at_start) or self.traced()
        if unfit is None:
            self.import_ahead(before)
            unfit = self.why_unfit()
        self.times["imported"] = self.clock()
        import gc

        torch = self.ahead.modules.get("torch")
        namesakes = self.namesakes(before)
        self.ahead.hide()
        gc.freeze()
        gc.enable()
        _tell(
            self.fd,
            op="preloaded",
            unfit=unfit,
            namesakes=namesakes,
            reads=sorted(self.reads.names),
            times=self.times,
            torch=str(torch.__version__) if torch else None,
            cuda=torch.version.cuda if torch else None,
            python=".".join(map(str, sys.version_info[:3])),
        )

    def import_ahead(self, before: set[str]) -> None:
        """Import what the ranks will use, and note what that changed in this process."""
        # Imports for later parts of this file come before the search for modules that hide those of the script.
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
                _tell(
                    self.fd, op="preload_failed", module=name, missing=missing, text=text, trace=traceback.format_exc()
                )
                os._exit(1)
            self.ahead.note(name, known)
        if self.ours:
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        warner.showwarning = show
        self.ahead.filters = [entry for entry in warnings.filters if not any(entry is old for old in filters)]
        if directory is None:
            self.ahead.tempdir, tempfile.tempdir = tempfile.tempdir, None
        # The state of the standard library (temporary files, threads, loggers) is torn down as usual.
        main = sys.modules["__main__"]
        self.ahead.modules = {
            name: module
            for name, module in sys.modules.items()
            if module is not main and not _is_standard(name, sys.modules.get(name.partition(".")[0]))
        }
        # Some modules keep a reference to `__main__` (dill, which torch imports if installed): found once here, because
        # searching all values in each rank would copy the pages on which they are.
        self.mains = [
            (names, name)
            for names in [getattr(module, "__dict__", None) for module in list(sys.modules.values())]
            if type(names) is dict
            for name, value in list(names.items())
            if value is main
        ]
        self.ahead.choose(before)
        self.ahead.map_asked(self.conf["asked"])
        self.ahead.names |= self.reads.names

    def namesakes(self, before: set[str]) -> list[str]:
        """Return the files beside the script that have the name of a module that is loaded already.

        The script's `import json` means its own json.py, but a forked rank would find Python's.
        """
        import _imp

        if getattr(sys.flags, "safe_path", False):
            return []
        folder = os.getcwd()
        if sys.argv[0] != "-m":
            folder = sys.argv[0] if os.path.isdir(sys.argv[0]) else os.path.dirname(os.path.realpath(sys.argv[0]))
        loaded = {name for name in set(sys.modules) - before if "." not in name}
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            return []
        found = []
        for name in names:
            module = name[:-3] if name.endswith(".py") else name
            # built-in and frozen modules come before any file
            if module not in loaded or module in sys.builtin_module_names or _imp.is_frozen(module):
                continue
            path = os.path.join(folder, name)
            package = os.path.exists(os.path.join(path, "__init__.py"))
            theirs = getattr(sys.modules[module], "__file__", None) or ""
            if (path.endswith(".py") or package) and not os.path.realpath(theirs).startswith(os.path.realpath(path)):
                found.append(name)
        return found

    def depends_on_rank(self, at_start: set[str]) -> str | None:
        """Return why Python's startup code would behave differently in a rank, or None: here it runs once, without one.

        `at_start` are the modules loaded before sitecustomize, such as those of lines in .pth files.
        """
        import re

        asked = sorted(self.reads.names & set(_OF_RANKS))
        if asked:
            return f"sitecustomize reads {asked[0]}, which is set only in ranks"
        texts = []
        for folder in sys.path:
            if folder.endswith(("site-packages", "dist-packages")) and os.path.isdir(folder):
                texts += [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pth")]
        for name in at_start:
            path = getattr(sys.modules.get(name), "__file__", None) or ""
            if path.endswith(".py") and not _is_standard(name, sys.modules.get(name.partition(".")[0])):
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

    def traced(self) -> str | None:
        """Return why a tracer or profiler active at startup needs a new process, or None."""
        monitoring: Any = getattr(sys, "monitoring", None)
        if sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6)))):
            return "a tracer or profiler is active before the script starts"
        return None

    def why_unfit(self) -> str | None:
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
        """Return how many threads a child would lose, plus one. OpenBLAS ends its own when this process forks."""
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return len(os.listdir("/proc/self/task"))

    def pause_openmp(self) -> None:
        """Make OpenMP end the threads of its pool, if an import created one."""
        import ctypes

        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}
        for path in paths:
            try:
                ctypes.CDLL(path).omp_pause_resource_all(2)
            except (OSError, AttributeError):
                pass

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
                if self.fork_via_intermediate(order, agent, passed):
                    return
                for fd in passed:
                    os.close(fd)
                passed = []

    def fork_via_intermediate(self, order: Mapping[str, Any], agent: socket.socket, passed: list[int]) -> bool:
        """Fork a short-lived process that forks the requested ones and exits, so that they become the agent's children.

        Returns True in a rank, False in the fork server itself.
        """
        middle = os.fork()
        if middle:
            _, status = os.waitpid(middle, 0)
            if status:
                text = f"a helper process failed (wait status {status})"
                _tell(self.fd, op="fork_failed", order=order["order"], pids={}, text=text, limit=False)
            return False
        try:
            middle, pids = os.getpid(), {}
            gate, held = os.pipe()  # closed when this process exits
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
            limit = isinstance(error, BlockingIOError)  # EAGAIN
            _tell(self.fd, op="fork_failed", order=order["order"], pids=pids, text=str(error), limit=limit)
        else:
            _tell(self.fd, op="forked", order=order["order"], pids=pids)
        finally:
            if not self.leaving:
                os._exit(0)
        return self.leaving

    def child(self, middle: int, gate: int, child: Mapping[str, Any], passed: list[int]) -> None:
        """Turn a fork of this process into a rank about to run its script, or into the store process."""
        try:
            os.close(self.fd)
            self.adopt_by_agent(middle, gate, child)
            if "store" in child:
                _keep_store(passed[0], *child["store"])
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
        screen = child.get("screen")
        for target, paths in ((1, child["out"]), (2, child["err"])):
            # not as the controlling terminal, whose keys send signals
            fd = os.open(screen, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) if screen else _open_first(paths)
            os.dup2(fd, target)
            os.close(fd)

    def become_rank(self, child: Mapping[str, Any]) -> None:
        """Undo what distinguishes this process from a new one."""
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
        process = sys.modules.get("multiprocessing.process")
        if process:
            process.current_process().authkey = os.urandom(32)
        tracker = sys.modules.get("multiprocessing.resource_tracker")
        if tracker:
            # The parent's would be shared by all ranks, and free nothing until the last of them exits.
            tracker._resource_tracker._fd = tracker._resource_tracker._pid = None
        _become_rank(child["stack"], child["pipes"], True, self.ahead.modules.get(_LOGGER))

    def skip_teardown(self) -> None:
        """Leave the imported modules alone at a rank's exit: tearing them down dirties every page they share.

        `distributed_c10d` is torn down: it holds the process groups, whose destruction has effects.
        """
        if not self.leaving:
            return
        import ctypes

        groups = "torch.distributed.distributed_c10d"
        if groups in sys.modules:
            del self.ahead.modules[groups]
        for name in self.ahead.modules:
            sys.modules.pop(name, None)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.ahead.modules))


def _main() -> bool:
    conf = _enter()
    if conf["mode"] == "serve":
        warm = None
        try:
            warm = _ForkServer(conf)
            warm.prepare()
            warm.serve()
        finally:
            # In any case only a child that is to run the script may continue from here.
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
        _become_rank(conf["stack"], conf["pipes"])
        sys.modules.pop("__future__", None)
    return _theirs()


if not _main():
    raise ImportError("nothing to customize", name="sitecustomize")
