"""A run that was started, for whoever started it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muster.core.results import SIGTERM, RunResult
from muster.errors import ControlError
from muster.linux import processes
from muster.rundir.run import Run
from muster.ui.view import View

if TYPE_CHECKING:
    from muster.client.attach import AttachedClient


class Views:
    """Several views of one run as one. The first decides which output is wanted.

    One that was added later and fails is shown nothing more: the run goes on. What is wrong with it goes to `warn`.
    """

    def __init__(self, first: View, warn: Callable[[str], object]) -> None:
        self.first, self._warn = first, warn
        self.wants = first.wants
        self._added: list[View] = []

    @property
    def operand(self) -> str:
        """What names the run in commands that are shown."""
        return self.first.operand

    @operand.setter
    def operand(self, operand: str) -> None:
        self.first.operand = operand

    @property
    def put(self) -> Callable[[int, bytes], None]:
        """Writes bytes to a descriptor."""
        return self.first.put

    @put.setter
    def put(self, put: Callable[[int, bytes], None]) -> None:
        for view in (self.first, *self._added):
            view.put = put

    def add(self, view: View) -> None:
        """Show it to this one too, from now on. Any thread may add one."""
        view.put = self.first.put
        self._added.append(view)

    def _each(self, show: Callable[[View], object]) -> None:
        show(self.first)
        for view in list(self._added):
            try:
                show(view)
            except Exception as error:
                self._added.remove(view)
                self._warn(f"a view of the run failed, and is shown no more of it: {processes.reason(error)}")

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The ranks are about to start."""
        self._each(lambda view: view.begin(facts))

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """A rank wrote these bytes."""
        self._each(lambda view: view.output(rank, stream, data))

    def pause(self) -> None:
        """No rank has written for a moment."""
        self._each(lambda view: view.pause())

    def say(self, text: str) -> None:
        """Words for the person."""
        self._each(lambda view: view.say(text))

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened, as it stands in events.jsonl."""
        self._each(lambda view: view.event(event))

    def finish(self, outcome: RunResult) -> None:
        """It is over."""
        self._each(lambda view: view.finish(outcome))


class RunHandle:
    """A run that was started.

    Whoever started it calls `drive` once, in a thread of its choice; `muster.api.start` does so in a new one. All else
    may be called from any thread.
    """

    detached = False
    """It goes on without this process, and `drive` has nothing to do."""
    client: AttachedClient | None = None
    """The connection to its supervisor, if that is another process and this one is the owner."""

    def __init__(self, run: Run, views: Views | None = None):
        self.run, self.views = run, views
        self.outcome: RunResult | None = None
        """How it ended; None as long as that is not known."""
        self._error: BaseException | None = None
        self._over = threading.Event()

    @property
    def id(self) -> str:
        """The id of the run, by which all commands of muster know it."""
        return self.run.id

    def drive(self) -> RunResult | None:
        """Do what the run needs of this process until it is over; None where it is not known how it ended.

        Raises `MusterError` where muster fails.
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
        """End the run in order, as this signal to `muster run` would; returns at once. Once more is to hurry it."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Wait for the end, at most `timeout` seconds; how it ended, or None where that is not known yet.

        Raises what `drive` raised.
        """
        if self._over.wait(timeout) and self._error is not None:
            raise self._error
        return self.outcome

    def result(self) -> RunResult:
        """Wait for the end, and give how it ended: `code` is the exit status. Raises `ControlError` where nobody
        knows."""
        outcome = self.wait()
        if outcome is None:
            from muster.client.reconcile import reconcile  # late: few runs need it

            outcome = reconcile(self.run).outcome
        if outcome is None:
            raise ControlError(f"it is not known how {self.id} ended", f"`muster show {self.run.operand}` tells more")
        return outcome

    def watch(self, view: View) -> None:
        """Have this view shown what happens from now on: words, events, output that the run was started to show.

        Its methods are called in the thread of the run.
        """
        if self.views is None:
            raise ControlError(f"{self.id} goes on by itself", f"watch it by `muster attach {self.run.operand}`")
        self.views.add(view)
