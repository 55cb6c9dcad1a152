"""The handle of a started run, for the program that started it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muster.core.results import SIGTERM, RunResult, RunState
from muster.errors import ControlError
from muster.linux import processes
from muster.rundir.run import Run
from muster.ui.view import View

if TYPE_CHECKING:
    from muster.client.attach import AttachedClient


class Views:
    """Several views of one run, combined into one. The first decides which output is wanted.

    A view that was added later and fails is removed, and the run continues; `warn` is called with the error.
    """

    def __init__(self, first: View, warn: Callable[[str], object]) -> None:
        self.first, self._warn = first, warn
        self.wants = first.wants
        self._added: list[View] = []

    @property
    def operand(self) -> str:
        """The name of the run in displayed commands."""
        return self.first.operand

    @operand.setter
    def operand(self, operand: str) -> None:
        self.first.operand = operand

    @property
    def put(self) -> Callable[[int, bytes], None]:
        """The function that writes bytes to a descriptor."""
        return self.first.put

    @put.setter
    def put(self, put: Callable[[int, bytes], None]) -> None:
        for view in (self.first, *self._added):
            view.put = put

    def add(self, view: View) -> None:
        """Add a view that is shown everything from now on. Thread-safe."""
        view.put = self.first.put
        self._added.append(view)

    def _each(self, show: Callable[[View], object]) -> None:
        show(self.first)
        for view in list(self._added):
            try:
                show(view)
            except Exception as error:
                self._added.remove(view)
                self._warn(f"warning: removed a view of the run that failed: {processes.reason(error)}")

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Show that the ranks are about to start."""
        self._each(lambda view: view.begin(facts))

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Show output of a rank."""
        self._each(lambda view: view.output(rank, stream, data))

    def pause(self) -> None:
        """Flush partial lines, as no rank has written for a moment."""
        self._each(lambda view: view.pause())

    def say(self, text: str) -> None:
        """Show a message for the user."""
        self._each(lambda view: view.say(text))

    def event(self, event: Mapping[str, Any]) -> None:
        """Show an event, as written to events.jsonl."""
        self._each(lambda view: view.event(event))

    def finish(self, outcome: RunResult) -> None:
        """Show the result of the run."""
        self._each(lambda view: view.finish(outcome))


class RunHandle:
    """A run that was started.

    The caller that started it calls `drive` once, in a thread of its choice; `muster.api.start` does so in a new
    thread. Everything else is thread-safe.
    """

    detached = False
    """True if the run continues without this process; `drive` does nothing then."""
    early_state: RunState | None = None
    """The state of a run that has no directory yet; see `later.py`."""
    client: AttachedClient | None = None
    """The connection to the controller, if that is another process and this one is the owner."""

    def __init__(self, run: Run, views: Views | None = None):
        self.run, self.views = run, views
        self.outcome: RunResult | None = None
        """The result; None until it is known."""
        self._error: BaseException | None = None
        self._over = threading.Event()

    @property
    def id(self) -> str:
        """The run id, which all muster commands accept."""
        return self.run.id

    @property
    def over(self) -> bool:
        """Whether `drive` has returned or raised."""
        return self._over.is_set()

    def drive(self) -> RunResult | None:
        """Do the run's work in this process until it has ended; return the result, or None if it is not known.

        Raises `muster.errors.MusterError` if muster fails.
        """
        try:
            self.outcome = self._drive()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._over.set()
        return self.outcome

    def _drive(self) -> RunResult | None:
        raise NotImplementedError

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run as if `muster run` received this signal; return immediately. A second call hurries it."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Wait at most `timeout` seconds (None: no limit) and return the result; None if it is not known yet.

        Raises what `drive` raised.
        """
        if self._over.wait(timeout) and self._error is not None:
            raise self._error
        return self.outcome

    def result(self) -> RunResult:
        """Wait for the run to end and return its result, whose `code` is the exit code.

        Raises `muster.errors.ControlError` if the result is not known.
        """
        outcome = self.wait()
        if outcome is None:
            from muster.client.reconcile import reconcile  # imported late: few runs need it

            outcome = reconcile(self.run).outcome
        if outcome is None:
            raise ControlError(f"the outcome of {self.id} is unknown", f"see its state: muster show {self.run.operand}")
        return outcome

    def watch(self, view: View) -> None:
        """Show `view` everything from now on: messages, events, and the output that the run was started to show.

        Its methods are called in the thread of the run. Raises `muster.errors.ControlError` for a detached run.
        """
        if self.views is None:
            raise ControlError(f"{self.id} is detached", f"attach to it: muster attach {self.run.operand}")
        self.views.add(view)
