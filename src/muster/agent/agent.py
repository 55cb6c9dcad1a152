"""One small process a node: it starts what it is told to, owns the logs and the end of it, and reports.

It decides nothing about the job: the supervisor at the other end of its stdin and stdout does. It decides one thing
alone: when that end is gone and no lease is left, its ranks end.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from muster.agent import local, meet, protocol, system, tree
from muster.agent.descriptors import open_standard_descriptors
from muster.agent.links import RankLinks, put_files_there
from muster.agent.listener import FirstFew, LocalListener, Peer
from muster.agent.logs import Logs
from muster.agent.members import Members
from muster.agent.protocol import MAGIC, pack
from muster.agent.wire import Wire

if TYPE_CHECKING:
    from muster.agent.dial import Dialer, Met
    from muster.agent.keep import Keeper

_LINGER = 0.2
"""Seconds between two looks at processes that ranks left behind, once they have been there for a while."""
_LAST_WISH = 3.0
"""Seconds that ranks have to end when the connection to the supervisor is lost."""

_STRANGER = 10.0
"""Seconds without a supervisor after which an agent ends that has never met it."""

_NEWS = ("ready", "listening", "started", "joined", "ended", "launcher_ended", "store_ended", "unable", "swept")
"""What a supervisor that begins again has to be told once more."""

_LISTENS = 0.2
"""How often it is looked whether a rank that has only begun has come to listen for a signal, in seconds."""

_TEXT, _WHOLE = protocol.text, protocol.whole
_NUMBER = protocol.optional(_WHOLE)
_ASKS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "kill": {"by": protocol.optional(_TEXT)},
    "stacks": {"ranks": protocol.optional(protocol.several(_WHOLE))},
    "join": {"rank": _WHOLE, "launcher": _TEXT, "world_size": _NUMBER},
    "reach": {"host": _TEXT, "words": protocol.several(_TEXT), "env": protocol.environment},
    "began": {"pid": lambda value: _WHOLE(value) and value > 1},
    "ended": {
        "code": _NUMBER,
        "signal": _NUMBER,
        "asked": lambda value: value is None or (isinstance(value, (int, float)) and abs(value) < 1e18),
    },
}
"""What other processes of this person may ask for: what each field has to be."""


class Agent:
    """The loop of one node."""

    run_dir: str
    run_id: str
    sockets: local.Sockets
    node: int
    folder: str
    """What this agent writes lies here; `on_prepare` sets these."""
    members: Members
    """There are none until `prepared`."""
    links: RankLinks

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.selector = selectors.DefaultSelector()
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.wire = Wire()
        self.prepared = False
        self.logs = Logs(self)
        self.leaving = self.forget = False
        self.sweep_until: float | None = None
        self.door: socket.socket | None = None
        self.own_run_dir = False
        """The run directory is this node's alone; it goes once the supervisor has everything."""
        self.stays = False
        """It does not, for what it holds could not be kept elsewhere."""
        self.is_lost = False
        self.move: tuple[dict[str, Any], bytes] | None = None
        """Where the supervisor will be, once this agent was told; see `move.py`."""
        self.dialer: Dialer | None = None
        """The way to a supervisor on another node."""
        self.keeper: Keeper | None = None
        """What keeps the supervisor on this node alive."""
        self.lease = 0.0
        self.alone = 0.0
        """Seconds for which the ranks may go on without a supervisor, and have."""
        self.news: dict[str, bytes] = {}
        """The last frame of each kind that a new supervisor has to be sent."""
        self.listened = -1
        """The last attempt for which a port was opened."""
        self.introduction: dict[str, Any] = {}
        """What a supervisor is told that this agent looked for by itself; see `step.py`."""
        self.scheduled = False
        """A scheduler started this agent, and ends it."""
        self.term: dict[str, str] = {}
        """What ranks must know of the terminal that they are given."""
        self.known = False
        """Some supervisor has been spoken to since this agent moved."""

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make this process ready to have children."""
        system.adopt_orphans()
        told = system.note_signals()
        self.watch(told, lambda: self.signalled(system.noted(told)))

    def greet(self) -> None:
        """Speak to who started this agent, over stdin and stdout."""
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self.wire.connect(0, 1)
        self.watch(0, self.heard)
        self.wire.out += MAGIC
        self.emit(
            "hello",
            version=protocol.VERSION,
            pid=os.getpid(),
            python=".".join(map(str, sys.version_info[:3])),
            executable=sys.executable,
            host=socket.gethostname(),
        )

    def loop(self) -> None:
        """Serve until told to leave or to move, or until the connection is lost and the ranks are ended."""
        while True:
            # the kernel takes no wait of more than 24 days
            until = min([time.monotonic() + 86400.0, *(when for when, _ in self.timers)])
            for key, _events in self.selector.select(max(0.0, until - time.monotonic())):
                if key.fd in self.selector.get_map():
                    key.data()
            due = [timer for timer in self.timers if timer[0] <= time.monotonic()]
            for timer in due:
                self.timers.remove(timer)
                timer[1]()
            self.logs.send()
            if self.move is not None and not self.wire.out:
                return
            if self.leaving and self.wire.idle and self.logs.sent and self.logs.kept:
                if self.forget:
                    import shutil

                    put_files_there(self.run_dir)
                    shutil.rmtree(self.run_dir, ignore_errors=True)
                return

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Call `do` once, in so many seconds."""
        self.timers.append((time.monotonic() + seconds, do))

    def watch(self, fd: int, do: Callable[[], object]) -> None:
        """Call `do` whenever there is something to read."""
        self.selector.register(fd, selectors.EVENT_READ, do)

    def unwatch(self, fd: int) -> None:
        """Do so no more; it may be watched or not, or be -1 for none."""
        if fd >= 0 and fd in self.selector.get_map():
            self.selector.unregister(fd)

    def emit(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a frame to the supervisor, stamped with this machine's clock."""
        frame = pack(kind, payload, t=time.monotonic(), **fields)
        if kind in _NEWS:
            self.news[f"{kind} {fields['rank']}" if kind in ("joined", "ended") else kind] = frame
        self.wire.put(frame)
        self.flush()

    def flush(self) -> None:
        """Write what the connection takes now."""
        self.wire.pump(self.selector, self.flush)

    def heard(self) -> None:
        """Take what the supervisor sent."""
        self.take(self.wire.read())

    def take(self, frames: Iterable[tuple[dict[str, Any], bytes]] | None) -> None:
        """Do what these frames say; None: the connection has ended, or is to end."""
        if frames is None:
            self.parted()
        else:
            self.obey(frames)

    def obey(self, frames: Iterable[tuple[dict[str, Any], bytes]]) -> None:
        """Do what these frames say."""
        for fields, payload in frames:
            getattr(self, "on_" + fields.pop("kind"))(payload=payload, **fields)
        self.flush()

    # ---- the supervisor, when it is elsewhere -----------------------------------------------------------------------

    def connected(self, met: Met, same: bool) -> None:
        """Go on over a new connection: to the `same` supervisor, or to a new one."""
        if not same:
            self.wire.begin_anew()
            self.logs.readers.clear()
        os.set_blocking(met.fd, False)
        self.wire.connect(met.fd, os.dup(met.fd), met.frames, met.heard if same else 0, met.seal)
        self.alone, self.known = 0.0, True
        self.watch(met.fd, self.heard)
        if not same:
            if self.prepared:
                self.emit("state", started=self.members.attempt if self.members.folder else -1, listened=self.listened)
            else:
                self.emit("told", **self.introduction)
            for frame in self.news.values():
                self.wire.put(frame)
        self.take(self.wire.feed(b""))  # what came together with the end of the handshake

    def parted(self) -> None:
        """The connection has ended."""
        if self.wire.refused:
            self.complain(f"the connection was closed: {self.wire.refused}")
        self.unwatch(self.wire.reading)
        if self.leaving:
            self.forget = self.forget and self.logs.sent and self.logs.kept
            self.logs.finish(drain=False)
            self.wire.begin_anew()
        if self.dialer is None and self.keeper is None:
            self.wire.out.clear()
            self.lost("the connection to muster was lost")
            return
        self.unwatch(self.wire.writing)
        os.close(self.wire.reading)
        os.close(self.wire.writing)
        self.wire.disconnect()
        if self.leaving:
            return
        if self.dialer is not None:
            self.dialer.dial()
            self.wait_alone(time.monotonic())
        elif self.keeper is not None:
            self.keeper.again()

    def wait_alone(self, since: float) -> None:
        """Count the time without a supervisor, as far as this process ran in it; the ranks end when it is too long."""
        if self.wire.connected or self.leaving:
            return
        now = time.monotonic()
        self.alone += min(now - since, 2.0)
        lease = self.lease if self.known else _STRANGER  # a short lease is no measure of how long a start takes
        if self.alone >= lease:
            self.lost(f"there was no way to the supervisor for {lease:g} s")
        else:
            self.after(1.0, lambda: self.wait_alone(now))

    def terminated(self) -> None:
        """SIGTERM has come: from a scheduler it says that the end is near, and its supervisor decides."""
        if self.scheduled and not self.is_lost:
            self.emit("warned")
        else:
            self.lost("the agent was sent SIGTERM")

    def signalled(self, numbers: bytes) -> None:
        """Signals have come: collect the dead, and pass on what a scheduler sends to the ranks through this process."""
        if signal.SIGTERM in numbers:
            self.terminated()
        if self.prepared:
            self.children_ended_now()
        for number in sorted(set(numbers) - {signal.SIGTERM, signal.SIGCHLD}):
            if self.scheduled and self.prepared and not self.members.tasks:
                self.on_pass(b"", number)

    # ---- what the supervisor asks for -------------------------------------------------------------------------------

    def on_tell(self, payload: bytes, **what: str) -> None:
        """Tell what planning must know of this machine."""
        self.emit("told", **meet.tell(**what))

    def on_flag(self, payload: bytes, run_dir: str) -> None:
        """Have a run directory here, which other nodes may share."""
        meet.put_flag(run_dir)
        self.emit("flagged")

    def on_shares(self, payload: bytes, run_dir: str) -> None:
        """Say whether node 0 has that folder too."""
        self.emit("shares", shares=meet.shares(run_dir))

    def on_compare(self, payload: bytes, root: str, home: str = "", place: list[Any] | None = None) -> None:
        """Say which files of a folder are not those of the other machine; and which are left of those sent once."""
        stale = tree.stale(home, root, payload) if home else []
        self.emit("compared", digests=tree.compare(root, payload, place), stale=stale)

    def on_remember(self, payload: bytes, root: str, home: str) -> None:
        """These files were sent to this folder."""
        tree.remember(home, root, payload)
        self.emit("remembered")

    def on_open(self, payload: bytes) -> None:
        """Open a port at which the other nodes try the way here."""
        self.door = meet.open_door()
        self.emit("opened", port=self.door.getsockname()[1])

    def on_knock(self, payload: bytes, addresses: list[str], port: int, patience: float) -> None:
        """Try the way to node 0."""
        self.emit("knocked", ways=meet.knock(addresses, port, patience))

    def on_probe(self, payload: bytes, names: list[str], folders: list[str]) -> None:
        """Look at this machine as a doctor would."""
        from muster.agent.probe import probe

        self.emit("probed", **probe(names, folders))

    def on_clock(self, payload: bytes) -> None:
        """Say what time it is here."""
        self.emit("clock")

    def on_move(self, payload: bytes, **where: Any) -> None:
        """Leave the connection that started this agent, for a supervisor on a node."""
        self.move = (where, payload)

    def on_prepare(
        self,
        payload: bytes,
        run_dir: str,
        run_id: str,
        token: str,
        node: int,
        host: str,
        commands: list[dict[str, Any]],
        preload: Iterable[str],
        stdin_rank: int | None,
        floor: str,
        brings: Mapping[str, str],
        want: bool | list[int] = False,
        own_run_dir: bool = False,
        path_first: bool = False,
        guests: dict[str, Any] | None = None,
        own_meeting: bool = False,
        stdin: int | None = None,
        log_dir: str = "",
        clock: float | None = None,
        terminal: Mapping[str, Any] | None = None,
    ) -> None:
        """Get ready to start ranks: folders, the hook, the warm interpreter.

        `token` names the sockets of this run (`local.py`).
        `brings`: scripts by the word that stands for them on command lines. `own_run_dir`: that folder is this node's
        alone. `stdin`: a descriptor of this process, from which the rank `stdin_rank` reads. `path_first`: the folder
        of this Python goes first on PATH, as if its environment had been activated. `log_dir`: where the logs get the
        names that torchrun gives them; empty for nowhere. `clock`: what is added to the monotonic clock of this machine
        for the time of day; None where it has that by itself. `terminal`: rows, columns and TERM of the pseudo-terminal
        that each rank gets; None for none.
        """
        if self.door is not None and self.keeper is None:
            self.door.close()
        self.run_dir, self.node, self.own_run_dir = run_dir, node, own_run_dir
        if terminal is not None:
            self.logs.terminal = {"rows": terminal["rows"], "columns": terminal["columns"]}
            self.term = {"TERM": terminal["term"]} if terminal["term"] else {}
        if clock is not None:
            self.logs.clock = lambda: time.monotonic() + clock
        if want:
            self.logs.read("", want, {}, None)
        if path_first:
            os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
        self.folder = system.node_folder(run_dir, host)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        system.try_to_write(self.folder)
        log = os.open(os.path.join(self.folder, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.close(log)
        self.links = RankLinks(log_dir, self.folder, lambda text: self.emit("note", text=text))
        self.run_id, self.sockets = run_id, local.Sockets(run_id, token)
        local.keep(run_dir, token)
        self.answer(needed=guests is not None)
        places = {word: self.bring(os.path.basename(word), text) for word, text in brings.items()}
        for command in (*commands, *([guests] if guests is not None else [])):
            command["argv"] = [places.get(word, word) for word in command["argv"]]
        self.members = Members(self, commands, preload, stdin_rank, self.hook, floor, guests, own_meeting, stdin)
        self.prepared = True
        self.members.prepare()

    def bring(self, name: str, text: str) -> str:
        """Write down a script that came with the job; gives where it is."""
        folder = os.path.join(self.folder, "brought")  # alone there: its folder is the first on sys.path
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
        return file.name

    def on_listen(self, payload: bytes, attempt: int, host: str) -> None:
        """Open the port of this attempt's store."""
        port = self.members.listen(host)
        self.listened = attempt
        self.emit("listening", attempt=attempt, port=port)

    def on_start(self, payload: bytes, attempt: int, late: Mapping[str, str], meets: Mapping[str, str]) -> None:
        """Start all ranks of this node. `meets` names the interface on which it meets the others, unless set."""
        self.members.defaults = dict(meets)
        for name in [name for name in self.news if name != "ready" and name != "listening"]:
            del self.news[name]
        folder = os.path.join(self.run_dir, f"attempt_{attempt}")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            self.complain(f"{folder}: {error.strerror}")  # ranks do without it; see `overflow.py`
        self.logs.follow(attempt, folder, self.members.ranks)
        self.links.begin(attempt, folder)
        self.members.start(attempt, folder, late)

    def on_signal(self, payload: bytes, number: int, ranks: Iterable[int], launchers: bool = False) -> None:
        """Pass a signal to these ranks, and to the `launchers`, if there are any."""
        if self.prepared:
            self.members.signal(number, ranks)
        if self.prepared and launchers and self.members.guests is not None:
            self.members.guests.signal_launchers(number)

    def on_obey(self, payload: bytes, number: int, words: list[str], env: Mapping[str, str], by: int) -> None:
        """Start something for the launcher of another node."""
        if self.prepared and self.members.guests is not None:
            self.members.guests.obey(number, words, env, by)

    def on_reached(self, payload: bytes, number: int, code: int) -> None:
        """What a launcher here started on another node has ended."""
        if self.prepared and self.members.guests is not None:
            self.members.guests.reached(number, code)

    def on_resize(self, payload: bytes, rows: int, columns: int) -> None:
        """The terminal on which ranks are shown has another size now."""
        self.logs.resize(rows, columns)
        if self.prepared:
            for pid in self.members.pids.values():
                system.send(pid, signal.SIGWINCH)  # which ends nobody that has no handler for it

    def on_pass(self, payload: bytes, number: int) -> None:
        """Pass a signal on, now, to the ranks that have a handler for it, and tell which these are."""
        self.emit("passed", number=number, ranks=self.members.warn(number, again=True) if self.prepared else [])

    def on_warn(self, payload: bytes, name: str) -> None:
        """Pass a signal, `USR1`, to the ranks that have a handler for it, and tell which these are.

        A rank that has only begun gets it as soon as it listens.
        """
        self._warn(signal.Signals[f"SIG{name}"], None)

    def _warn(self, number: int, before: set[int] | None) -> None:
        if self.leaving:
            return
        listening = set(self.members.warn(number)) if self.prepared else set()
        if before is None or listening - before:
            self.emit("heard", ranks=sorted(listening))
        self.after(_LISTENS, lambda: self._warn(number, listening | (before or set())))

    def on_sweep(self, payload: bytes, patience: float, well: bool = True) -> None:
        """End whatever is left of the attempt; what ranks left behind has `patience` seconds to end by itself.

        `well`: no rank has failed, so a launcher ends by itself.
        """
        if not self.prepared:
            self.emit("swept", ended=[], left=[])
            return
        self.members.end_store()
        self.news.pop("swept", None)
        waiting, self.sweep_until = self.sweep_until, time.monotonic() + patience
        if waiting is None and self.members.guests is not None:
            # what ranks left behind is ended by then; this is the launcher's, and has no time of its own
            self.members.guests.swept(well, self.sweep_launchers)
        elif self.members.guests is not None:
            self.members.guests.hurry()
        elif waiting is None:
            self.sweep(0.002)

    def sweep_launchers(self) -> None:
        """End what a launcher has started and not ended."""
        self.sweep_until = None
        _, alive = system.end_family(os.getpid(), self.members.spared())
        self.children_ended_now()
        self.logs.settle()
        self.emit("swept", ended=[], left=alive)

    def sweep(self, pause: float) -> None:
        """Look again until nothing is left or time is up."""
        left = self.members.left()
        if left and self.sweep_until is not None and time.monotonic() < self.sweep_until:
            if pause < _LINGER <= pause * 1.5:
                self.emit("lingering", words=[system.in_words(pid, name) for pid, name in left.items()])
            self.after(pause, lambda: self.sweep(min(_LINGER, pause * 1.5)))
            return
        self.sweep_until = None
        killed, alive = system.end_family(os.getpid(), self.members.spared())
        self.children_ended_now()
        self.logs.settle()
        self.emit("swept", ended=killed, left=alive)

    def children_ended_now(self) -> None:
        """Collect the dead without waiting for the signal that tells of them."""
        for pid, code, number in system.reap():
            self.members.ended(pid, code, number)

    def on_stdin(self, payload: bytes, at: int, end: bool) -> None:
        """Pass the terminal's input to the rank that reads it."""
        self.members.feed(payload, at, end)

    def on_bye(self, payload: bytes, drain: bool = True) -> None:
        """Send what is left of the logs, and leave."""
        if self.prepared:
            self.members.close()
        self.logs.finish(drain)
        self.leaving = True
        self.forget = self.own_run_dir and drain and not self.stays

    def on_stay(self, payload: bytes) -> None:
        """Something could not be kept where the copies are: the run directory of this node stays."""
        self.stays, self.forget = True, False

    def on_read(
        self,
        payload: bytes,
        reader: str,
        want: bool | list[int],
        offsets: Mapping[str, int],
        tail: int | None,
    ) -> None:
        """Somebody wants output, from these places on."""
        self.logs.read(reader, want, offsets, tail)

    def on_unread(self, payload: bytes, reader: str) -> None:
        """Nobody wants that any more."""
        self.logs.readers.pop(reader, None)

    def on_taken(self, payload: bytes, count: int, reader: str = "") -> None:
        """So many bytes of output have been shown or kept, and more is taken."""
        self.logs.taken(reader, count)

    def on_stacks(self, payload: bytes, ranks: Collection[int] | None, number: int) -> None:
        """Tell where the Python code of these ranks is now."""
        self.members.tell_stacks(ranks, lambda texts, mute: self.emit("stacks", number=number, texts=texts, mute=mute))

    def on_usage(self, payload: bytes, number: int) -> None:
        """Tell what the ranks use now."""
        self.tell_usage(lambda ranks: self.emit("usage", number=number, ranks=ranks))

    def tell_usage(self, tell: Callable[[dict[int, dict[str, Any]]], object]) -> None:
        """Measure the ranks of this node for a moment, and tell what they use."""
        from muster.agent.usage import watch

        watch(self.members.pids if self.prepared else {}, self.after, tell)

    def lost(self, why: str) -> None:
        """Nobody is there to decide: end the ranks, and this agent."""
        if self.is_lost or self.leaving:
            return
        self.is_lost, deadline = True, time.monotonic() + _LAST_WISH
        if not self.prepared:
            os._exit(0)
        print(f"muster agent: {why}: ending the ranks", file=sys.stderr, flush=True)
        self.members.signal(signal.SIGTERM, self.members.alive())
        self.until_gone(why, deadline)

    def until_gone(self, why: str, deadline: float) -> None:
        """Wait a little for ranks that were asked to end; then end everything."""
        if self.members.alive() and time.monotonic() < deadline:
            self.after(0.02, lambda: self.until_gone(why, deadline))
            return
        self.members.close()
        _, left = system.end_family(os.getpid(), self.members.spared() if self.keeper is not None else ())
        self.children_ended_now()
        self.record_end(why, left)
        os._exit(0)

    def fail(self) -> NoReturn:
        """End the ranks and this agent after an error of its own; call it while that is handled.

        A supervisor that this agent has started lives on: it tells how the run ended.
        """
        traceback.print_exc()
        sys.stderr.flush()
        text = traceback.format_exc(limit=-1)
        self.wire.put(pack("broken", text=text, t=time.monotonic()))
        if self.wire.connected:
            os.set_blocking(self.wire.writing, True)
            self.wire.flush()
        spared = self.members.spared() if self.prepared and self.keeper is not None else ()
        _, left = system.end_family(os.getpid(), spared)
        if self.prepared:
            self.record_end(f"the agent failed ({text.strip().splitlines()[-1]})", left)
        os._exit(1)

    def record_end(self, why: str, left: list[str]) -> None:
        """Leave word in the run directory of an end that no supervisor saw."""
        import json

        text = json.dumps({"time": time.time(), "why": why, "left": left, "ranks": self.members.ends})
        try:
            with open(os.path.join(self.folder, "ended.json"), "w") as file:
                file.write(text + "\n")
        except OSError as error:
            print(f"muster agent: {system.reason_at(error)}", file=sys.stderr, flush=True)

    # ---- people on this machine -------------------------------------------------------------------------------------

    def answer(self, needed: bool) -> None:
        """Listen for other terminals of the same person, and for ranks that a launcher starts: then it is `needed`, and
        raises OSError where it cannot be."""
        try:
            visitors = self.sockets.listen(local.AGENT)
        except OSError as error:
            if needed:
                raise
            self.emit("note", text=f"no other terminal can reach this run (kill, stacks): {system.reason_at(error)}")
            return
        note = FirstFew(self.complain)
        LocalListener(self, visitors, lambda sock: Peer(self, sock, self.visit, self.left, note), note)

    def complain(self, text: str) -> None:
        """Write something into agent.log."""
        print(f"muster agent: {text}", file=sys.stderr, flush=True)

    def left(self, visitor: Peer) -> None:
        """A connection of this machine has ended."""
        if self.members.guests is not None:
            self.members.guests.gone(visitor)

    def visit(self, visitor: Peer, fields: Mapping[str, Any], payload: bytes) -> None:
        """Do what another process of this person asks for."""
        kind, guests = fields["kind"], self.members.guests
        protocol.check(fields, _ASKS.get(kind, {}))
        answer: dict[str, Any] = {}
        if kind == "kill":
            self.emit("asked", what="kill", by=fields.get("by") or "")
        elif kind == "end":
            self.lost("another terminal asked for the end")
        elif kind == "stacks":
            self.members.tell_stacks(
                fields.get("ranks"), lambda texts, mute: visitor.send(pack("answer", texts=texts, mute=mute))
            )
            return
        elif kind == "usage":
            self.tell_usage(lambda ranks: visitor.send(pack("answer", ranks=ranks)))
            return
        elif guests is not None and kind == "join":
            answer = guests.join(visitor, fields)
        elif guests is not None and kind == "reach":
            guests.reach(visitor, fields["host"], fields["words"], fields["env"])
            return
        elif guests is not None and kind == "began":
            guests.began(visitor, fields["pid"])
            return
        elif guests is not None and kind == "ended":
            guests.ended(visitor, fields["code"], fields["signal"], fields.get("asked"))
            return
        visitor.send(pack("answer", **answer))


def main(hook: str) -> None:
    """Run the agent of this node; `hook` is the source of the hook."""
    open_standard_descriptors()
    from muster.agent.move import move

    agent = Agent(hook)
    try:
        agent.begin()
        agent.greet()
        agent.loop()
        if agent.move is not None:
            agent = move(agent)
            agent.loop()
    except BaseException:
        agent.fail()
    os._exit(0)
