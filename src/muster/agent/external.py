"""Ranks that a foreign launcher starts: the agent starts the launcher, and each rank tells of itself
(`rank_shim.py`)."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Protocol

from muster.agent.context import NodeRun
from muster.agent.forkserver import stack_file
from muster.agent.logfiles import tail
from muster.agent.rank_environment import Late, environment, settings, word
from muster.agent.stdin import RankStdin
from muster.linux import private_tmp, processes
from muster.protocol.frames import encode_frame
from muster.protocol.paths import rank_file

if TYPE_CHECKING:
    from muster.protocol.listener import Peer

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_PARTS = 5.0
"""Seconds that a launcher has to end after SIGTERM, once its ranks have."""
_ENDS = 60.0
"""Seconds that it has when all went well; Ray takes twenty."""
_WAITS = 5.0
"""Seconds between two looks at whether a launcher says something while its ranks are awaited."""
_LONG = 120.0
"""Seconds after which anything that it says is told, and not only what looks like trouble: Ray may take a minute."""
_TROUBLE = re.compile(
    "error|fail|refused|denied|cannot|unable|unknown|not found|no such|invalid|timed out|abort|bad |traceback", re.I
)
_CHATTER = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b")
"""In lines of a logger that are about nothing worse."""
_WORDS = 2048
"""Bytes of its last words that are told."""


_NAMES = {
    "RANK": ("rank", "rank"),
    "ROLE_RANK": ("rank", "rank"),
    "LOCAL_RANK": ("local_rank", "local_rank"),
    "GROUP_RANK": ("node_rank", "node"),
    "WORLD_SIZE": ("world_size", "world_size"),
    "ROLE_WORLD_SIZE": ("world_size", "world_size"),
    "LOCAL_WORLD_SIZE": ("local_world_size", "local_world_size"),
}
"""Variables that a launcher decides: what it tells is called so, and what was planned."""


def free_port(seed: str) -> int:
    """A port that nobody has now, below those that the kernel gives to connections; the same seed tries the same first.

    Raises OSError when a thousand were taken.
    """
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            top = int(file.read().split()[0])
    except (OSError, ValueError):
        top = 32768
    chooser = random.Random(seed)
    for _ in range(1000):
        port = chooser.randrange(10000, max(top, 10001))
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
                return port
            except OSError:
                continue
    raise OSError("no free port from 10000 on")


class LocalProcesses(Protocol):
    """The processes of a node (`ranks.py`), as far as guests have to do with them."""

    commands: list[dict[str, Any]]
    hook_folder: str
    environment: Mapping[str, Any]
    attempt: int
    folder: str
    pids: dict[int, int]
    null: int
    stdin: RankStdin
    stdin_rank: int | None

    def name(self, pid: int, name: str) -> None:
        """Know a child; it may have been collected before it was known."""

    def rank_ended(self, rank: int, code: int | None, number: int | None, asked: float | None = None) -> None:
        """A rank has ended; `asked` is when a launcher asked it to."""


class ExternalRanks:
    """The launchers of one node, and the ranks that have told of themselves here. `members` knows their pids."""

    def __init__(self, run: NodeRun, members: LocalProcesses, conf: Mapping[str, Any]) -> None:
        self.run, self.emit, self.members, self.conf = run, run.emit, members, conf
        self.launchers: dict[int, str] = {}
        self.connections: dict[Peer, int] = {}
        self.late: Late = {}
        self.until = 0.0
        """When launchers that have still not ended are ended."""
        self.reaching: list[Peer] = []
        """Who waits for something on another machine."""
        self.obeying: dict[int, tuple[int, int]] = {}
        """What was started for the launcher of another machine: its number there, and the node."""
        self.ended_here: set[int] = set()
        self.waited = 0.0
        """A while has passed since the launchers were started."""
        self.workdir, self.shim_lock = self._make_folder()
        self.shim = os.path.join(self.workdir, private_tmp.SHIM)

    def _make_folder(self) -> tuple[str, int]:
        """Make the temporary directory of the run with the shim in it; gives its path, and a descriptor that keeps
        `muster clean` away from it. Raises OSError."""
        conf, text = self.conf, bytes.fromhex(self.conf["shim"])
        # several machines have agreed on one; alone any will do, in the worst case the run's own folder
        found = [base for base in private_tmp.bases(os.environ) if private_tmp.fits(base, conf["short"])]
        there = [conf["base"]] if conf["base"] else [*found, self.run.folder]
        error: OSError | None = None
        for base in there:
            path = ""
            try:
                path = private_tmp.make(base, conf["token"], conf["run_id"])
                return path, private_tmp.put_shim(path, text, f"{os.getpid()}.{self.run.node}")
            except OSError as failed:
                error = failed
                private_tmp.remove(path) if path else None
        assert error is not None
        raise error

    def close(self) -> None:
        """Take the shim away, and what launchers have left."""
        os.close(self.shim_lock)
        private_tmp.remove(self.workdir)

    # ---- launchers --------------------------------------------------------------------------------------------------

    def start(self, late: Late) -> None:
        """Start the launchers of this node."""
        self.late, self.ended_here, self.waited = late, set(), 0.0
        self.connections.clear()
        for number, command in enumerate(self.members.commands):
            folder = os.path.join(self.run.folder, f"launcher_{number}")
            os.makedirs(folder, mode=0o700, exist_ok=True)
            known = {**late, "MUSTER_RANK": self.shim, "MUSTER_FOLDER": folder, "MUSTER_SCRATCH": self.workdir}
            for item in command["files"]:
                path = word(item["path"], known)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w") as file:
                    file.write(word(item["text"], known))
            argv = [word(item, known) for item in command["argv"]]
            env = environment(os.environ, command, known)
            log = os.open(self._log(), _APPEND, 0o600)
            try:
                stdin = self.members.null if self.members.stdin.fd is None else self.members.stdin.fd
                pid = processes.spawn(argv, env, command["cwd"], stdin, log, log)
            except OSError as error:
                text = processes.reason_at(error)
                limit = processes.met_limit(error)
                self.emit("start_failed", what="launcher", name=command["launcher"], text=text, limit=limit)
                return
            finally:
                os.close(log)
            self.launchers[pid] = command["launcher"]
            self.members.name(pid, "launcher")
        self.emit("ranks_started", attempt=self.members.attempt, pids={})
        self._listen_while_awaited(self.members.attempt, b"")

    def _listen_while_awaited(self, attempt: int, told: bytes) -> None:
        """Have it told what a launcher says as long as its ranks have not come: some wait for ever after an error."""
        awaited = len(self.connections) + len(self.ended_here) < len(self.conf["places"])
        if not (self.launchers and awaited and attempt == self.members.attempt):
            return
        said = tail(self._log())[-_WORDS:]
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip("- ")]
        trouble = any(_TROUBLE.search(line) and not _CHATTER.search(line) for line in lines)
        if said != told and self.waited >= (_WAITS if trouble else _LONG):
            name = next(iter(self.launchers.values()))
            self.emit("note", text=f"{name}, whose ranks have not come yet, says: {' '.join(lines)}")
            told = said
        self.waited += _WAITS
        self.run.loop.call_later(_WAITS, lambda: self._listen_while_awaited(attempt, told))

    def _log(self) -> str:
        return os.path.join(self.run.folder, "launcher.log")

    def launcher_ended(self, pid: int, code: int | None, number: int | None) -> None:
        """A launcher has ended."""
        name = self.launchers.pop(pid, "")
        words = tail(self._log())[-_WORDS:].decode("utf-8", "replace").strip().splitlines()
        attempt = self.members.attempt
        self.emit("launcher_exited", attempt=attempt, code=code, signal=number, name=name, words=words[-8:])

    def signal_launchers(self, number: int) -> None:
        """Send a signal to the launchers."""
        for pid in self.launchers:
            processes.send_signal(pid, number)

    def on_cleaned_up(self, well: bool, then: Callable[[], object]) -> None:
        """Have the launchers end: they do so by themselves when all went well; then go on."""
        if not well:
            self.signal_launchers(signal.SIGTERM)
        self.until = time.monotonic() + (_ENDS if well else _PARTS)
        self._await_end(then)

    def skip_wait(self) -> None:
        """Somebody does not want to wait for that."""
        self.until = 0.0

    def _await_end(self, then: Callable[[], object]) -> None:
        if self.launchers and time.monotonic() < self.until:
            self.run.loop.call_later(0.02, lambda: self._await_end(then))
        else:
            then()

    def request_exec(self, visitor: Peer, host: str, words: list[str], env: Mapping[str, str]) -> None:
        """A launcher here wants something started on another machine: the agent there does it."""
        self.reaching.append(visitor)
        self.emit("exec_request", number=len(self.reaching) - 1, host=host, words=words, env=env)

    def on_exec_result(self, number: int, code: int) -> None:
        """That has ended."""
        self.reaching[number].send(encode_frame("exec_result", code=code))

    def exec_here(self, number: int, words: list[str], env: Mapping[str, str], by: int) -> None:
        """Start something for the launcher of another machine, as ssh would: in a shell."""
        log = os.open(self._log(), _APPEND, 0o600)
        shell = ["/bin/sh", "-c", " ".join(words)]
        try:
            pid = processes.spawn(shell, {**os.environ, **env}, "/", self.members.null, log, log)
        except OSError:
            self.emit("exec_exited", number=number, code=255, by=by)
            return
        finally:
            os.close(log)
        self.obeying[pid] = (number, by)
        self.members.name(pid, "obeying")

    def on_exec_exited(self, pid: int, code: int | None) -> None:
        """That has ended."""
        number, by = self.obeying.pop(pid)
        self.emit("exec_exited", number=number, code=255 if code is None else code, by=by)

    # ---- ranks ------------------------------------------------------------------------------------------------------

    def register(self, visitor: Peer, me: Mapping[str, Any]) -> dict[str, Any]:
        """A rank tells of itself; gives what it is to run."""
        rank = me["rank"]
        place = self.conf["places"].get(str(rank))
        if not self.members.folder or place is None or rank in self.members.pids or rank in self.ended_here:
            known = f"there are {len(self.conf['places'])}" if place is None else "it is there already"
            self.emit("note", text=f"{me['launcher']} started rank {rank}, and {known}")
            if place is None:  # which world its launcher has made is to be known, even if no other rank says it
                self._joined(rank, me)
            return {"refused": f"there is no room for rank {rank}: {known}"}
        self.connections[visitor] = rank
        folder = self.members.folder
        self.run.logs.follow_more(rank)
        self.run.links.add(rank, place["local_rank"] if me["local_rank"] is None else me["local_rank"])
        self._joined(rank, me)
        argv = list(self.conf["argv"])
        python = self.conf["python_at"]
        if python is not None:
            argv[python] = sys.executable
        return {
            "argv": argv,
            "args_at": self.conf["args_at"],
            "cwd": self.conf["cwd"],
            "environment": self._environment(rank, me, place),
            "cpus": place["cpus"],
            "hook": self.members.hook_folder if python is not None else "",
            "stack": stack_file(folder, rank),
            **self.run.logs.outlets(rank)._asdict(),
            "logs": [rank_file(folder, rank, kind) for kind in ("out", "err")],
            "stdin": self.members.stdin.fd is not None and rank == self.members.stdin_rank,
            "grace": self.conf["grace"],
        }

    def _joined(self, rank: int, me: Mapping[str, Any]) -> None:
        self.emit("rank_registered", attempt=self.members.attempt, rank=rank, **_of(me, "launcher", "world_size"))

    def _environment(self, rank: int, me: Mapping[str, Any], place: Mapping[str, int]) -> dict[str, Any]:
        """The environment of a rank, for `environment.environment`: nothing of it is late any more.

        Where the launcher has another world than was planned, what it tells the rank is true.
        """
        plan = self.members.environment
        late = {**self.late, "ERROR_FILE": rank_file(self.members.folder, rank, "error.json")}
        env = settings({**plan["env"], **plan["ranks"][str(rank)]}, late)
        for name, (told, planned) in _NAMES.items():
            if me[told] is not None and env.get(name) == str(place[planned]):
                env[name] = str(me[told])
        restored = {name: value for name, value in os.environ.items() if re.fullmatch(plan["restored"], name)}
        return {
            "unset": plan["unset"],
            "defaults": settings(plan["defaults"], late),
            "env": {**{name: value for name, value in restored.items() if name not in env}, **env},
        }

    def on_started(self, visitor: Peer, pid: int) -> None:
        """Its program runs."""
        rank = self.connections.get(visitor)
        if rank is not None:
            self.members.pids[rank] = pid
            self.emit("rank_pids", attempt=self.members.attempt, pids={rank: pid})

    def on_exited(self, visitor: Peer, code: int | None, number: int | None, asked: float | None = None) -> None:
        """Its program has ended; `asked` is when the launcher asked it to."""
        rank = self.connections.pop(visitor, None)
        if rank is not None:
            self.ended_here.add(rank)
            self.members.rank_ended(rank, code, number, asked)
        visitor.send(encode_frame("recorded"))

    def on_disconnected(self, visitor: Peer) -> None:
        """The connection to a rank has ended: if it has told no end, it was killed together with the shim."""
        if visitor in self.connections:
            self.on_exited(visitor, None, int(signal.SIGKILL), time.monotonic())


def _of(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}
