"""A run on this machine, supervised by the command in the terminal: when that goes, so do the ranks."""

from __future__ import annotations

import json
import os
import selectors
import signal
from collections.abc import Mapping
from typing import Any

from muster.agent import system, trace
from muster.agent.local import new_token
from muster.agent.protocol import VERSION, pack
from muster.model import Plan
from muster.plurals import plural
from muster.report import outcome_as_json
from muster.results import Outcome, Problem, ProblemKind
from muster.runs import Run
from muster.supervise import Asked, Swept, Unable
from muster.world.journal import Journal
from muster.world.keyboard import Keyboard
from muster.world.link import SIGNALS, Agents, ChildLink, Link, end_links
from muster.world.loop import World, prepare_fields, terminal_fields
from muster.world.pen import Pen
from muster.world.terminal import QUIET, size_here
from muster.world.view import View


class Attached(World):
    """One run, and the person who watches it."""

    def __init__(self, plan: Plan, run: Run, agents: Agents, view: View, began: float):
        super().__init__(plan, run, agents.links, began)
        self.children: list[ChildLink] = agents.links
        self.not_ours, self.signals, self.view = agents.not_ours, agents.signals, view
        self.stdin = agents.stdin
        self.keyboard = Keyboard()
        self.token = new_token()
        self.pen = Pen()
        view.put = self.pen.put
        self.killed: set[int] = set()
        """Nodes whose agent was killed before it had come to life, as the run was to end."""
        self._wrote_at: float | None = None
        """When a rank wrote last, unless it was long ago."""
        if plan.job.terminal is not None:
            signal.signal(signal.SIGWINCH, lambda *_: None)  # it is noted like the others
        self.interrupts = 0
        """How often Ctrl-C was pressed."""
        self.events = Journal(run.path / "events.jsonl")
        self.events_broken = False
        for link in self.children:
            link.wire.tracer = trace.tracer(str(run.path), "controller", "agent", link.host)
        run.reserve(plan.world_size)

    def go(self) -> Outcome:
        """Run to the end."""
        self.selector.register(self.signals, selectors.EVENT_READ, self._signalled)
        self.selector.register(self.pen.told, selectors.EVENT_READ, self._shown)
        for link in self.children:
            self.selector.register(link.stdout, selectors.EVENT_READ, lambda link=link: self._heard(link))
            self.selector.register(link.stderr, selectors.EVENT_READ, lambda link=link: self._complained(link))
            self.flush(link)
        try:
            while self.outcome is None:
                self.turn()
            self._write_outcome(self.outcome)
            self._part()
        finally:
            self._leave()
            self.keyboard.leave()
        self.view.finish(self.outcome)
        try:
            self.pen.close(drop=self.hurry)
        except KeyboardInterrupt:
            pass  # enough shown
        return self.outcome

    # ---- who watches ------------------------------------------------------------------------------------------------

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event down, and show it to who asked for events."""
        record = {"event": kind, **fields}
        self.view.event(record)
        try:
            self.events.append(json.dumps(record) + "\n")
        except OSError as error:
            if not self.events_broken:
                self.events_broken = True
                self.say(f"cannot write {self.run.path}/events.jsonl: {system.reason(error)}; the run goes on")

    def say(self, text: str) -> None:
        """Words for the person."""
        self.view.say(text)

    def begin(self) -> None:
        """The ranks are about to start."""
        self.view.begin(self.facts)

    def _write_outcome(self, outcome: Outcome) -> None:
        try:
            self.run.write_outcome(outcome_as_json(outcome))
        except OSError as error:
            self.say(f"cannot write {self.run.path}/outcome.json: {system.reason(error)}")

    def _signalled(self) -> None:
        for number in os.read(self.signals, 64):
            self.interrupts += number == signal.SIGINT
            if number == signal.SIGWINCH:
                size = terminal_fields(self.plan, size_here({}))
                assert size is not None
                self.tell_all("resize", rows=size["rows"], columns=size["columns"])
            elif number in SIGNALS:
                self.handle(Asked(self.now(), number))
            else:
                self.pass_on(number)

    def _shown(self) -> None:
        """What was shown makes room for more."""
        for link, count in self.pen.reached():
            self.send(link, pack("taken", count=count))

    @property
    def hurry(self) -> bool:
        """The person does not want to wait for the rest of the logs."""
        return self.interrupts > 1

    # ---- agents -----------------------------------------------------------------------------------------------------

    def swept(self, link: Link) -> bool:
        """One that is not an agent yet, perhaps a line of --setup that hangs, reads nothing."""
        assert isinstance(link, ChildLink)
        if link.preface is None or not link.open:
            return False
        link.kill()
        self.killed.add(link.node)
        return True

    def _complained(self, link: ChildLink) -> None:
        if not link.listen():
            self.selector.unregister(link.stderr)

    def _heard(self, link: ChildLink) -> None:
        frames = link.read()
        if frames is not None:
            self.hear(link, frames)
            return
        self.ignore(link.stdout.fileno(), link.stderr.fileno(), link.stdin.fileno())
        if link.node in self.killed:  # it had started nothing
            link.open = False
            self.handle(Swept(self.now(), link.node))
            return
        self.lost(link, link.why_lost(str(self.run.path), self.plan.job.python))

    def _on_hello(self, link: Link, t: float, payload: bytes, version: int, **facts: Any) -> None:
        if version != VERSION:
            wrong = Problem(ProblemKind.PROTOCOL, (link.host,), version=str(version), needed=str(VERSION))
            self.handle(Unable(t, link.node, (wrong,)))
            return
        link.facts.update(facts)
        if link.node == 0:
            self.facts.update(facts)
        self.note("hello", {"t": t, "node": link.node, **facts})
        fields = prepare_fields(self.plan, link.node, link.host, str(self.run.path), self.run.id, self.token)
        fields.update(stdin=self.stdin, trace=trace.wanted())
        self.tell(link.node, "prepare", want=self.view.wants, **fields)
        if link.node == 0:
            self.tell(0, "listen", attempt=0, host=self.address)

    def _on_output(self, link: Link, t: float, payload: bytes, rank: int, stream: str, **more: Any) -> None:
        self.view.output(rank, stream, payload)
        if self._wrote_at is None:
            self.after(QUIET, self._quiet)
        self._wrote_at = self.now()
        self.pen.mark((link, len(payload)))

    def _quiet(self) -> None:
        """Tell the view when nothing has come for a moment."""
        assert self._wrote_at is not None
        left = self._wrote_at + QUIET - self.now()
        if left > 0:
            self.after(left, self._quiet)
        else:
            self._wrote_at = None
            self.view.pause()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        """Let the agents send what is left of the logs, and see them go. From here Ctrl-C ends the showing."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.tell_all("bye", drain=not self.hurry)
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
        end_links(self.children)
        self._end_orphans()
        lost = self.events.close()
        if lost:
            self.say(f"{plural(lost, 'event')} of the run could not be written into {self.run.path}/events.jsonl")
        signal.set_wakeup_fd(-1)
