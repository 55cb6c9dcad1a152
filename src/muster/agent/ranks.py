"""The processes of one node: the fork server and the ranks; see `store.py` for the store."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from muster.agent.context import NodeRun
from muster.agent.external import ExternalRanks, free_port
from muster.agent.forkserver import HookedPython, counting, hook_env, inspection_conf, write_hook
from muster.agent.found_imports import FoundImports
from muster.agent.rank_environment import Late, environment
from muster.agent.rank_server import RankSockets, Subject
from muster.agent.rank_watch import RankWatch
from muster.agent.recorder import Recorder
from muster.agent.stdin import RankStdin
from muster.agent.store import StoreProcess
from muster.linux import exits, processes, procfs
from muster.linux.exits import Ended
from muster.linux.hardware import physical_cores
from muster.protocol.frames import Dispatcher, Refused, handlers, named
from muster.protocol.paths import rank_file

if TYPE_CHECKING:
    from muster.agent.collective_counts import CollectiveCounts
    from muster.agent.controller_process import Standby
    from muster.agent.preloaded import PreloadedInterpreter
    from muster.agent.progress import ProgressWatch
    from muster.agent.script_preamble import Preamble
    from muster.core.inspection import Inspection

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_TERMINAL = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


_SOON = 0.02
"""Seconds after which a node is described: by then the fork server, or the ranks, have been started."""

_SOON_ON_SESSION = 0.15
"""The same on a session, where ranks start sooner, and a call of a function may have ended by then."""

_LATER = 1.0
"""Seconds after which an agent looks for what others left: short runs are not delayed by it."""

_PERSISTENT = ("warm", "supervisor", "gpus", "recorder", "nursery")
"""The names of children that survive between attempts."""


class Hosting(NamedTuple):
    """What the agent of a session shares with the agent of a run there, which is in the same process."""

    ranks: RankProcesses
    """The processes of the session on this node."""
    warm: PreloadedInterpreter
    standby: Standby | None
    """A process that becomes the controller of the run; only on node 0."""
    umask: int | None = None
    """That of the command that started the run; None on other machines."""


class RankProcesses:
    """The processes that an agent has started."""

    def __init__(
        self,
        run: NodeRun,
        commands: list[dict[str, Any]],
        environment: Mapping[str, Any],
        preload: Iterable[str],
        stdin_rank: int | None,
        hook: Mapping[str, str | bytes],
        floor: str,
        rank_command: Mapping[str, Any] | None = None,
        external_rendezvous: bool = False,
        stdin: int | None = None,
        script: str = "",
        last_imports: Mapping[str, Any] | None = None,
        inherited: Mapping[str, str] | None = None,
        hosting: Hosting | None = None,
    ) -> None:
        self.found = FoundImports(last_imports)
        self.inherited = os.environ if inherited is None else inherited
        """The environment that ranks inherit."""
        self.hosting = hosting
        self.family: list[RankProcesses] = hosting.ranks.family if hosting is not None else []
        """All that start processes here: children of one of them are children of all."""
        self.family.append(self)
        self.script = script
        """The script of the ranks, absolute or in their directory; empty if they run something else."""
        self.recorder = Recorder(run)
        self.external_rendezvous = external_rendezvous
        """True if the ranks initialize their process group by themselves; they need only an unused port."""
        self.run, self.loop, self.emit, self.logs = run, run.loop, run.emit, run.logs
        self.commands, self.hook, self.floor = commands, hook, floor
        self.environment = environment
        """The plan's environment for the ranks of this node; its `ranks` has the variables of each rank."""
        self.preload = ["torch", "torch.distributed", *preload]
        self.ranks: list[int] = [rank["rank"] for command in commands for rank in command["ranks"]]
        self.forks = any(command["fork_server"] for command in commands)
        self.hook_unreachable = False
        """True if this Python does not load the site hook."""
        self.told_early = False
        """True if this attempt has reported that a rank exited before it imported torch."""
        self.stdin_rank = stdin_rank
        # a run on a session shares that of the session, which has the same files
        self.hook_folder: str = os.path.join(run.folder, "hook") if hosting is None else hosting.ranks.hook_folder
        self.pids: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.unattributed: dict[int, Ended] = {}
        self.warned: set[tuple[int, int]] = set()
        """(process, signal) pairs that were sent to ranks that handle the signal."""
        self.sent: dict[int, set[int]] = {}
        """The signals that were sent to each rank of this attempt, to end it."""
        self.owed: dict[int, list[int]] = {}
        """The signals for ranks that are still to be forked: each gets them as soon as it has a process."""
        self.killing = False
        """True once everything of this attempt is killed."""
        self.closed = False
        """True once the processes that are not ranks have been ended."""
        self.watch = RankWatch(run, self)
        self.progress: ProgressWatch | None = None
        """Measures whether ranks make progress, if that is wanted."""
        self.ends: dict[int, dict[str, int | None]] = {}
        known = handlers(self, "forker_")
        self.dispatch = Dispatcher(known, named(known), run.complain)
        """Handlers of messages from the fork server."""
        self.forkserver: HookedPython | None = None
        self.forkserver_times: dict[str, float] = {}
        self.ahead: Preamble | None = None
        """What the script does before it imports torch, once that is known."""
        self.versions: dict[str, Any] = {}
        self.asked: int | None = None
        """A file in memory with a byte for each rank, which a forked rank sets when its script imports torch."""
        # without a Python it is unknown whether the ranks will use the store
        waits = rank_command is None and all(command["python_index"] is None for command in commands)
        # on a session most functions end sooner than the process of a store starts
        waits = waits or (hosting is not None and self.calls_function)
        self.store = StoreProcess(run.loop, waits, self.start_store)
        self.attempt, self.folder = 0, ""
        self.pending_forks: set[int] = set()
        """Requests that the fork server has not answered yet."""
        self.pending_start: tuple[int, str, Late] | None = None
        self.sockets: RankSockets | None = None
        """Where torch in the ranks answers requests."""
        self.external: ExternalRanks | None = None
        """The ranks, if an external launcher starts them."""
        self.tasks = rank_command is not None and rank_command["tasks"]
        """True if the ranks are tasks of the scheduler, which signals them itself."""
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        here = stdin_rank in self.ranks or (rank_command is not None and stdin_rank is not None)
        self.stdin = RankStdin(run.loop, run.emit, stdin, piped=here)
        if rank_command is not None:
            self.external = ExternalRanks(run, self, rank_command)
            self.ranks = []

    # ---- preparation ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the fork server if ranks are forked; send `ready` once ranks can start."""
        if self.hosting is None:
            write_hook(self.hook_folder, self.hook)
        if self.forks and self.hosting is not None:
            self.use_warm(self.hosting.warm)
        elif self.forks:
            self.probe_python()
        else:
            self.emit("ready", fork=False, why="")
        self.watch.prepare()
        self.sockets = RankSockets(self.run.run_id, "" if self.external is None else self.external.workdir)
        self.loop.call_later(_SOON if self.hosting is None else _SOON_ON_SESSION, self.record)
        self.loop.call_later(_LATER, self.sweep)

    def use_warm(self, warm: PreloadedInterpreter) -> None:
        """Have the session's preloaded interpreter fork the fork server; if it does not fit, start a new one."""
        if warm.starting:
            warm.when_known(lambda: self.use_warm(warm))
            return
        env = self.env()
        why = warm.why_stale(env, self.preload) if warm.facts else ""
        if why:
            self.emit("note", text=f"starting a new preloaded interpreter: {why}")
            warm.start(env, self.preload, self.forking()["cwd"])
            warm.when_known(lambda: self.use_warm(warm))
        elif warm.ready:
            self.versions = {"torch": warm.facts["torch"], "cuda": warm.facts["cuda"]}
            self.start_with(warm.facts["python"], warm.facts["path"])
        else:  # a run without it has the same errors as any other
            self.probe_python()

    def sweep(self) -> None:
        """Remove what earlier agents of this user left here, if they were killed together with their guards."""
        from muster.linux import private_tmp

        private_tmp.sweep(os.environ)

    def record(self) -> None:
        """Describe what runs on this node, beside the ranks."""
        command = self.external.conf if self.external is not None else self.commands[0]
        env = environment(self.inherited, self.environment, self.node_values, early=True)
        self.recorder.start(env, self.script, command["cwd"])
        if self.recorder.pid is not None:
            self.names[self.recorder.pid] = "recorder"

    def env(self) -> dict[str, str]:
        """Return the environment of processes started before an attempt: common to all ranks, or the launcher's."""
        plan = self.environment if self.external is None else self.commands[0]
        return environment(self.inherited, plan, self.node_values, early=True)

    @property
    def node_values(self) -> dict[str, str]:
        """Late values of this node."""
        return {"PATH": self.inherited.get("PATH", os.defpath), "MUSTER_PYTHON": sys.executable}

    def argv(self, command: Mapping[str, Any]) -> list[str]:
        """Return the words of a command, with this agent's own Python at its place."""
        argv = list(command["argv"])
        if command["python_index"] is not None:
            argv[command["python_index"]] = sys.executable
        return argv

    def probe_python(self) -> None:
        """Check that Python loads the site hook (else the fork server would run the script itself), and find torch."""
        command = self.commands[0]
        argv = [*self.argv(command)[: command["python_index"] + 1], "-c", "pass"]
        proof = HookedPython()
        seen: list[dict[str, Any]] = []
        with self.files("proof") as files:
            proof.start(argv, self.env(), command["cwd"], files, self.hook_folder, mode="prove")
        self.names[proof.pid] = "proof"

        def heard() -> None:
            said = proof.messages()
            seen.extend(said or ())
            if said is None:
                self.loop.remove_reader(proof.sock)
                proof.close()
                self.on_python_probed(seen[0] if seen else None)

        self.loop.add_reader(proof.sock, heard)

    def on_python_probed(self, proof: Mapping[str, Any] | None) -> None:
        """Continue with the result of the check; `proof` is None if the site hook was not loaded."""
        if proof is None:
            self.hook_unreachable = True
            self.fall_back_to_plain("this Python ignores PYTHONPATH or sitecustomize")
            return
        self.versions = {"torch": proof["torch"], "cuda": proof["cuda"]}
        if not proof["has_torch"]:
            self.emit("start_failed", what="no torch", version=proof["python"])
        elif proof["torch"] and _numbers(proof["torch"]) < _numbers(self.floor):
            self.emit("start_failed", what="old torch", version=proof["python"], torch=proof["torch"])
        else:
            self.start_with(proof["python"], proof["path"])

    def start_with(self, version: str, path: Sequence[str]) -> None:
        """Start the fork server; `version` and `path` are those of its Python."""
        command = self.forking()
        argv = self.argv(command)[command["python_index"] :]
        self.found.choose(argv[0], version, path, argv, command["cwd"])
        self.start_forkserver()
        # what calls a function is muster's own script; on a session nothing is imported while it is read
        if self.hosting is None or not self.calls_function:
            self.read_ahead(path)

    @property
    def calls_function(self) -> bool:
        """Whether the ranks call a function (`payloads/call.py`)."""
        return os.path.exists(os.path.join(os.path.dirname(self.run.folder), "function"))

    def read_ahead(self, path: Iterable[str]) -> None:
        """Read what the script does before it imports torch, while the fork server imports."""
        from muster.agent import (
            script_preamble,  # imported late: the other process is on its way, and this takes some milliseconds
        )

        command = self.forking()
        env = self.rank_env()
        argv = self.argv(command)[command["python_index"] :]
        self.ahead = script_preamble.read(argv, command["cwd"], list(path), env)
        self.need_plain(script_preamble.why_plain(self.ahead, (), env, physical_cores()))

    def forking(self) -> dict[str, Any]:
        """Return the command whose ranks are forked."""
        return next(command for command in self.commands if command["fork_server"])

    def rank_env(self) -> dict[str, str]:
        """Return the environment of a rank, as far as it is known before an attempt."""
        own = self.environment["ranks"][str(self.ranks[0])]
        return environment(self.inherited, self.environment, self.node_values, own, early=True)

    def need_plain(self, why: str) -> None:
        """Unless `why` is empty, kill the fork server and start plain Python processes instead."""
        if why and self.forkserver is not None:
            self.loop.remove_reader(self.forkserver.sock.fileno())
            self.forkserver.close()
            own = self.hosting is None or not self.hosting.warm.ready
            if own and self.names.get(self.forkserver.pid) == "warm":  # unless it has been collected
                # it would complete its imports first, in parallel with ranks that do the same
                processes.send_signal(self.forkserver.pid, signal.SIGKILL)
            self.forkserver = None
            self.fall_back_to_plain(why)

    def start_forkserver(self) -> None:
        """Start the script's own command with the site hook, which imports and then serves."""
        command = self.forking()
        asked = self.asked = _shared_bytes(len(self.ranks)) if self.asked is None else self.asked
        if self.hosting is not None and self.hosting.warm.ready:
            try:
                self.fork_forkserver(self.hosting.warm, asked)
                return
            except OSError:
                pass  # it has just died
        warm, began = HookedPython(), time.monotonic()
        if self.run.trace:
            from muster.protocol.trace import Tracer

            warm.tracer = Tracer(self.run.folder, "agent", "fork server")
        self.forkserver = warm
        with self.files("warm") as files:
            warm.start(
                self.argv(command),
                self.env(),
                command["cwd"],
                files,
                self.hook_folder,
                keep=[fd for fd in (self.stdin.fd, asked) if fd is not None],
                mode="serve",
                preload=self.preload,
                **self.found.as_conf(self.environment, self.ranks[0]),
                stdin=self.stdin.fd,
                asked=None if asked is None else (asked, len(self.ranks)),
                counting=counting(),
            )
        self.forkserver_times = {"begun": began}
        self.names[warm.pid] = "warm"
        self.loop.add_reader(warm.sock.fileno(), lambda: self.on_forkserver_message(warm))

    def fork_forkserver(self, warm: PreloadedInterpreter, asked: int | None) -> None:
        """Have the preloaded interpreter of a session fork the fork server of this run."""
        command, log = self.forking(), os.path.join(self.run.folder, "warm.log")
        argv = self.argv(command)[command["python_index"] + 1 :]
        self.forkserver_times = {"begun": time.monotonic()}
        self.forkserver = forked = warm.fork_server(
            *(argv, self.env(), command["cwd"], log, self.stdin.fd, asked, len(self.ranks)),
            self.found.as_conf(self.environment, self.ranks[0]),
            self.hosting.umask if self.hosting is not None else None,
            self.calls_function,
            self.name_forkserver,
        )
        self.loop.add_reader(forked.sock.fileno(), lambda: self.on_forkserver_message(forked))

    def name_forkserver(self, forked: HookedPython, pid: int) -> None:
        """Record the pid of a fork server that another process has forked."""
        forked.pid = pid
        if self in self.family:
            self.name(pid, "warm")

    def on_forkserver_message(self, warm: HookedPython) -> None:
        """Handle messages of the fork server."""
        said = warm.messages()
        if said is None:
            self.loop.remove_reader(warm.sock.fileno())
            warm.close()
            if self.pending_forks:
                self.emit("start_failed", what="fork", text="the fork server exited", number=len(self.pids))
            elif self.hosting is not None and warm is self.forkserver and "imported" not in self.forkserver_times:
                self.forkserver = None
                self.fall_back_to_plain("the fork server exited")
            return
        for message in said:
            try:
                self.dispatch(message, b"")
            except Refused as error:
                self.run.complain(f"skipped an invalid message from the fork server: {error}")

    def forker_preload_failed(self, payload: bytes, module: str, missing: bool, text: str, trace: str) -> None:
        """Handle a failed import of the fork server."""
        self.found.statements = []  # its end has nothing to do with them
        self.emit("start_failed", what="import", module=module, missing=missing, text=text)

    def forker_found_unfit(self, payload: bytes, statement: str, why: str) -> None:
        """Handle an import that must wait for the script: another fork server is started, without it."""
        self.emit("note", text=f"not importing ahead, here or in later runs: `{statement}` {why}")
        self.found.drop(statement, why)
        self.start_forkserver_again()

    def start_forkserver_again(self) -> None:
        """Start another fork server, because the first one has exited."""
        if self.forkserver is not None:
            if self.forkserver.connected:
                self.loop.remove_reader(self.forkserver.sock.fileno())
                self.forkserver.close()
            self.start_forkserver()

    def forker_preloaded(
        self,
        payload: bytes,
        unfit: str | None,
        namesakes: list[str],
        reads: list[str],
        times: Mapping[str, float],
        torch: str | None,
        cuda: str | None,
        python: str,
        **more: object,
    ) -> None:
        """Handle the end of the fork server's imports."""
        self.forkserver_times.update(times)
        why = unfit or self.differs(namesakes, reads)
        if why:
            self.need_plain(why)
        elif self.pending_start:
            self.start(*self.pending_start)
        else:
            found = list(dict.fromkeys(statement.module for statement in self.found.statements))
            times = self.forkserver_times
            self.emit("ready", fork=True, why="", torch=torch, cuda=cuda, times=times, found=found)

    def differs(self, namesakes: Sequence[str], reads: Collection[str]) -> str:
        """Return how a rank forked now would differ from plain Python, in words; empty if it would not."""
        if namesakes:
            return f"{namesakes[0]} next to the script has the name of a module that torch or --preload imports"
        if self.ahead is None:
            return ""
        from muster.agent.script_preamble import why_plain

        return why_plain(self.ahead, reads, self.rank_env(), physical_cores())

    def fall_back_to_plain(self, why: str) -> None:
        """Start plain Python processes instead of forking."""
        self.forks = False
        if self.pending_start:
            self.emit("note", text=why)
            self.start(*self.pending_start)
        else:
            self.emit("ready", fork=False, why=why, **self.versions)

    @contextlib.contextmanager
    def files(self, name: str) -> Iterator[tuple[int, int, int]]:
        """Open stdin, stdout and stderr of a process that is not a rank.

        A fork server's stdout must be a file like the ranks', because Python chooses its buffering at the start.
        """
        fd = os.open(os.path.join(self.run.folder, name + ".log"), _APPEND, 0o600)
        try:
            yield self.null, fd, fd
        finally:
            os.close(fd)

    # ---- the store --------------------------------------------------------------------------------------------------

    def listen(self, host: str) -> int:
        """Open the port of the next attempt's store; return its number."""
        self.store.end()
        if self.external_rendezvous:
            node = self.run.node  # several roles may be on a host
            return free_port(f"{self.run.run_id} {self.attempt}" + (f" of node {node}" if node else ""))
        return self.store.listen(host)

    def start_store(self, listener: socket.socket) -> None:
        """Start the store process on the socket that listens already."""
        port = listener.getsockname()[1]
        if self.forks and self.forkserver is not None and self.forkserver.connected:
            log = os.path.join(self.run.folder, "store.log")
            child = {"store": [self.store.host, port], "out": [log], "err": [log]}
            try:
                self.pending_forks.add(self.forkserver.request_fork({"store": child}, [listener.fileno()]))
                return
            except OSError:
                pass  # it has just died
        fd = listener.fileno()
        conf = {"mode": "store", "fd": fd, "store": [self.store.host, port]}
        env = hook_env(self.env(), self.hook_folder, **conf)
        try:
            # as a script: this Python may read neither PYTHONPATH nor sitecustomize
            argv = [sys.executable, os.path.join(self.hook_folder, "sitecustomize.py")]
            with self.files("store") as files:
                pid = self.store.pid = processes.spawn(argv, env, "/", *files, keep=(fd,))
            self.names[pid] = "store"
        except OSError as error:
            self.emit("note", text=f"error: cannot start the rendezvous store: {processes.reason_at(error)}")

    # ---- ranks ------------------------------------------------------------------------------------------------------

    def start(self, attempt: int, folder: str, late: Late) -> None:
        """Start all ranks of this node."""
        self.attempt, self.folder, self.ends = attempt, folder, {}
        self.sent, self.killing = {}, False
        self.warned.clear()  # a new process may have the pid of a former one
        if self.pending_start is None:  # otherwise this is the same attempt, with another fork server
            self.owed = {}
        self.pending_start = None
        self.watch.begin(attempt)
        if self.progress is not None:
            self.progress.begin()
        warm = self.forkserver if self.forks else None
        if self.forks and (warm is None or not warm.connected):
            # it died since; its ranks did not
            self.pending_start = (attempt, folder, late)
            self.start_forkserver()
            return
        self.store.start_unless_it_waits()
        for rank, _ in self.each_rank():
            self.run.links.add(rank["rank"], rank["local_rank"])
        if self.external is not None:
            self.external.start({**late, **self.node_values})
        elif warm is not None:
            children, shared = {}, self.env()
            for rank, _ in self.each_rank():
                own = self.environment["ranks"][str(rank["rank"])]
                env = self.env_of(rank["rank"], late)
                children[f"rank:{rank['rank']}"] = {
                    "env": {name: env[name] for name in env if name in own or shared.get(name) != env[name]},
                    "cpus": rank["cpus"],
                    **self.logs.outlets(rank["rank"])._asdict(),
                    "stdin": rank["rank"] == self.stdin_rank,
                    "stack": self.stack_conf(rank["rank"]),
                    "index": self.ranks.index(rank["rank"]),
                }
            if self.asked is not None:
                os.pwrite(self.asked, bytes(len(self.ranks)), 0)
            self.told_early = False
            try:
                self.pending_forks.add(warm.request_fork(children))
            except OSError:  # it has just died
                self.pending_start = (attempt, folder, late)
                self.start_forkserver_again()
        else:
            self.start_plain(late)

    def stack_conf(self, rank: int) -> dict[str, Any]:
        """Return what the site hook needs in a rank that is started here in this attempt."""
        conf = inspection_conf(self.folder, rank, self.socket_of(rank))
        return {**conf, **self.found.to_record(rank, rank_file(self.folder, rank, "imports"))}

    def each_rank(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return (rank, its command) for each rank of this node."""
        return [(rank, command) for command in self.commands for rank in command["ranks"]]

    def env_of(self, rank: int, late: Late) -> dict[str, str]:
        """Return the whole environment of a rank that is started here in this attempt."""
        known = {**late, **self.node_values, "ERROR_FILE": rank_file(self.folder, rank, "error.json")}
        return environment(self.inherited, self.environment, known, self.environment["ranks"][str(rank)])

    def start_plain(self, late: Late) -> None:
        """Start one process per rank."""
        for rank, command in self.each_rank():
            number = rank["rank"]
            outlets = self.logs.outlets(number)
            env = self.env_of(number, late)
            if command["python_index"] is not None and not self.hook_unreachable:
                stack, pipes = self.stack_conf(number), outlets.pipes
                env = hook_env(env, self.hook_folder, mode="rank", stack=stack, pipes=pipes)
            stdin = self.null if self.stdin.fd is None or number != self.stdin_rank else self.stdin.fd
            if outlets.screen:
                out, err = (os.open(outlets.screen, _TERMINAL) for _ in range(2))
            else:
                out, err = processes.open_first(outlets.out), processes.open_first(outlets.err)
            try:
                pid = processes.spawn(self.argv(command), env, command["cwd"], stdin, out, err, cpus=rank["cpus"])
                self.began(number, pid)
            except OSError as error:
                self.emit(
                    "start_failed",
                    what="start",
                    rank=number,
                    text=processes.reason_at(error),
                    limit=processes.met_limit(error),
                )
                return
            finally:
                os.close(out)
                os.close(err)
        self.emit("ranks_started", attempt=self.attempt, pids=self.pids)

    def began(self, rank: int, pid: int) -> None:
        """Record the process of a rank, which may already have been collected."""
        self.pids[rank], self.names[pid] = pid, f"rank:{rank}"
        if pid in self.unattributed:
            self.ended(self.unattributed.pop(pid))
        for number in self.owed.pop(rank, ()):
            self.signal(number, [rank])

    def forker_forked(self, payload: bytes, order: int, pids: Mapping[str, int]) -> None:
        """Handle a completed request to fork."""
        self.forked(order, pids)
        if "store" not in pids:
            self.emit("ranks_started", attempt=self.attempt, pids=self.pids)

    def forker_fork_failed(self, payload: bytes, order: int, pids: Mapping[str, int], text: str, limit: bool) -> None:
        """Handle a request to fork that failed after some children."""
        self.forked(order, pids)
        self.emit("start_failed", what="fork", text=text, limit=limit, number=len(pids))

    def forked(self, order: int, pids: Mapping[str, int]) -> None:
        """Record the children of this request."""
        self.pending_forks.discard(order)
        for name, pid in pids.items():
            if name == "store":
                self.store.pid, self.names[pid] = pid, "store"
                if pid in self.unattributed:
                    self.ended(self.unattributed.pop(pid))
            else:
                self.began(int(name.partition(":")[2]), pid)

    def ended(self, ended: Ended) -> None:
        """Handle the exit of a child of the agent."""
        pid, code, number = ended.pid, ended.code, ended.signal
        name = self.names.pop(pid, None)
        if name is None:
            self.unattributed[pid] = ended
        elif name.startswith("rank:"):
            self.rank_ended(int(name.partition(":")[2]), ended)
        elif name == "obeying" and self.external is not None:
            self.external.on_exec_exited(pid, code)
        elif name == "launcher" and self.external is not None:
            self.external.launcher_ended(pid, code, number)
        elif name == "recorder":
            self.recorder.ended(pid)
        elif name == "store":
            if self.store.ended(pid) and code != 3:  # 3: there is no torch, so no rank will use a store
                self.emit("store_exited", code=code, signal=number)
        elif (
            name == "warm"
            and self.forkserver
            and pid == self.forkserver.pid
            and not self.forkserver_times.get("imported")
        ):
            if self.found.statements:
                if self.forkserver.connected:  # its last message may not have been read
                    self.on_forkserver_message(self.forkserver)
                if pid != self.forkserver.pid or self.killing or self.closed:
                    return
                self.found.drop_all("ends the fork server" if number is None else f"ends it with signal {number}")
                self.start_forkserver_again()
                return
            self.emit("start_failed", what="warm", code=code, signal=number)

    def rank_ended(self, rank: int, ended: Ended, asked: float | None = None) -> str:
        """Handle the exit of a rank, and return the kind of its failure; empty if it has not failed.

        `asked` is the time at which a launcher asked it to exit.
        """
        self.pids.pop(rank, None)
        code, number = ended.code, ended.signal
        end: dict[str, Any] = {"rank": rank, "code": code, "signal": number, "usage": ended.usage or None}
        if code != 0 and asked is None and not self.was_asked(rank, number):
            end["facts"] = self.watch.facts(rank, ended)
        if ended.usage:
            end["usage"]["children_peak"] = self.watch.children_peak(rank)
            end["usage"].update(self.reported(rank))
        self.logs.rank_ended(rank)
        if asked is not None:
            end["asked"] = asked
        if code != 0:
            end["why"] = self.logs.why(rank, code, number)
            if self.forks and not self.told_early and self.ended_early(rank, number, end["why"]):
                self.told_early = True
                why = "exited before it imported torch, which is already loaded in a forked rank"
                self.emit("note", text=f"rank {rank} {why}; if that is the cause, use `--launcher exec`")
        notes = self.logs.notes(rank)
        if notes:
            end["notes"] = notes
        self.run.links.ended(rank)
        self.ends[rank] = {"code": code, "signal": number}
        self.emit("rank_exited", attempt=self.attempt, **end)
        return str(end["why"]["kind"]) if "why" in end else ""

    def was_asked(self, rank: int, number: int | None) -> bool:
        """Return True if a rank exited because this agent had signalled it."""
        sent = self.sent.get(rank, set())
        return self.killing or (bool(sent) if number is None else number in sent)

    def ended_early(self, rank: int, number: int | None, why: Mapping[str, Any]) -> bool:
        """Return True if a forked rank failed as if a library cannot be loaded after torch."""
        if self.asked is None or os.pread(self.asked, 1, self.ranks.index(rank)) != b"\0":
            return False
        crashed = number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
        return crashed or str(why["summary"]).startswith("ImportError")

    def name(self, pid: int, name: str) -> None:
        """Record a child's name; it may already have been collected."""
        self.names[pid] = name
        if pid in self.unattributed:
            self.ended(self.unattributed.pop(pid))

    def alive(self) -> list[int]:
        """Return the ranks that are running."""
        return sorted(self.pids)

    def signal(self, number: int, ranks: Iterable[int]) -> None:
        """Send a signal to these ranks: to the process, or to its group if a shell or profiler is in between.

        A rank that does not handle SIGQUIT gets SIGTERM instead: SIGQUIT would write a core file, and save nothing.
        """
        if self.external is not None:
            self.external.release()
        groups = {rank["rank"]: command["signal_group"] for rank, command in self.each_rank()}
        for rank in ranks:
            if rank in self.pids:
                if self.external is not None and self.external.is_replaced(rank):
                    continue
                self.sent.setdefault(rank, set()).update((number, signal.SIGTERM))
                group = groups[rank] if self.external is None else self.external.conf["signal_group"]
                caught = number != signal.SIGQUIT or processes.has_handler(self.pids[rank], number)
                processes.send_signal(self.pids[rank], number if caught else signal.SIGTERM, group)
                stat = procfs.stat(self.pids[rank])
                if stat is not None and stat.state == "T":  # a stopped process reacts to nothing but SIGKILL
                    processes.send_signal(self.pids[rank], signal.SIGCONT, group)
            elif rank in self.ranks and rank not in self.ends and (self.pending_forks or self.pending_start):
                self.owed.setdefault(rank, []).append(number)

    def warn(self, number: int, again: bool = False) -> list[int]:
        """Send a signal to the ranks that handle it, and return these; it would kill the others.

        Each process gets it once, or `again`.
        """
        listening, look = [], cache(procfs.family)
        for rank, rank_pid in sorted(self.pids.items()):
            pids = processes.catchers(rank_pid, number, look)
            listening += [rank] if pids else []
            for pid in pids:
                if again or (pid, number) not in self.warned:
                    self.warned.add((pid, number))
                    processes.send_signal(pid, number)
        return listening

    def tell_stacks(
        self, ranks: Collection[int] | None, tell: Callable[[dict[int, str], dict[int, int]], object]
    ) -> None:
        """Report the current Python stacks of these ranks (of all by default), and which ranks cannot answer."""
        from muster.agent import stacks

        asked = {rank: pid for rank, pid in self.pids.items() if ranks is None or rank in ranks}
        stacks.collect(asked, self.folder, self.loop.call_later, tell)

    def socket_of(self, rank: int) -> str:
        """Return the path at which torch in a rank answers requests; empty if there is no place for it."""
        return "" if self.sockets is None else self.sockets.path(self.attempt, rank)

    def subjects(self, ranks: Collection[int] | None = None) -> list[Subject]:
        """Return what an inspection needs of the running ranks: of these, or of all."""
        return [
            Subject(rank, pid, rank_file(self.folder, rank, "stack"), self.socket_of(rank))
            for rank, pid in sorted(self.pids.items())
            if ranks is None or rank in ranks
        ]

    def tell_inspections(
        self, ranks: Collection[int] | None, tell: Callable[[list[dict[str, Any]]], object], within: float
    ) -> None:
        """Inspect these ranks, or all, and report what they are doing: `Inspection`s as JSON has them."""
        from muster.agent import inspection

        def inspected(found: Sequence[Inspection]) -> None:
            tell([inspection.as_fields(rank) for rank in found])
            if self.external is not None:
                self.external.on_inspected()

        inspection.collect(
            self.subjects(ranks),
            self.run.node,
            self.loop,
            inspected,
            within,
        )

    def tell_collectives(self, tell: Callable[[list[dict[str, Any]]], object], within: float) -> None:
        """Report when the ranks called their last collectives: `CollectiveTimes` as JSON has them."""
        from muster.agent import inspection

        inspection.collect_times(
            self.subjects(), self.loop, lambda found: tell([inspection.as_fields(times) for times in found]), within
        )

    def watch_progress(self, patience: float, always: bool) -> None:
        """From now on, report when no rank here makes progress for half of `patience`; see `progress.py`."""
        from muster.agent.progress import ProgressWatch

        def tell(since: float) -> None:
            self.emit("no_progress", attempt=self.attempt, since=since)

        def logs(rank: int) -> list[str]:
            return [rank_file(self.folder, rank, kind) for kind in ("out", "err")]

        def step(rank: int) -> int:
            return self.reported(rank).get("step", -1)

        reader = self.stdin_rank if self.stdin.fd is not None else None
        self.progress = ProgressWatch(self.loop, patience, self.subjects, logs, step, reader, tell, always)

    def reported(self, rank: int) -> dict[str, int]:
        """Return the `step`, and the number of `steps` if it is known, that a rank reported; empty for none."""
        from muster.protocol.progress_file import reported_step

        return reported_step(self.folder, rank)

    def tell_usage(
        self,
        tell: Callable[[dict[int, dict[str, Any]]], object],
        progress: bool = False,
        tail_of: int | None = None,
        only_steps: bool = False,
    ) -> None:
        """Measure the resource usage of this node's ranks for a moment, and report it with the steps they reported.

        `progress`: with the number of collectives that each rank has called. `tail_of`: with the end of the output of
        this rank. `only_steps`: nothing is measured, and the answer is given at once.
        """
        from muster.agent.usage import last_output, watch

        if only_steps:
            tell({rank: found for rank in self.pids if (found := self.reported(rank))})
            return

        asked: CollectiveCounts | None = None
        if progress:
            from muster.agent import collective_counts

            asked = collective_counts.CollectiveCounts(self.subjects(), self.loop)

        def measured(ranks: dict[int, dict[str, Any]]) -> None:
            for rank, use in ranks.items():
                use.update(self.reported(rank))
            if asked is not None:
                asked.stop()
                for rank, groups in asked.called.items():
                    if rank in ranks:
                        ranks[rank]["groups"] = groups
            if tail_of in self.ranks:
                files = {stream: rank_file(self.folder, tail_of, stream) for stream in ("out", "err")}
                ranks.setdefault(tail_of, {}).update(last_output(files))
            tell(ranks)

        watch(self.pids, self.loop.call_later, measured)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect exited children without waiting for SIGCHLD."""
        for ended in exits.reap():
            # one that nobody knows yet was forked by a fork server, which belongs to the last of them
            known = [member for member in self.family if ended.pid in member.names]
            (known or self.family)[-1].ended(ended)

    def persistent_pids(self) -> set[int]:
        """Return the processes that survive between attempts."""
        own = {pid for pid, name in self.names.items() if name in _PERSISTENT}
        return own if self.hosting is None else own | set(self.hosting.ranks.names)

    def left(self) -> dict[int, str]:
        """Return the processes that ranks have left behind."""
        if self.hosting is not None:
            self.hosting.warm.catch_up()
        return processes.leftover_descendants(
            os.getpid(), self.persistent_pids() | ({self.store.pid} if self.store.pid else set())
        )

    def close(self) -> None:
        """End the processes that are not ranks."""
        self.closed = True
        if self.progress is not None:
            self.progress.end()
        for pid in [pid for pid, name in self.names.items() if name == "gpus"]:
            processes.send_signal(pid, signal.SIGKILL)
        self.recorder.end()
        self.store.end()
        self.remove_temporary()
        if self.forkserver is not None and self.forkserver.connected:
            self.loop.remove_reader(self.forkserver.sock.fileno())
            self.forkserver.close()

    def remove_temporary(self) -> None:
        """Remove the files of this run outside the run directory."""
        if self.external is not None:
            self.external.close()
        if self.sockets is not None:
            self.sockets.close()


def _shared_bytes(size: int) -> int | None:
    """Return a file in memory of so many zero bytes; None if the kernel has no such files."""
    try:
        fd = os.memfd_create("muster")
    except (OSError, AttributeError):
        return None
    os.ftruncate(fd, size)
    return fd


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
