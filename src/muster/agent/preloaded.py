"""The agent's side of a session's preloaded interpreter, which forks a fork server for each run (`hook/nursery.py`)."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from muster.agent.forkserver import READ_AT_LOAD, READ_AT_LOAD_PREFIXES, HookedPython, counting
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.linux.hardware import physical_cores

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_ROOM = 4000
"""Bytes for the command line of a run, which `ps` shows in place of this argument (`hook/any_script.py`)."""

_OPTIONAL = ("cloudpickle",)
"""Modules that are imported as `--preload` is, if they are installed: each call of a function imports them."""

_AT_START = ("PYTHON", "LD_", "LC_", "MALLOC_")
"""Prefixes of variables that Python, or the C library, reads when a process starts."""

_AT_START_NAMES = frozenset(("LANG", "LANGUAGE", "TZ", "GLIBC_TUNABLES", "HOME"))

_NOT_OURS = frozenset(("PATH", "MUSTER_HOOK", "PWD", "OLDPWD", "_", "SHLVL"))
"""Variables that imports may read, and on which what they leave behind does not depend."""


def relevant(name: str, reads: Iterable[str]) -> bool:
    """Return whether a variable has an effect on an interpreter that has imported torch and `--preload`."""
    if name in _NOT_OURS:
        return False
    return (
        name in _AT_START_NAMES
        or name in READ_AT_LOAD
        or name.startswith((*_AT_START, *READ_AT_LOAD_PREFIXES))
        or name in reads
    )


def changed_variables(before: Mapping[str, str], now: Mapping[str, str], reads: Iterable[str]) -> list[str]:
    """Return the relevant variables that differ between two environments."""
    known = frozenset(reads)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name) and relevant(name, known))


def stamp_of(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return (inode, time of the last change) of each of these files and directories that exists."""
    found = {}
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            continue
        found[path] = (stat.st_ino, stat.st_mtime_ns)
    return found


def packages_in(path: Iterable[str]) -> list[str]:
    """Return the directories of `sys.path` in which packages are installed: they change with each installation."""
    return [folder for folder in path if folder.endswith(("site-packages", "dist-packages"))]


class _Fork:
    """A fork of the interpreter, which waits for a run, or has become its fork server."""

    def __init__(self, names: dict[int, str]) -> None:
        self.python, self._names = HookedPython(), names
        self._pid: int | None = None
        self._forked: Callable[[int], object] | None = None

    def is_process(self, pid: int) -> None:
        """Take in its pid."""
        self._pid = pid
        if self._forked is not None:
            self._forked(pid)
        else:
            self._names[pid] = "nursery"

    def belongs_to(self, forked: Callable[[int], object]) -> None:
        """Leave it to a run; `forked` is called with its pid, now or as soon as that is known."""
        self._forked = forked
        if self._pid is not None:
            self._names.pop(self._pid, None)
            forked(self._pid)


class PreloadedInterpreter:
    """One interpreter that has imported torch, and waits for runs. `names` are the agent's children by pid.

    `tell` is called once it can be used, or when it turns out that it cannot.
    """

    def __init__(
        self,
        loop: EventLoop,
        names: dict[int, str],
        folder: str,
        hook_folder: str,
        tell: Callable[[], object],
    ) -> None:
        self.loop, self.names, self.folder, self.hook_folder, self._tell = loop, names, folder, hook_folder, tell
        self.python: HookedPython | None = None
        self.why = ""
        """Why it cannot be used; empty if it can, or if that is not known yet."""
        self.facts: dict[str, Any] = {}
        """What it reported about itself: versions of Python and torch, and its sys.path."""
        self.env: dict[str, str] = {}
        self.preload: tuple[str, ...] = ()
        self._reads: list[str] = []
        self._stamps: dict[str, tuple[int, int]] = {}
        self._forks: deque[_Fork] = deque()
        """Those whose pid is not known yet."""
        self._next: _Fork | None = None
        """The one that waits for the next run."""
        self._waiting: list[Callable[[], object]] = []

    @property
    def ready(self) -> bool:
        """Whether it has imported everything, and can be used."""
        return bool(self.facts) and self.python is not None and self.python.connected

    @property
    def starting(self) -> bool:
        """Whether it is importing."""
        return self.python is not None and not self.facts and not self.why

    def start(self, env: Mapping[str, str], preload: Sequence[str], cwd: str) -> None:
        """Start it: `preload` are the modules to import."""
        self.end()
        self.env, self.preload, self.why, self.facts = dict(env), tuple(preload), "", {}
        self.python = python = HookedPython()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        log = os.open(os.path.join(self.folder, "warm.log"), _APPEND, 0o600)
        try:
            # without the site hook this ends at once
            argv = [sys.executable, "-c", "pass", _ROOM * "."]
            conf: dict[str, Any] = {"mode": "nursery", "preload": list(preload), "counting": counting(), "found": []}
            conf.update(optional=_OPTIONAL)
            conf.update(stdin=None, asked=None)
            python.start(argv, env, cwd, (null, log, log), self.hook_folder, **conf)
        except OSError as error:
            self.python = None
            self._unusable(processes.reason_at(error))
            return
        finally:
            os.close(null)
            os.close(log)
        self.names[python.pid] = "nursery"
        self.loop.add_reader(python.sock.fileno(), lambda: self._heard(python))

    def end(self) -> None:
        """Kill it."""
        python, self.python = self.python, None
        self._forks.clear()
        self._drop_next()
        if python is not None and python.connected:
            self.loop.remove_reader(python.sock.fileno())
            python.close()
            if python.pid in self.names:  # it has not been collected
                processes.send_signal(python.pid, signal.SIGKILL)

    def when_known(self, then: Callable[[], object]) -> None:
        """Call `then` once it is known whether it can be used: at once if it is."""
        if self.starting:
            self._waiting.append(then)
        else:
            then()

    def why_stale(self, env: Mapping[str, str], preload: Sequence[str]) -> str:
        """Return why a run needs another interpreter than this one, for users; empty if it does not."""
        if self.python is None or not self.python.connected:
            return "it has exited"
        names = changed_variables(self.env, env, self._reads)
        if self._applies_threads(env):
            names = [name for name in names if name != "OMP_NUM_THREADS"]
        if names:
            return f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} changed"
        missing = [name for name in preload if name not in self.preload]
        if missing:
            return f"--preload {','.join(missing)} was added"
        now = stamp_of(self._stamps)
        for path, stamp in self._stamps.items():
            if now.get(path) != stamp:
                return f"{path} changed"
        return ""

    def refill(self) -> None:
        """Have it fork in advance, unless a fork waits already: two forks take as long as all else of a short run."""
        if self.ready and self._next is None:
            try:
                self._next = self._fork()
            except OSError:
                pass  # the next run tells why

    def _fork(self) -> _Fork:
        """Return a fork of it that waits for a run, until its socket is closed. Raises OSError."""
        assert self.python is not None
        made = _Fork(self.names)
        made.python.sock, theirs = socket.socketpair()
        made.python.connected = True
        log = os.path.join(self.folder, "warm.log")
        self._forks.append(made)
        try:
            self.python.request_fork({"run": {"out": [log], "err": [log]}}, [theirs.fileno()])
        except BaseException:
            self._forks.pop()
            made.python.close()
            raise
        finally:
            theirs.close()
        return made

    def _drop_next(self) -> None:
        """Have the fork that waits exit."""
        if self._next is not None:
            self._next.python.close()
            self._next = None

    def catch_up(self) -> None:
        """Take in the pids of all forks that have left their parent, so that nobody takes them for what ranks left."""
        while self._forks and self.ready:
            assert self.python is not None
            if not select.select([self.python.sock], [], [], 0)[0]:
                return
            self._heard(self.python)

    def _applies_threads(self, env: Mapping[str, str]) -> bool:
        """Return whether ranks apply another OMP_NUM_THREADS when they import torch (`Withheld.set_threads`).

        Modules of --preload may have read it otherwise.
        """
        values = [each.get("OMP_NUM_THREADS", "") for each in (self.env, env)]
        own = set(self.preload) - {"torch", "torch.distributed"} or "OMP_NUM_THREADS" in self._reads
        return (
            not own
            and "MKL_NUM_THREADS" not in env
            and all(value.isdecimal() and 0 < int(value) <= physical_cores() for value in values)
        )

    def fork_server(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        log: str,
        stdin: int | None,
        asked: int | None,
        ranks: int,
        found: Mapping[str, Any],
        umask: int | None,
        calls: bool,
        forked: Callable[[HookedPython, int], object],
    ) -> HookedPython:
        """Return a fork server for this command line (without the interpreter); `forked` is called with it and its pid.

        `log` is the file for its output; `asked` a file in memory with a byte for each of the `ranks`.
        `found` are the imports that it makes before the script. `umask` is that of the ranks; None for that of the
        session. `calls`: they call a function.
        """
        conf = {"argv": list(argv), "env": dict(env), "cwd": cwd, "stdin": stdin is not None}
        conf.update(asked=0 if asked is None else ranks, out=[log], err=[log], umask=umask, calls=calls, **found)
        fds = [*([] if stdin is None else [stdin]), *([] if asked is None else [asked])]
        made, self._next = self._next or self._fork(), None
        try:
            made.python.request_fork({"run": conf}, fds)
        except OSError:  # it was killed
            made.python.close()
            made = self._fork()
            made.python.request_fork({"run": conf}, fds)
        made.belongs_to(lambda pid: forked(made.python, pid))
        return made.python

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _heard(self, python: HookedPython) -> None:
        said = python.messages()
        if said is None:
            self.loop.remove_reader(python.sock.fileno())
            python.close()
            self._drop_next()
            if not self.facts:
                self._unusable(f"it exited; see {self.folder}/warm.log")
            return
        for message in said:
            if message["kind"] == "preloaded":
                self._preloaded(message)
            elif message["kind"] == "preload_failed":
                self._unusable(message["text"])
            elif message["kind"] in ("forked", "fork_failed"):
                fork = self._forks.popleft() if self._forks else None
                for pid in message["pids"].values():
                    if fork is not None:
                        fork.is_process(pid)

    def _preloaded(self, message: Mapping[str, Any]) -> None:
        if message["unfit"]:
            self._unusable(message["unfit"])
            return
        self._reads = message["reads"]
        self.facts = {name: message[name] for name in ("torch", "cuda", "python", "path")}
        paths = [*packages_in(message["path"]), *message["files"], sys.executable]
        self._stamps = stamp_of(paths)
        self._known()

    def _unusable(self, why: str) -> None:
        if not self.why:
            self.why = why
            self._known()

    def _known(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._tell()
        self.refill()
        for then in waiting:
            then()
