"""The controller of a run on this machine, in the command's own process: the ranks end when it does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from muster.controller.agent_fields import terminal_fields
from muster.controller.bootstrap import Bootstrap, OwnMachine, RunPlace, need_of
from muster.controller.connections import SIGNALS, AgentConnection, Agents, ProcessConnection, end_links
from muster.controller.controller import Controller
from muster.controller.unsent_output import show_rest
from muster.core import rendezvous
from muster.core.events import CleanedUp, Configured, StartFailed, StopRequested
from muster.core.model import Plan
from muster.core.plurals import plural
from muster.core.results import Problem, ProblemKind, RunResult
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.linux.writer import Writer
from muster.notification import failure_in_words, notify
from muster.protocol import trace
from muster.protocol.frames import VERSION, encode_frame
from muster.protocol.local_sockets import new_token
from muster.report import write_report
from muster.rundir.run import Run
from muster.rundir.writer import RunWriter
from muster.runtimes import runtime
from muster.ui.keyboard import Keyboard
from muster.ui.output_writer import OutputWriter
from muster.ui.terminal import QUIET, size_here
from muster.ui.text import outcome_as_json
from muster.ui.view import View

_LOOK = 0.02
"""Seconds between checks whether the `--on-end` command has exited."""
_DYING = 20.0
"""Seconds for ranks to be killed by the kernel after their agent was."""


class ForegroundController(Controller):
    """The controller of one run, and the user watching it."""

    def __init__(
        self,
        loop: EventLoop,
        signals: CapturedSignals,
        plan: Plan,
        run: Run,
        agents: Agents,
        view: View,
        began: float,
        keyboard: Keyboard | None = None,
    ):
        bootstrap = Bootstrap(OwnMachine(agents.connections), need_of(plan.job))
        where = RunPlace(run.id, str(run.path), new_token())
        reads = agents.stdin is not None
        config, self.parts = bootstrap.configure(plan, where, rendezvous.LOOPBACK, began, owned=True, reads=reads)
        super().__init__(loop, plan, run, agents.connections, config)
        self.children: list[ProcessConnection] = agents.connections
        self.signals, self.view, self.keyboard = signals, view, keyboard
        self.stdin = agents.stdin
        self.pen = OutputWriter(Writer(loop))
        view.put = self.pen.put
        self.killed: set[int] = set()
        """Nodes whose agent was killed before it had started, because the run was to end."""
        self._wrote_at: float | None = None
        """Time of the ranks' last output, unless it was long ago."""
        if plan.job.terminal is not None:
            signals.capture(signal.SIGWINCH)
        self.interrupts = 0
        """Number of times that Ctrl-C was pressed."""
        for link in self.children:
            link.channel.tracer = trace.tracer(str(run.path), "controller", "agent", link.host)
        self.offsets: dict[str, int] = {}
        """How much of each log was shown."""
        self.incomplete = False
        """True if an agent was lost, which may not have sent all output."""
        self._rank_pids: dict[str, int] = {}
        self.enough = False
        """Ctrl-C was pressed after the end of the run: stop showing output."""
        self.scribe = RunWriter(Writer(loop), run, self.notify, "events.jsonl")
        self.scribe.do(lambda: run.reserve(plan.world_size))

    def start_writing(self) -> None:
        """Start the writer threads. Raises OSError if no more threads can be started."""
        self.scribe.writer.start()
        self.pen.writer.start()

    def go(self) -> RunResult:
        """Run to the end and return the result."""
        self.signals.handle(self._signalled)
        for link in self.children:
            self.loop.add_reader(link.stdout, partial(self._heard, link))
            self.loop.add_reader(link.stderr, partial(self._complained, link))
            self.flush(link)
        try:
            while self.outcome is None:
                self.run_once()
            write = partial(self.run.write_outcome, outcome_as_json(self.outcome))
            self.scribe.writer.do(write, self._cannot_write_outcome)
            self._part()
        finally:
            self._leave()
            if self.keyboard is not None:
                self.keyboard.leave()
        if self.incomplete and not self.hurry:
            self._show_unsent()
        self.view.finish(self.outcome)
        if why := write_report(
            self.run, self.outcome, {**os.environ, **self.plan.job.env}
        ):  # while the terminal shows the result
            self.view.say(why)
        self._tell_of_end(self.outcome)
        self.pen.close(lambda: self.hurry)
        return self.outcome

    # ---- views ------------------------------------------------------------------------------------------------------

    def _show_unsent(self) -> None:
        """Show what ranks have written and their agent did not send: it was killed.

        The kernel kills them as well, but a moment after this process sees the end of the agent: what they write until
        then is in their logs.
        """
        processes.wait_for_exits(self._rank_pids.values(), _DYING)
        show_rest(self.run, self.view, self.offsets)

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event to events.jsonl, and pass it to the view."""
        if kind == "pids":
            self._rank_pids.update(fields["pids"])
        record = {"event": kind, **fields}
        self.view.event(record)
        self.scribe.append("events.jsonl", json.dumps(record) + "\n")

    def keep_file(self, name: str, data: bytes) -> None:
        """Write a file of the run directory."""
        self.scribe.replace(name, data)

    def notify(self, text: str) -> None:
        """Show a message to the user."""
        self.view.say(text)

    def begin(self) -> None:
        """Show that the ranks are about to start."""
        self.view.begin(self.facts)

    def _cannot_write_outcome(self, error: OSError) -> None:
        self.notify(f"warning: cannot write {self.run.path}/outcome.json: {processes.reason(error)}")

    def stop(self, number: int) -> None:
        """Stop the run as this signal would. Thread-safe."""
        self.loop.call_soon_threadsafe(lambda: self._signalled([number]))

    def _signalled(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.interrupts += number == signal.SIGINT
            if self.outcome is not None:
                self.enough = self.enough or number == signal.SIGINT
            elif number == signal.SIGWINCH:
                size = terminal_fields(self.plan, size_here({}))
                assert size is not None
                self.broadcast("resize", rows=size["rows"], columns=size["columns"])
            elif number in SIGNALS:
                self.handle(StopRequested(self.now(), number))
            else:
                self.pass_on(number)

    @property
    def hurry(self) -> bool:
        """Whether the user does not want to wait for the rest of the logs."""
        return self.enough or self.interrupts > 1

    # ---- agents -----------------------------------------------------------------------------------------------------

    def swept(self, link: AgentConnection) -> bool:
        """Kill what is not an agent yet, perhaps a line of --setup that hangs, and reads no messages."""
        assert isinstance(link, ProcessConnection)
        if link.banner is None or not link.open:
            return False
        link.kill()
        self.killed.add(link.node)
        return True

    def _complained(self, link: ProcessConnection) -> None:
        if not link.drain_stderr():
            self.loop.remove_reader(link.stderr)

    def _heard(self, link: ProcessConnection) -> None:
        frames = link.read()
        if frames is not None:
            self.receive(link, frames)
            return
        self.loop.remove(link.stdout, link.stderr, link.stdin)
        if link.node in self.killed:  # it had not started anything
            link.open = False
            self.handle(CleanedUp(self.now(), link.node))
            return
        job = self.plan.job
        image = job.runtime_value if runtime(job.runtime).has_image else ""
        self.lost(link, link.explain_exit(str(self.run.path), job.python, image))

    def _on_hello(self, link: AgentConnection, t: float, payload: bytes, version: int, **facts: Any) -> None:
        if version != VERSION:
            wrong = Problem(ProblemKind.PROTOCOL, (link.host,), version=str(version), needed=str(VERSION))
            self.handle(StartFailed(t, link.node, (wrong,)))
            return
        link.facts.update(facts)
        if link.node == 0:
            self.facts.update(facts)
        self.record("hello", {"t": t, "node": link.node, **facts})
        self.send_message(link.node, "configure", want=self.view.wants, stdin=self.stdin, **self.parts[link.node])
        if link.node == 0:
            self.handle(Configured(self.now()))

    def lost(self, link: AgentConnection, why: str) -> None:
        """Handle that an agent is gone for good."""
        self.incomplete = True
        super().lost(link, why)

    def _on_output(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        rank: int,
        stream: str,
        attempt: int,
        offset: int,
        **more: Any,
    ) -> None:
        self.offsets[f"{attempt}/{rank}.{stream}"] = offset + len(payload)
        self.view.output(rank, stream, payload)
        if self._wrote_at is None:
            self.loop.call_later(QUIET, self._quiet)
        self._wrote_at = self.now()
        # acknowledge output once it is shown, so that more is sent
        self.pen.writer.then(partial(self.send_frames, link, encode_frame("credit", count=len(payload))))

    def _quiet(self) -> None:
        """Notify the view when no output has come for a moment."""
        assert self._wrote_at is not None
        left = self._wrote_at + QUIET - self.now()
        if left > 0:
            self.loop.call_later(left, self._quiet)
        else:
            self._wrote_at = None
            self.view.pause()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        """Wait for the agents to send the rest of the logs and exit. From here on, Ctrl-C stops showing output."""
        self.broadcast("bye", drain=not self.hurry)
        while any(link.open for link in self.links) and not self.enough:
            self.loop.run_once()

    def _tell_of_end(self, outcome: RunResult) -> None:
        """Run the `--on-end` command while Ctrl-C still works: then it goes on without this process."""
        notification = notify(self.run, outcome.state, outcome)
        if notification is None:
            return
        while not notification.ended and not self.enough:
            self.loop.call_later(_LOOK, lambda: None)
            self.loop.run_once()
        if not self.enough and (why := failure_in_words(self.run)):
            self.view.say(f"warning: {why}")

    def _leave(self) -> None:
        """Close everything, and leave no process behind."""
        for link in self.children:
            self.loop.remove(link.stdin, link.stdout, link.stderr)
            link.open = False
        end_links(self.children)
        lost = self.scribe.close()
        if lost:
            self.notify(f"warning: cannot write {plural(lost, 'event')} to {self.run.path}/events.jsonl")
