"""Join a plan, a supervisor and the agents: frames in, events to the supervisor, its actions out again."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from muster.agent import system
from muster.agent.protocol import VERSION, pack
from muster.model import Failure, Outcome, Plan, as_json
from muster.ranks import environment, late_environment
from muster.report import unable_in_words
from muster.runs import Run
from muster.supervise import (
    Action,
    Asked,
    Ended,
    Event,
    Finish,
    Listen,
    Listening,
    Lost,
    Ready,
    Say,
    Settings,
    Signal,
    Start,
    Started,
    StoreEnded,
    Supervisor,
    Sweep,
    Swept,
    Tick,
    Unable,
)
from muster.world.link import SIGNALS, Agents, Link
from muster.world.pen import Pen
from muster.world.view import View

TORCH_FLOOR = "2.3"
"""The oldest torch whose store takes a socket that listens already (`master_listen_fd`)."""


def _fields(record: Any) -> dict[str, Any]:
    """An event or an action, as it is written down."""
    return {name: as_json(value) for name, value in vars(record).items()}


class World:
    """One run, on the control side."""

    def __init__(self, plan: Plan, run: Run, agents: Agents, view: View, began: float):
        self.plan, self.run, self.view = plan, run, view
        self.began = began
        """When muster was started, on the monotonic clock; every `t` counts from here."""
        job = plan.job
        ranks = [rank for node in plan.nodes for rank in node.ranks]
        settings = Settings(
            ranks=tuple(rank.rank for rank in ranks),
            nodes=len(plan.nodes),
            node_of=tuple(rank.node for rank in ranks),
            grace=job.grace,
            timeout=job.timeout,
            max_restarts=job.max_restarts,
        )
        self.supervisor = Supervisor(settings)
        self.selector = selectors.DefaultSelector()
        self.pen = Pen()
        view.put = self.pen.put
        self.interrupts = 0
        """How often Ctrl-C was pressed."""
        self.outcome: Outcome | None = None
        self.facts: dict[str, Any] = {}
        self.links, self.not_ours, self.signals = agents
        self.sessions: set[int] = set()
        """The sessions of all ranks that were started."""
        self.events = open(run.path / "events.jsonl", "a")
        self.events_broken = False

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        """Run to the end."""
        self.selector.register(self.signals, selectors.EVENT_READ, self._signalled)
        self.selector.register(self.pen.told, selectors.EVENT_READ, self._shown)
        for link in self.links:
            self.selector.register(link.stdout, selectors.EVENT_READ, lambda link=link: self._heard(link))
            self.selector.register(link.stderr, selectors.EVENT_READ, lambda link=link: self._complained(link))
            self._flush(link)
        try:
            while self.outcome is None:
                self._turn()
            self._write("outcome.json", as_json(self.outcome))
            self._part()
        finally:
            self._leave()
        self.view.finish(self.outcome)
        try:
            self.pen.close(drop=self.hurry)
        except KeyboardInterrupt:
            pass  # enough shown
        return self.outcome

    def _turn(self) -> None:
        deadline = self.supervisor.deadline
        wait = None if deadline is None else max(0.0, deadline - self._now())
        for key, _ in self.selector.select(wait):
            if key.fd in self.selector.get_map():
                key.data()
        if self.supervisor.deadline is not None and self._now() >= self.supervisor.deadline:
            self._handle(Tick(self._now()))

    def _now(self) -> float:
        return time.monotonic() - self.began

    def _signalled(self) -> None:
        for number in os.read(self.signals, 64):
            self.interrupts += number == signal.SIGINT
            if number in SIGNALS:
                self._handle(Asked(self._now(), number))

    def _handle(self, event: Event) -> None:
        self._note(type(event).__name__.lower(), _fields(event))
        for action in self.supervisor.handle(event):
            self._do(action)

    def _note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event down, and show it to who asked for events."""
        record = {"event": kind, **fields}
        self.view.event(record)
        try:
            self.events.write(json.dumps(record) + "\n")
            self.events.flush()
        except OSError as error:
            if not self.events_broken:
                self.events_broken = True
                self.view.say(f"cannot write {self.run.path}/events.jsonl any more: {error.strerror}; the run goes on")

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            self.run.write(name, data)
        except OSError as error:
            self.view.say(f"cannot write {self.run.path}/{name}: {error.strerror}")

    # ---- actions ----------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._note("do " + type(action).__name__.lower(), {} if isinstance(action, Finish) else _fields(action))
        if isinstance(action, Listen):
            self._tell(0, "listen", attempt=action.attempt, host=self._address())
        elif isinstance(action, Start):
            if action.attempt == 0:
                self.view.begin(self.facts)
            late = late_environment(self._address(), action.port, action.attempt)
            self._tell_all("start", attempt=action.attempt, late=late)
        elif isinstance(action, Signal):
            for node in self.plan.nodes:
                here = [rank.rank for rank in node.ranks if rank.rank in action.ranks]
                self._tell(node.number, "signal", number=action.number, ranks=here)
        elif isinstance(action, Sweep):
            self._tell_all("sweep", patience=action.patience)
            for link in self.links:
                if link.preface is not None and link.open:
                    # not an agent yet, perhaps a line of --setup that hangs: it reads nothing
                    os.killpg(link.process.pid, signal.SIGKILL)
        elif isinstance(action, Say):
            self.view.say(action.text)
        else:
            self.outcome = action.outcome

    def _address(self) -> str:
        """The address of node 0 at which all ranks meet."""
        return "127.0.0.1"

    def _tell(self, node: int, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self._send(self.links[node], pack(kind, payload, **fields))

    def _tell_all(self, kind: str, **fields: Any) -> None:
        for link in self.links:
            self._send(link, pack(kind, **fields))

    def _send(self, link: Link, data: bytes) -> None:
        if link.open:
            link.out += data
            self._flush(link)

    def _flush(self, link: Link) -> None:
        link.flush()
        registered = link.stdin.fileno() in self.selector.get_map()
        if link.out and not registered:
            self.selector.register(link.stdin, selectors.EVENT_WRITE, lambda: self._flush(link))
        elif registered and not link.out:
            self.selector.unregister(link.stdin)

    # ---- frames -----------------------------------------------------------------------------------------------------

    def _complained(self, link: Link) -> None:
        if not link.listen():
            self.selector.unregister(link.stderr)

    def _heard(self, link: Link) -> None:
        frames = link.read()
        if frames is None:
            self._close(link)
            self._handle(Lost(self._now(), link.node, link.why_lost(str(self.run.path), self.plan.job.python)))
            return
        for fields, payload in frames:
            heard: Callable[..., None] = getattr(self, "_on_" + fields.pop("kind"))
            t = fields.pop("t", time.monotonic()) - self.began
            heard(link, t, payload, **fields)

    def _close(self, link: Link) -> None:
        link.open = False
        for file in (link.stdout, link.stderr, link.stdin):
            if file.fileno() in self.selector.get_map():
                self.selector.unregister(file)

    def _on_hello(self, link: Link, t: float, payload: bytes, version: int, **facts: Any) -> None:
        if version != VERSION:
            self._handle(Unable(t, link.node, f"the agent on {link.host} speaks version {version}, muster {VERSION}"))
            return
        if link.node == 0:
            self.facts.update(facts)
        self._note("hello", {"t": t, "node": link.node, **facts})
        job = self.plan.job
        commands = []
        for command in self.plan.commands:
            if command.node == link.node:
                item = as_json(command)
                for rank, entry in zip(command.ranks, item["ranks"]):
                    entry["env"] = environment(rank)
                commands.append(item)
        self._send(
            link,
            pack(
                "prepare",
                run_dir=str(self.run.path),
                run_id=self.run.id,
                node=link.node,
                host=link.host,
                commands=commands,
                preload=list(job.preload),
                stdin_rank=job.stdin,
                want=self.view.wants,
                floor=TORCH_FLOOR,
            ),
        )
        if link.node == 0:
            self._tell(0, "listen", attempt=0, host=self._address())
        if any(rank.rank == job.stdin for rank in self.plan.nodes[link.node].ranks):
            self._watch_stdin(link.node)  # not before: what follows the agent's own text is lost until it runs

    def _on_ready(self, link: Link, t: float, payload: bytes, fork: bool, why: str, **facts: Any) -> None:
        times = {name: when - self.began for name, when in facts.pop("times", {}).items()}
        self._note("warm", {"node": link.node, "t": t, "fork": fork, "times": times})
        if link.node == 0:
            self.facts.update({name: value for name, value in facts.items() if value}, fork=fork)
        if why:
            self.view.say(f"not forking on {link.host}, starting plain interpreters instead: {why}")
        self._handle(Ready(t, link.node))

    def _on_listening(self, link: Link, t: float, payload: bytes, attempt: int, port: int) -> None:
        self._handle(Listening(t, attempt, port))

    def _on_started(self, link: Link, t: float, payload: bytes, attempt: int, pids: Mapping[str, int]) -> None:
        self.sessions.update(pids.values())
        self._note("pids", {"t": t, "node": link.node, "attempt": attempt, "pids": pids})
        self._handle(Started(t, link.node, attempt))

    def _on_output_began(self, link: Link, t: float, payload: bytes, rank: int, attempt: int) -> None:
        self._note("output began", {"t": t, "rank": rank, "attempt": attempt})

    def _on_output(self, link: Link, t: float, payload: bytes, rank: int, stream: str, offset: int) -> None:
        self.view.output(rank, stream, payload)
        self.pen.mark((link, len(payload)))

    def _on_lingering(self, link: Link, t: float, payload: bytes, words: list[str]) -> None:
        grace = self.plan.job.grace
        self.view.say(
            f"the ranks have ended and left behind: {'; '.join(words)}\n"
            f"waiting up to {grace:g} s for that to end; Ctrl-C to end it now"
        )

    def _on_note(self, link: Link, t: float, payload: bytes, text: str) -> None:
        self.view.say(f"{link.host}: {text}")

    def _on_ended(
        self,
        link: Link,
        t: float,
        payload: bytes,
        attempt: int,
        rank: int,
        code: int | None,
        signal: int | None,
        why: Mapping[str, Any] | None = None,
    ) -> None:
        failure = None
        if why is not None:
            failure = Failure(why["kind"], why["t"] - self.began, why["summary"], tuple(why["frames"]))
        self._handle(Ended(t, rank, attempt, code, signal, failure))

    def _on_store_ended(self, link: Link, t: float, payload: bytes, code: int | None, signal: int | None) -> None:
        how = f"exit status {code}" if signal is None else f"killed by signal {signal}"
        self._handle(StoreEnded(t, f"{how}; see {self.run.path}/node_{link.host}/store.log"))

    def _on_unable(self, link: Link, t: float, payload: bytes, what: str, **fields: Any) -> None:
        python = self.facts.get("executable") or self.plan.job.python
        words = unable_in_words(what, python, link.host, TORCH_FLOOR, **fields)
        self._handle(Unable(t, link.node, words))

    def _on_swept(self, link: Link, t: float, payload: bytes, ended: list[str], left: list[str]) -> None:
        self._handle(Swept(t, link.node, tuple(ended), tuple(left)))

    def _on_asked(self, link: Link, t: float, payload: bytes, what: str, by: str) -> None:
        self._handle(Asked(t, 0, by))

    def _on_broken(self, link: Link, t: float, payload: bytes, text: str) -> None:
        link.broken = text.strip().splitlines()[-1]

    def _shown(self) -> None:
        """What was shown makes room for more."""
        for link, count in self.pen.reached():
            self._send(link, pack("taken", count=count))

    @property
    def hurry(self) -> bool:
        """The person does not want to wait for the rest of the logs."""
        return self.interrupts > 1

    # ---- the terminal's input ---------------------------------------------------------------------------------------

    def _watch_stdin(self, node: int) -> None:

        def typed() -> None:
            try:
                data = os.read(0, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._tell(node, "stdin", data, end=not data)
            if not data:
                self.selector.unregister(0)

        try:
            self.selector.register(0, selectors.EVENT_READ, typed)
        except PermissionError:  # a plain file cannot be waited for: it is all there
            data = sys.stdin.buffer.read()
            self._tell(node, "stdin", data, end=True)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        """Let the agents send what is left of the logs, and see them go. From here Ctrl-C ends the showing."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._tell_all("bye", drain=not self.hurry)
        try:
            while any(link.open for link in self.links):
                for key, _ in self.selector.select():
                    if key.fd in self.selector.get_map():
                        key.data()
        except KeyboardInterrupt:
            self.interrupts = 2

    def _end_orphans(self) -> None:
        """End what an agent that was killed has left; it was handed to us when the agent died."""
        marker = f"TORCHELASTIC_RUN_ID={self.run.id}".encode()
        family = system.outsiders(os.getpid(), self.not_ours)
        ours = set(family)
        if self.not_ours:
            # what those leave behind falls to us too, so look twice
            ours = {pid for pid in family if system.carries(pid, marker) or system.session(pid) in self.sessions}
        if ours:
            system.end_family(os.getpid(), self.not_ours | (set(family) - ours))

    def _leave(self) -> None:
        """Leave no process."""
        for link in self.links:
            link.stdin.close()
        deadline = time.monotonic() + 5
        for link in self.links:
            try:
                link.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                link.process.kill()
                link.process.wait()
            link.stdout.close()
            link.stderr.close()
        self._end_orphans()
        self.events.close()
        signal.set_wakeup_fd(-1)
