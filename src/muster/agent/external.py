"""Ranks that an external launcher starts: the agent starts the launcher, and each rank registers (`rank_shim.py`)."""

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
from muster.agent.forkserver import inspection_conf
from muster.agent.logfiles import tail
from muster.agent.rank_environment import Late, environment, settings, word
from muster.agent.stdin import RankStdin
from muster.linux import private_tmp, processes, procfs
from muster.linux.exits import Ended
from muster.protocol.frames import encode_frame
from muster.protocol.paths import rank_file

if TYPE_CHECKING:
    from muster.protocol.listener import Peer

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_PARTS = 5.0
"""Seconds that a launcher has to exit after SIGTERM, once its ranks have."""
_ENDS = 60.0
"""Seconds that it has after a success; Ray needs twenty."""
_HELD = 10.5
"""Seconds for which a launcher does not learn that a rank has lost a peer; as long as the peer is waited for."""
_WAITS = 5.0
"""Seconds between checks of a launcher's output while its ranks are awaited."""
_LONG = 120.0
"""Seconds after which any of its output is reported, not only lines that look like errors: Ray may need a minute."""
_TROUBLE = re.compile(
    "error|fail|refused|denied|cannot|unable|unknown|not found|no such|invalid|timed out|abort|bad |traceback", re.I
)
_CHATTER = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b")
"""Levels in log lines that are not errors."""
_SEEN_WITHIN = 3.0
"""Seconds for which a launcher is not told that a rank has failed, until the other ranks have been inspected."""
_WORDS = 2048
"""Maximum number of bytes of its last output to report."""


_NAMES = {
    "RANK": ("rank", "rank"),
    "ROLE_RANK": ("rank", "rank"),
    "LOCAL_RANK": ("local_rank", "local_rank"),
    "GROUP_RANK": ("node_rank", "node"),
    "WORLD_SIZE": ("world_size", "world_size"),
    "ROLE_WORLD_SIZE": ("world_size", "world_size"),
    "LOCAL_WORLD_SIZE": ("local_world_size", "local_world_size"),
}
"""Variables that the launcher decides: its field in the registration, and the planned value."""


def free_port(seed: str) -> int:
    """Return an unused port below the kernel's ephemeral range; the same seed tries the same ports first.

    Raises OSError after a thousand ports in use.
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
    raise OSError("no free port above 10000")


class LocalProcesses(Protocol):
    """The processes of a node (`ranks.py`), as far as external ranks need them."""

    commands: list[dict[str, Any]]
    hook_folder: str
    environment: Mapping[str, Any]
    attempt: int
    folder: str
    pids: dict[int, int]
    null: int
    stdin: RankStdin
    stdin_rank: int | None
    inherited: Mapping[str, str]

    def name(self, pid: int, name: str) -> None:
        """Record a child's name; it may already have been collected."""

    def socket_of(self, rank: int) -> str:
        """Return the path at which torch in a rank answers requests; empty if there is no place for it."""

    def rank_ended(self, rank: int, ended: Ended, asked: float | None = None) -> str:
        """Record the exit of a rank, and return the kind of its failure, if it has failed.

        `asked` is the time at which a launcher asked it to exit.
        """


class ExternalRanks:
    """The external launchers of one node, and the ranks registered here. `members` knows their pids."""

    def __init__(self, run: NodeRun, members: LocalProcesses, conf: Mapping[str, Any]) -> None:
        self.run, self.emit, self.members, self.conf = run, run.emit, members, conf
        self.launchers: dict[int, str] = {}
        self.connections: dict[Peer, int] = {}
        self._born: dict[int, str] = {}
        """By rank, when its process started: its shim collects it, and reports that later."""
        self.late: Late = {}
        self.until = 0.0
        """Monotonic time at which launchers that have not exited are killed."""
        self.reaching: list[Peer] = []
        """Connections that wait for a command on another machine."""
        self.obeying: dict[int, tuple[int, int]] = {}
        """Commands run for the launcher of another machine: their number there, and the node."""
        self.held: list[Peer] = []
        """Shims of ranks that have exited, whose launcher is not to learn of it yet."""
        self.ended_here: set[int] = set()
        self.unrecorded: list[Peer] = []
        """Ranks that have exited, and whose shims have not been told that this is recorded."""
        self.waited = 0.0
        """Seconds that have passed since the launchers were started."""
        self.workdir, self.shim_lock = self._make_folder()
        self.shim = os.path.join(self.workdir, private_tmp.SHIM)

    def _make_folder(self) -> tuple[str, int]:
        """Create the temporary directory of the run with the shim; return its path and a lock against `muster clean`.

        The lock is a descriptor. Raises OSError.
        """
        conf, text = self.conf, bytes.fromhex(self.conf["shim"])
        # several machines have agreed on one; for one machine any will do, at worst the run's own directory
        found = [base for base in private_tmp.bases(os.environ) if private_tmp.fits(base, conf["short"])]
        there = [conf["base"]] if conf["base"] else [*found, self.run.folder]
        error: OSError | None = None
        for base in there:
            try:
                return private_tmp.claim(base, conf["token"], conf["run_id"], text)
            except OSError as failed:
                error = failed
        assert error is not None
        raise error

    def close(self) -> None:
        """Remove the shim, and what launchers left."""
        if self.shim_lock >= 0:
            private_tmp.release(self.workdir, self.shim_lock)
            self.shim_lock = -1

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
            env = environment(self.members.inherited, command, known)
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
        """Report a launcher's output while its ranks have not registered: some wait for ever after an error."""
        awaited = len(self.connections) + len(self.ended_here) < len(self.conf["places"])
        if not (self.launchers and awaited and attempt == self.members.attempt):
            return
        said = tail(self._log())[-_WORDS:]
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip("- ")]
        trouble = any(_TROUBLE.search(line) and not _CHATTER.search(line) for line in lines)
        if said != told and self.waited >= (_WAITS if trouble else _LONG):
            name = next(iter(self.launchers.values()))
            self.emit("note", text=f"no ranks from {name} yet; its output: {' '.join(lines)}")
            told = said
        self.waited += _WAITS
        self.run.loop.call_later(_WAITS, lambda: self._listen_while_awaited(attempt, told))

    def _log(self) -> str:
        return os.path.join(self.run.folder, "launcher.log")

    def launcher_ended(self, pid: int, code: int | None, number: int | None) -> None:
        """Report the exit of a launcher."""
        name = self.launchers.pop(pid, "")
        words = tail(self._log())[-_WORDS:].decode("utf-8", "replace").strip().splitlines()
        attempt = self.members.attempt
        self.emit("launcher_exited", attempt=attempt, code=code, signal=number, name=name, words=words[-8:])

    def signal_launchers(self, number: int) -> None:
        """Send a signal to the launchers."""
        for pid in self.launchers:
            processes.send_signal(pid, number)

    def on_cleaned_up(self, well: bool, then: Callable[[], object]) -> None:
        """Let the launchers exit, by themselves if `well`, otherwise after SIGTERM; then call `then`."""
        self.release()
        if not well:
            self.signal_launchers(signal.SIGTERM)
        self.until = time.monotonic() + (_ENDS if well else _PARTS)
        self._await_end(then)

    def skip_wait(self) -> None:
        """Stop waiting for the launchers."""
        self.until = 0.0

    def _await_end(self, then: Callable[[], object]) -> None:
        if self.launchers and time.monotonic() < self.until:
            self.run.loop.call_later(0.02, lambda: self._await_end(then))
        else:
            then()

    def request_exec(self, visitor: Peer, host: str, words: list[str], env: Mapping[str, str]) -> None:
        """Forward a launcher's request to run a command on another machine, whose agent runs it."""
        self.reaching.append(visitor)
        self.emit("exec_request", number=len(self.reaching) - 1, host=host, words=words, env=env)

    def on_exec_result(self, number: int, code: int) -> None:
        """Return the result of a command to the launcher that requested it."""
        self.reaching[number].send(encode_frame("exec_result", code=code))

    def exec_here(self, number: int, words: list[str], env: Mapping[str, str], by: int) -> None:
        """Run a command for the launcher of another machine in a shell, as ssh does."""
        log = os.open(self._log(), _APPEND, 0o600)
        shell = ["/bin/sh", "-c", " ".join(words)]
        try:
            pid = processes.spawn(shell, {**self.members.inherited, **env}, "/", self.members.null, log, log)
        except OSError:
            self.emit("exec_exited", number=number, code=255, by=by)
            return
        finally:
            os.close(log)
        self.obeying[pid] = (number, by)
        self.members.name(pid, "obeying")

    def on_exec_exited(self, pid: int, code: int | None) -> None:
        """Report the exit of a command run for another machine."""
        number, by = self.obeying.pop(pid)
        self.emit("exec_exited", number=number, code=255 if code is None else code, by=by)

    # ---- ranks ------------------------------------------------------------------------------------------------------

    def register(self, visitor: Peer, me: Mapping[str, Any]) -> dict[str, Any]:
        """Register a rank, which knows its number in its program, and return what it is to run."""
        number, rank = me["rank"], self.conf["first_rank"] + me["rank"]
        place = self.conf["places"].get(str(number))
        if not self.members.folder or place is None or rank in self.members.pids or rank in self.ended_here:
            known = f"the world size is {len(self.conf['places'])}" if place is None else "it is already registered"
            self.emit("note", text=f"warning: {me['launcher']} started rank {number}, but {known}")
            if place is None:  # report the world of its launcher, even if no other rank does
                self._joined(rank, me)
            return {"refused": f"cannot register rank {number}: {known}"}
        self.connections[visitor] = rank
        folder = self.members.folder
        self.run.logs.follow_more(rank)
        self.run.links.add(rank, place["local_rank"] if me["local_rank"] is None else me["local_rank"])
        self._joined(rank, me)
        argv = list(self.conf["argv"])
        python = self.conf["python_index"]
        if python is not None:
            argv[python] = sys.executable
        return {
            "argv": argv,
            "args_index": self.conf["args_index"],
            "cwd": self.conf["cwd"],
            "environment": self._environment(rank, me, place),
            "cpus": place["cpus"],
            "hook": self.members.hook_folder if python is not None else "",
            "stack": inspection_conf(folder, rank, self.members.socket_of(rank)),
            **self.run.logs.outlets(rank)._asdict(),
            "logs": [rank_file(folder, rank, kind) for kind in ("out", "err")],
            "stdin": self.members.stdin.fd is not None and rank == self.members.stdin_rank,
            "grace": self.conf["grace"],
        }

    def _joined(self, rank: int, me: Mapping[str, Any]) -> None:
        self.emit("rank_registered", attempt=self.members.attempt, rank=rank, **_of(me, "launcher", "world_size"))

    def _environment(self, rank: int, me: Mapping[str, Any], place: Mapping[str, int]) -> dict[str, Any]:
        """Return the environment of a rank, for `environment.environment`, without late values.

        Where the launcher's world differs from the plan, what it told the rank counts.
        """
        plan = self.members.environment
        late = {**self.late, "ERROR_FILE": rank_file(self.members.folder, rank, "error.json")}
        env = settings({**plan["env"], **plan["ranks"][str(rank)]}, late)
        for name, (told, planned) in _NAMES.items():
            if me[told] is not None and env.get(name) == str(place[planned]):
                env[name] = str(me[told])
        restored = {
            name: value
            for name, value in self.members.inherited.items()
            if re.fullmatch(plan["restored_pattern"], name)
        }
        return {
            "unset_pattern": plan["unset_pattern"],
            "env_defaults": settings(plan["env_defaults"], late),
            "env": {**{name: value for name, value in restored.items() if name not in env}, **env},
        }

    def on_started(self, visitor: Peer, pid: int) -> None:
        """Record the process of a rank."""
        rank = self.connections.get(visitor)
        if rank is not None:
            self.members.pids[rank], self._born[rank] = pid, procfs.started(pid)
            self.emit("rank_pids", attempt=self.members.attempt, pids={rank: pid})

    def is_replaced(self, rank: int) -> bool:
        """Return whether another process has the pid of this rank by now."""
        return procfs.started(self.members.pids[rank]) not in ("", self._born[rank])

    def on_exited(self, visitor: Peer, ended: Ended, asked: float | None = None) -> None:
        """Record the exit of a rank; `asked` is the time at which the launcher asked it to exit."""
        rank = self.connections.pop(visitor, None)
        kind = ""
        if rank is not None:
            self.ended_here.add(rank)
            ended = ended._replace(pid=self.members.pids.get(rank, ended.pid))
            kind = self.members.rank_ended(rank, ended, asked)
        if ended.code == 0 or asked is not None or not self.members.pids:
            self.unrecorded.append(visitor)
            self.release()
        elif kind == "lost peer":
            # its launcher would end the others, one of which may be cleaning up after a failure of its own
            self.held.append(visitor)
            self.run.loop.call_later(_HELD, self.release)
        else:
            # its launcher ends the other ranks as soon as it hears of this, and the controller wants to see them first
            self.unrecorded.append(visitor)
            self.run.loop.call_later(_SEEN_WITHIN, self.on_inspected)

    def on_inspected(self) -> None:
        """Let the launchers hear of the failures so far: what the other ranks were doing is known, or time is up."""
        visitors, self.unrecorded = self.unrecorded, []
        for visitor in visitors:
            visitor.send(encode_frame("recorded"))

    def release(self) -> None:
        """Let the launchers hear of all exits so far."""
        self.on_inspected()
        visitors, self.held = self.held, []
        for visitor in visitors:
            visitor.send(encode_frame("recorded"))

    def on_disconnected(self, visitor: Peer) -> None:
        """Handle the end of a rank's connection: without a recorded exit it was killed together with the shim."""
        self.held = [other for other in self.held if other is not visitor]
        self.unrecorded = [other for other in self.unrecorded if other is not visitor]
        if visitor in self.connections:
            self.on_exited(visitor, Ended(0, None, int(signal.SIGKILL), {}, {}, ""), time.monotonic())


def _of(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}
