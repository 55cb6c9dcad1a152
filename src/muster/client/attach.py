"""Watch a run whose controller is elsewhere: show it, mirror unshared files, reconnect when cut off."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from muster.client.compat import HINT, UNTOLD, lacks, version_of
from muster.client.connection import HEARD, Connection
from muster.client.stdin import Stdin
from muster.controller.agent_fields import terminal_fields
from muster.controller.connections import SIGNALS, ProcessConnection
from muster.controller.unsent_output import show_rest
from muster.core.json_checks import NOT_UNDERSTOOD, Malformed, table, whole
from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.model import Plan
from muster.core.results import RunResult
from muster.errors import MusterError
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.linux.writer import Writer
from muster.protocol.frames import VERSION, Dispatcher, handlers
from muster.rundir.run import Run
from muster.rundir.writer import RunWriter
from muster.ui.keyboard import Keyboard
from muster.ui.output_writer import OutputWriter, write
from muster.ui.terminal import QUIET, size_here
from muster.ui.text import outcome_as_json
from muster.ui.view import View

_PAUSE = 1.0
"""Seconds between attempts to reconnect."""
_LOOK = 5.0
"""Seconds between checks whether muster is in the foreground of its terminal again."""


class AttachedClient:
    """A terminal attached to a run elsewhere.

    `operand` is the run's name in displayed commands. `reach` makes a new connection to the controller. `show` makes a
    view once the plan is known. `owner`: the run ends with this terminal, and Ctrl-C interrupts it; otherwise Ctrl-C
    only detaches. `keep`: the local run directory, if it is not the controller's own. `files` updates the local run
    directory at the end with what was not sent, and returns it; None if the host is unreachable. `lives` is called when
    a connection broke, and returns whether there is still something to reconnect to. `patience`: seconds to try to
    reconnect. `stdin`: descriptor of the input for the rank that reads the owner's stdin. `offsets`, `events`: the
    output and the number of events that were shown already.
    """

    def __init__(
        self,
        loop: EventLoop,
        signals: CapturedSignals,
        host: str,
        operand: str,
        reach: Callable[[], ProcessConnection],
        show: Callable[[Plan, str], View],
        owner: bool,
        patience: float,
        keep: Run | None = None,
        tail: int | None = None,
        view: View | None = None,
        files: Callable[[], Run | None] = lambda: None,
        lives: Callable[[], bool] = lambda: True,
        stdin: int | None = None,
        offsets: dict[str, int] | None = None,
        events: int = 0,
        told: Collection[str] = (),
    ):
        self.loop, self.signals = loop, signals
        self.host, self.operand, self.reach, self.show = host, operand, reach, show
        self.owner, self.patience = owner, patience
        self.keep, self.tail = keep, tail
        self.scribe = RunWriter(Writer(loop), keep, self._words) if keep is not None else None
        self.view, self.files = view, files
        self.pen = OutputWriter(Writer(loop))
        if view is not None:
            view.put = self.pen.put
        self.connection: Connection | None = None
        self.version: int | None = None
        """Protocol version of the controller; None until it is known."""
        self._dispatch = Dispatcher(
            handlers(self, "_on_"),
            lambda kind, fields: HEARD[kind].fitting(fields),
            lambda text: self._words(f"{host}: {text}"),
        )
        self.offsets: dict[str, int] = {} if offsets is None else offsets
        self.events = events
        """Number of events seen."""
        self.told = told
        """Messages that were shown already."""
        self.lives = lives
        self.plan: Plan | None = None
        self.outcome: RunResult | None = None
        self.incomplete = False
        """True if output may be missing: a connection broke, or agents had exited before they had sent all of it."""
        self.left = self.gone = False
        """`left`: the user stopped watching. `gone`: there is no controller, and the result is not known."""
        self.interrupts = 0
        self.stops: list[int] = []
        """The signals that the user has sent to end the run: a controller that is killed may not have recorded them."""
        self.enough = False
        """Ctrl-C was pressed after the end of the run: stop showing output."""
        self.quiet_at: float | None = None
        """Monotonic time after which ranks count as silent, unless one writes before."""
        self.cut_off: float | None = None
        self.next_trial = 0.0
        self.said = False
        self.stdin: Stdin | None = None
        self._stdin_fd = stdin
        self.keyboard = Keyboard(stdin) if stdin is not None else None

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def go(self, link: ProcessConnection | None = None) -> RunResult | None:
        """Watch until the end and return the result; None if the user left, or the result is not known.

        Raises OSError if no more threads can be started.
        """
        self.pen.writer.start()
        if self.scribe is not None:
            self.scribe.writer.start()
        self.signals.handle(self._signalled)
        if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            self.signals.capture(signal.SIGTSTP)
        try:
            if link is not None:
                self.version = VERSION  # it was started from here
            self._connect(link or self.reach())
            while not self.over:
                self._turn()
        finally:
            self._disconnect()
            if self.scribe is not None:
                self.scribe.close()
            if self.keyboard is not None:
                self.keyboard.leave()
            self.signals.release(signal.SIGTSTP)
        if self.outcome is not None and self.view is not None:
            self._catch_up(self.view)
            self.view.finish(self.outcome)
        self.pen.close(lambda: self.enough or self.interrupts > 1 or self.left)
        if self.view is not None:
            self.view.put = write  # later output goes directly to the descriptors, not to the closed writer
        return self.outcome

    @property
    def over(self) -> bool:
        """Whether there is nothing left to watch."""
        return self.outcome is not None or self.left or self.gone

    def _catch_up(self, view: View) -> None:
        """Show output that was written but never sent, or say that some may be missing."""
        if not self.incomplete or self.interrupts > 1 or not view.wants:
            return
        try:
            run = self.files()
        except (OSError, MusterError):
            run = None
        if run is not None:
            show_rest(run, view, self.offsets, self.tail)
        else:
            command = f"muster logs {self.operand}"
            view.say(f"warning: cannot reach {self.host}: output may be missing here; `{command}` shows all of it")

    def _turn(self) -> None:
        now = time.monotonic()
        if self.connection is None and now >= self.next_trial:
            self.next_trial = now + _PAUSE
            self._connect(self.reach())
        if self.stdin is not None:
            self.stdin.look()
        wait = _LOOK if self.connection is not None else self.next_trial - time.monotonic()
        if self.quiet_at is not None:
            wait = min(wait, self.quiet_at - time.monotonic())
        self.loop.run_once(wait)
        if self.quiet_at is not None and time.monotonic() >= self.quiet_at and self.view is not None:
            self.quiet_at = None
            self.view.pause()
        if self.cut_off is not None and not self.gone and not self.lives():
            self.gone = True
        elif self.cut_off is not None and time.monotonic() - self.cut_off > self.patience:
            self._words(f"error: {self.host} was unreachable for {self.patience:.0f}s; the state of the run is unknown")
            self.gone = True

    def _words(self, text: str) -> None:
        if self.view is not None:
            self.view.say(text)
        else:
            self.pen.put(2, f"muster: {text}\n".encode())

    # ---- the connection ---------------------------------------------------------------------------------------------

    def _connect(self, link: ProcessConnection) -> None:
        self.connection = Connection(self.loop, link, self._heard, self._lost, self._begin)
        self.connection.start()

    def _begin(self) -> None:
        """Send the subscription, once the protocol version of the controller is known."""
        if self.version is None:
            self._tell("state", version=VERSION)  # which every version answers
        else:
            self._attach(self.version)

    def _attach(self, version: int) -> None:
        """Subscribe to the run; what this client has seen already is not sent again."""
        if why := lacks(version):
            self._refuse(why)
            return
        want = True if self.keep is not None or self.view is None else self.view.wants
        seen: dict[str, Any] = {"offsets": self.offsets, "tail": self.tail, "events": self.events}
        if self.stops:
            seen["stops"] = self.stops
        assert self.connection is not None
        self.connection.version = version
        self._tell("attach", want=want, owner=self.owner, version=VERSION, **seen)
        self.connection.keep_alive()
        if self.cut_off is not None and self.said:
            self._words(f"reconnected after {time.monotonic() - self.cut_off:.0f}s")
        self.cut_off, self.said = None, False

    def _disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close(at_once=self.outcome is None)
            self.connection = None

    def _tell(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        if self.connection is not None:
            self.connection.tell(kind, payload, **fields)

    def _heard(self, fields: dict[str, Any], payload: bytes) -> None:
        if self.gone:
            return
        try:
            self._dispatch(fields, payload)
        except NOT_UNDERSTOOD as error:
            # a hostile host, or another version of muster: nothing from it is written or shown
            said = f"error: invalid message `{fields['kind']}` from {self.host}: {error!r}"
            version = fields.get("version", self.version)
            if version not in (VERSION, None):
                said += f"; its protocol version is {version}, this muster has {VERSION}\nhint: {HINT}"
            self._words(said)
            self.gone = True

    def _lost(self) -> None:
        """Handle the end of the connection: reconnect."""
        self.connection = None
        self.incomplete = True
        now = time.monotonic()
        if not self.lives():
            self.gone = True
        elif self.cut_off is None:
            self.cut_off = now
            self.next_trial = now  # perhaps only this connection has ended
        elif not self.said:
            self.said = True
            self._words(f"connection to {self.host} lost; reconnecting for up to {self.patience:.0f}s")

    # ---- messages of the controller ---------------------------------------------------------------------------------

    def _on_run(self, payload: bytes, id: str, phase: str, plan: Mapping[str, Any], version: int = UNTOLD) -> None:
        if why := lacks(version):
            self._refuse(why)
            return
        made = plan_from_json(plan)
        if made.job.terminal is not None and self.owner:
            self.signals.capture(signal.SIGWINCH)
            self.plan = made
            self._resized()
        self.incomplete = self.incomplete or phase == "over"
        if self.view is None:
            self.view = self.show(made, id)
            self.view.put = self.pen.put
        if self.stdin is not None:
            self.stdin.again()
        elif made.reader is not None and self._stdin_fd is not None:
            self.stdin = Stdin(
                self.loop, lambda data, at, end: self._tell("stdin", data, at=at, end=end), self._stdin_fd
            )

    def _on_stdin_taken(self, payload: bytes, upto: int) -> None:
        if self.stdin is not None:
            self.stdin.taken(whole(upto))

    def _on_event(self, payload: bytes, number: int) -> None:
        if number <= self.events or self.view is None:
            return
        record = table(json.loads(payload))
        self.events = number
        if self.scribe is not None:
            self.scribe.append("events.jsonl", payload.decode() + "\n")
        self.view.event(record)
        if record["event"] == "say":
            if record["text"] not in self.told:
                self.view.say(record["text"])
        elif record["event"] == "begin":
            self.view.begin(record["facts"])

    def _on_output(self, payload: bytes, node: int, rank: int, stream: str, attempt: int, offset: int) -> None:
        if stream not in ("out", "err") or self.view is None:
            raise Malformed(f"output of {stream!r}")
        attempt, rank, offset = whole(attempt), whole(rank), whole(offset)
        self.offsets[f"{attempt}/{rank}.{stream}"] = offset + len(payload)
        if self.scribe is not None and self.keep is not None:
            self.scribe.put(f"attempt_{attempt}/{self.keep.log(attempt, rank, stream).name}", offset, payload)
        if self.view.wants is True or (self.view.wants and rank in self.view.wants):
            self.view.output(rank, stream, payload)
            self.quiet_at = time.monotonic() + QUIET
        # acknowledge output once it is shown, so that more is sent
        self.pen.writer.then(lambda: self._tell("credit", node=node, count=len(payload)))

    def _on_finished(self, payload: bytes, outcome: Mapping[str, Any], complete: bool = True) -> None:
        self.outcome = outcome_from_json(outcome)
        self.incomplete = self.incomplete or not complete
        if self.scribe is not None and self.keep is not None:
            keep, data = self.keep, outcome_as_json(self.outcome)
            self.scribe.do(lambda: keep.write("outcome.json", data))

    def _refuse(self, why: str) -> None:
        self._words(f"error: cannot attach to the controller on {self.host}: {why}\nhint: {HINT}")
        self.gone = True

    def _on_answer(self, payload: bytes, **how: Any) -> None:
        """The answer to `state`."""
        if self.version is None:
            self.version = version_of(how)
            self._attach(self.version)

    def _on_unknown(self, payload: bytes, what: str, version: int) -> None:
        """Ignore that a controller of another version skipped a message; the run and its display continue."""
        if what == "attach":
            self._refuse(f"its protocol version is {version}, which has no `{what}`")

    def _on_no_controller(self, payload: bytes, there: bool = False) -> None:
        """Handle that nobody supervises the run any more."""
        self.gone = True

    # ---- the user ---------------------------------------------------------------------------------------------------

    def stop(self, number: int) -> None:
        """Stop the run as if its owner received this signal. Thread-safe."""
        self.loop.call_soon_threadsafe(lambda: self._signalled([number]))

    def _signalled(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number == signal.SIGTSTP:
                self._pause()
            elif number == signal.SIGWINCH:
                self._resized()
            elif number in SIGNALS and self.over:
                self.enough = self.enough or number == signal.SIGINT
            elif number in SIGNALS:
                self.interrupts += 1
                if not self.owner:
                    self.left = True
                elif self.connection is None and self.interrupts > 1:
                    self._words(f"cannot reach {self.host}; it terminates the run when the lease expires (--lease)")
                    self.gone = True
                else:
                    self.stops.append(number)
                    self._tell("stop", number=number)
            else:
                self._tell("forward_signal", number=number)

    def _resized(self) -> None:
        """Pass the size of this terminal on to ranks with a pseudo-terminal."""
        size = terminal_fields(self.plan, size_here({}, default=False)) if self.plan is not None else None
        if size is not None and self.owner:
            self._tell("resize", rows=size["rows"], columns=size["columns"])

    def _pause(self) -> None:
        """Handle Ctrl-Z: tell the controller that this terminal still exists, then stop."""
        self._tell("suspend")
        deadline = time.monotonic() + 1.0
        while self.connection is not None and not self.connection.idle and time.monotonic() < deadline:
            self.connection.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.connection is not None:  # continues here after SIGCONT
            self.connection.keep_alive()
