"""The lab for its users: start and stop it, run commands in its hosts, inject faults."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from muster.errors import ControlError, InvalidRequest
from muster.lab import config_files, files, namespaces, requirements
from muster.lab.faults import FAULTS
from muster.lab.spec import SCHEDULERS, SECOND_USER, SETTLING, Folder, Shape, address
from muster.linux import processes, procfs

USUAL = "/var/lib/muster-lab"
"""Directory of the lab that the command line uses."""

_FRESH = "muster-lab-of-a-program-"
"""Prefix of the directory if the caller gives none."""

_PATIENCE = 30.0
"""Seconds within which the lab's processes must exit: on a busy machine the kernel removes namespaces slowly."""


class Lab:
    """A practice cluster on this machine: a head, nodes n1, n2, …, each with sshd, Slurm and shared files.

    As a context manager it is up inside the block and removed after it, even if this process is killed.

    `folder`: the directory for its files (default: a new one). `slurm`: keys of slurm.conf to override. `shared`:
    directories that all hosts see even where each host has its own files, such as in /tmp; without a shared home only
    the head sees them. `scheduler`: `slurm` or `sge`. `accounting`: record jobs of Slurm in a database, for sacct.
    """

    def __init__(
        self,
        nodes: int = 3,
        gpus: int = 4,
        cpus: int = 8,
        shared_home: bool = True,
        folder: str | None = None,
        slurm: Mapping[str, str] | None = None,
        shared: Iterable[str | os.PathLike[str]] = (),
        scheduler: str = "slurm",
        accounting: bool = False,
    ):
        self.shape = Shape(nodes, gpus, cpus, shared_home, scheduler, accounting)
        self.slurm = dict(slurm or {})
        self.shared = [os.path.realpath(path) for path in shared]
        self._given = folder
        self.folder = Folder(os.path.abspath(folder) if folder else "")
        self._owning: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lab:
        self.up(owned=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    # start and stop

    def up(self, owned: bool = False) -> bool:
        """Start the lab, after removing a half-made one; return False if it was up already.

        `owned`: take it down when this process exits, for whatever reason. Raises `InvalidRequest`, `ControlError`.
        """
        self.shape.check()
        requirements.check(self.shape.scheduler, self.shape.accounting)
        for path in self.shared:
            if not os.path.isdir(path):
                raise InvalidRequest(f"--share: directory not found: {path}", "create it first")
        if self._given:
            requirements.check_reachable(self.folder.path)
        else:
            _sweep()
            self.folder = Folder(tempfile.mkdtemp(prefix=_FRESH, dir=os.path.dirname(USUAL)))
            os.chmod(self.folder.path, 0o755)
        try:
            while True:
                with self._locked() as lock:
                    state = self.state()
                    if state == "up":
                        self._refuse_another()
                        return False
                    if state == "half-made":
                        self._clear()
                        continue  # the directory is gone, and the lock with it
                    if os.listdir(self.folder.path):
                        raise InvalidRequest(
                            f"{self.folder.path} is not empty, and not the directory of a lab",
                            "choose another directory with --lab-dir, or empty this one",
                        )
                    self._start(owned, lock)
                    return True
        except BaseException:
            with suppress(OSError):
                os.rmdir(self.folder.path)  # only if it is empty
            raise

    def _refuse_another(self) -> None:
        """Raise `InvalidRequest` if the running lab differs from the requested one."""
        record = files.read_record(self.folder)
        there = Shape(**record["shape"]) if record else self.shape
        if there != self.shape:
            raise InvalidRequest(
                f"a lab with {in_words(there)} is already up, requested: {in_words(self.shape)}",
                "run `muster lab down` first",
            )
        missing = [path for path in self.shared if record and path not in record["shared"]]
        if missing:
            raise InvalidRequest(
                f"a lab is already up, and its hosts do not share {', '.join(missing)}", "run `muster lab down` first"
            )

    def _start(self, owned: bool, lock: int) -> None:
        """Start the daemon, and wait until it reports success."""
        os.chmod(self.folder.path, 0o755)  # regardless of the umask: the second user's home is in there
        try:
            with self._start_keeper(owned, lock) as told:
                line = told.readline()
            if not line:
                words_of_it = files.last_lines(self.folder.keeper_log)
                raise ControlError("cannot start the lab: its daemon exited", f"last lines of its log:\n{words_of_it}")
            answer = json.loads(line)
            if "error" in answer:
                kind = InvalidRequest if answer["impossible"] else ControlError
                raise kind(answer["error"], answer["hint"])
        except BaseException:
            self._end_keeper()
            files.clear_away(self.folder)
            raise

    def _start_keeper(self, owned: bool, lock: int) -> IO[str]:
        """Start the daemon; return the pipe on which it will report the result.

        It inherits `lock` too, until the record names the daemon: an earlier `down` would not find it.
        """
        record = {
            "shape": self.shape._asdict(),
            "slurm": self.slurm,
            "kept": _pythons(),
            "shared": self.shared,
            "share": not requirements.why_no_share(),
            "notes": requirements.notes(),
            "boot": procfs.boot_id(),
            "hosts": {},
        }
        files.write_record(self.folder, record)
        reading, writing = os.pipe()
        owned_end, self._owning = os.pipe()
        log = os.open(self.folder.keeper_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        words = [sys.executable, "-m", "muster.lab.daemon", self.folder.path, str(writing), str(lock)]
        # Ctrl-C inside Popen would leave a daemon that nobody knows of
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self._keeper = subprocess.Popen(
                words + ([str(owned_end)] if owned else []),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writing, lock, owned_end),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                cwd="/",
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for descriptor in (log, writing, owned_end):
            os.close(descriptor)
        return os.fdopen(reading)

    def down(self) -> bool:
        """Take the lab down, even a half-made one, and remove its files; return False if there was none."""
        requirements.check_root()
        if not os.path.isdir(self.folder.path):
            return False
        with self._locked(make=False) as lock:
            if lock < 0:
                return False
            if files.read_record(self.folder) is None and os.listdir(self.folder.path):
                raise InvalidRequest(f"not the directory of a lab: {self.folder.path}", "it is left unchanged")
            self._clear()
        return True

    def _clear(self) -> None:
        """Kill all processes of the lab, then delete its files."""
        self._end_keeper()
        record = files.read_record(self.folder) or {}
        processes = [record["keeper"]] if "keeper" in record else []
        processes += list(record.get("hosts", {}).values())
        if record.get("boot") == procfs.boot_id():
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid, started in processes[:1]:
                    _send(pid, started, number)
                files.thaw_all(self.folder)
                for pid in record.get("hosts", {}).values():
                    namespaces.wake_entrances(pid[0])
                if _gone(processes, _PATIENCE):
                    break
            else:
                raise ControlError(
                    "cannot stop the lab: "
                    + ", ".join(
                        f"process {pid} ({namespaces.waits_in(pid)})"
                        for pid, at in processes
                        if procfs.still_lives(pid, at)
                    ),
                    "these processes were killed, but are blocked in the kernel",
                )
        files.clear_away(self.folder)

    def _end_keeper(self) -> None:
        """Terminate the daemon started by this process."""
        if self._keeper is not None:
            self._keeper.terminate()
            try:
                self._keeper.wait(10)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            self._keeper = None
        if self._owning is not None:
            os.close(self._owning)
            self._owning = None

    @contextmanager
    def _locked(self, make: bool = True) -> Iterator[int]:
        """Lock the directory against other `up` and `down` commands; yield its descriptor, -1 without a directory."""
        while True:
            if make:
                os.makedirs(self.folder.path, 0o755, exist_ok=True)
            try:
                descriptor = os.open(self.folder.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                yield -1
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                try:
                    same = os.path.samestat(os.fstat(descriptor), os.stat(self.folder.path))
                except FileNotFoundError:
                    same = False
                if same:  # otherwise another `down` has deleted it meanwhile
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    # queries

    @classmethod
    def found(cls, folder: str = USUAL) -> Lab:
        """Return the lab whose files are in `folder`. Raises `InvalidRequest` if none is up."""
        requirements.check_root()
        lab = cls(folder=folder)
        state = lab.state()
        if state != "up":
            half = "the lab is only partly up" if state == "half-made" else "no lab is up"
            raise InvalidRequest(half, "start one with `muster lab up`")
        record = files.read_record(lab.folder) or {}
        lab.shape, lab.slurm = Shape(**record["shape"]), record["slurm"]
        return lab

    def state(self) -> str:
        """Return `up`, `none`, or `half-made`, which means that there are files but no daemon."""
        record = files.read_record(self.folder)
        if record is None:
            return "none"
        if "keeper" not in record or not procfs.still_lives(*record["keeper"]) or record["boot"] != procfs.boot_id():
            return "half-made"
        return "up" if os.path.exists(self.folder.control) else "half-made"

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes: n1, n2, …"""
        return self.shape.node_names

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of all hosts: the head and the nodes."""
        return self.shape.hosts

    @property
    def notes(self) -> list[str]:
        """The features that the lab lacks on this machine, as sentences."""
        return list((files.read_record(self.folder) or {}).get("notes", []))

    def address(self, host: str) -> str:
        """Return the IP address of a host."""
        self._check(host)
        return address(host)

    def status(self) -> dict[str, Any]:
        """Return the init pid of each running host (`hosts`), and the active faults as [name, host] (`faults`)."""
        answer: dict[str, Any] = self._ask("status")
        return answer

    def ssh_config(self) -> str:
        """Return an ssh configuration with which this machine reaches the hosts (`ssh -F FILE n1`)."""
        connect = f"{sys.executable} -m muster.lab.connect {self.folder.path}"
        return config_files.ssh_config_outside(self.folder, self.shape, connect)

    # commands in hosts

    def command(self, host: str, argv: Sequence[str], cwd: str | None = None, user: str | None = None) -> list[str]:
        """Return the command line that runs `argv` in a host, by default in the current directory and as root."""
        self._check(host)
        living = self.status()["hosts"]
        if host not in living:
            raise InvalidRequest(f"{host} is down", "start it again with `muster lab fault clear`")
        if user is not None and user not in (SECOND_USER, "root"):
            raise InvalidRequest(f"the lab has no user {user}", f"its users are root and {SECOND_USER}")
        return files.enter(living[host], cwd or os.getcwd(), user if user != "root" else None, list(argv))

    def environment(self, user: str | None = None) -> dict[str, str]:
        """Return the environment in which a user's commands start: minimal, with the scheduler's."""
        guest = user not in (None, "root")
        home = f"{self.folder.homes}/{SECOND_USER}" if guest else pwd.getpwuid(0).pw_dir
        name = SECOND_USER if guest else "root"
        found = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
        found.update(HOME=home, USER=name, LOGNAME=name, SHELL="/bin/bash")
        found.update(config_files.variables(self.shape, self.folder))
        return found

    def start(
        self,
        host: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        **more: Any,
    ) -> subprocess.Popen[str]:
        """Start a command in a host; `env` is added to `environment`, `more` is passed to `Popen`.

        The returned process is nsenter's, outside the host; `inside` returns that of the command, which dies with it.
        """
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "text": True, "start_new_session": True, **more}
        line = self.command(host, argv, cwd, user)
        return subprocess.Popen(line, env={**self.environment(user), **(env or {})}, **options)

    def run(
        self,
        host: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float = 60,
        check: bool = False,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host and return its result, as `subprocess.run` does. `timeout` is in seconds."""
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.start(host, argv, env, cwd, user, stdin=stdin, **pipes) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()  # nsenter's child dies with it
                raise
        if check and process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, list(argv), out, err)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def inside(self, process: subprocess.Popen[str]) -> int:
        """Return the pid, outside the host, of the command started by `start`."""
        for _ in range(1000):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children:
                return int(children[0])
            if process.poll() is not None:
                break
            time.sleep(0.005)
        raise ProcessLookupError(f"process {process.pid} runs nothing in the lab")

    # faults

    def fault(self, name: str, host: str = "") -> None:
        """Inject a fault, one of `FAULTS`. `host` is required for faults of a host."""
        if name not in FAULTS:
            raise InvalidRequest(f"unknown fault: `{name}`", "known faults: " + ", ".join(FAULTS))
        if name == "slurmctld-down" and self.shape.scheduler != "slurm":
            raise InvalidRequest(f"fault `{name}`: this lab has no Slurm", "choose another fault")
        if FAULTS[name].of_host:
            if not host:
                raise InvalidRequest(f"fault `{name}` requires a host", f"hosts of the lab: {', '.join(self.hosts)}")
            self._check(host)
        elif host:
            raise InvalidRequest(f"fault `{name}` affects the whole lab, and takes no host", f"leave out {host}")
        self._ask("fault", name=name, host=host)

    def clear(self, name: str = "", host: str = "", settle: bool = True) -> list[tuple[str, str]]:
        """Undo faults and return them as (name, host); without a name or a host, all of them.

        `settle`: if none remains, wait until sshd and Slurm answer on all hosts again.
        """
        return [(name, host) for name, host in self._ask("clear", name=name, host=host, settle=settle)]

    def _check(self, host: str) -> None:
        if host not in self.hosts:
            raise InvalidRequest(f"the lab has no host {host}", f"hosts of the lab: {', '.join(self.hosts)}")

    def _ask(self, what: str, **more: Any) -> Any:
        """Send a request to the daemon. Raises `InvalidRequest` with its message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SETTLING + 60)  # longer than any request takes
            try:
                connection.connect(self.folder.control)
                connection.sendall(json.dumps({"ask": what, **more}).encode() + b"\n")
                line = connection.makefile().readline()
            except OSError as error:
                raise ControlError(
                    f"no answer from the lab: {processes.reason(error)}", "remove it with `muster lab down`"
                ) from None
        if not line:
            raise ControlError(
                "the daemon of the lab exited", f"see {self.folder.keeper_log}; remove the lab with `muster lab down`"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise InvalidRequest(answer["error"], answer["hint"])
        return answer["ok"]


def in_words(shape: Shape) -> str:
    """Return a description such as `3 nodes, each with 8 cores and 4 GPUs`."""
    nodes = f"{shape.nodes} node{'s' if shape.nodes != 1 else ''}"
    gpus = f"{shape.gpus} GPU{'s' if shape.gpus != 1 else ''}" if shape.gpus else "no GPUs"
    home = "" if shape.shared_home else ", no shared home"
    by = "" if shape.scheduler == "slurm" else f", {SCHEDULERS[shape.scheduler]}"
    by += ", with accounting" if shape.accounting else ""
    return f"{nodes}, each with {shape.cpus} core{'s' if shape.cpus != 1 else ''} and {gpus}{home}{by}"


def _sweep() -> None:
    """Remove the labs of programs that were killed together with their daemons."""
    for path in glob(f"{os.path.dirname(USUAL)}/{_FRESH}*"):
        dead = Lab(folder=path)
        if dead.state() == "half-made":  # otherwise it may be starting, which must not be waited for
            with suppress(ControlError), dead._locked(make=False):
                if dead.state() == "half-made":
                    dead._clear()


def _pythons() -> list[str]:
    """Return the directories of Python: hosts with an empty home need them too."""
    return sorted({os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix), str(Path(__file__).parents[2])})


def _send(pid: int, started: str, number: int) -> None:
    if procfs.still_lives(pid, started):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _gone(processes: Sequence[Sequence[Any]], within: float) -> bool:
    """Wait until all of these processes have exited; return False after `within` seconds."""
    end = time.monotonic() + within
    while any(procfs.still_lives(pid, started) for pid, started in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
