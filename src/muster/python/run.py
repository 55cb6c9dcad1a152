"""A run for a Python program: its state, results, failures and logs, and the means to end it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from muster import api
from muster.client.client import Client, ask
from muster.client.follow import Follower
from muster.client.follow import wait as wait_for
from muster.client.hangs import look_at
from muster.client.reconcile import cancel, may_still_run, reconcile
from muster.core.controller_config import RECORD
from muster.core.results import SIGINT, RunResult, RunState
from muster.errors import ControlError, InvalidRequest, RemoteError, Unreachable
from muster.linux import processes
from muster.python import failures, log_lines
from muster.python.entry import entry
from muster.runner.handle import RunHandle
from muster.ui.hang_text import evidence_in_words, verdict_in_words

T = TypeVar("T")

_ENDS_WITHIN = 90.0
"""Seconds for a run to end after it was asked to, in addition to what the ranks may take."""
_TICK = 0.5
"""Seconds between chances for Ctrl-C while this program waits for a run to end."""


class Why(NamedTuple):
    """Why the ranks of a run wait. As a string it is the sentence that `muster why` prints first."""

    sentence: str
    ranks: tuple[int, ...]
    """The ranks that keep the others waiting; empty if none does, or the cause is not known."""
    evidence: tuple[str, ...]
    """What each rank is doing: a line for all ranks that do the same."""
    live: bool
    """False if the run has ended."""

    def __str__(self) -> str:
        return self.sentence


class Run(Generic[T]):
    """A run that `muster.submit` started, or that `muster.attach` found. All methods may be called in any thread."""

    def __init__(self, handle: RunHandle) -> None:
        self._handle = handle
        self._run = handle.run

    def __repr__(self) -> str:
        return f"<muster.Run {self.id}>"

    @property
    def id(self) -> str:
        """The id of the run, which all muster commands accept."""
        return self._handle.id

    @property
    def path(self) -> str:
        """The run directory, with the logs."""
        return str(self._run.path)

    @property
    def survives(self) -> bool:
        """Whether the run continues when this program ends: with `detach=True`, and jobs of a scheduler."""
        return self._handle.detached

    # ---- the end ----------------------------------------------------------------------------------------------------

    def status(self) -> RunState:
        """Return the current state, such as `running`, `pending`, `succeeded` or `failed`; it equals that string."""
        if self._handle.outcome is not None:
            return self._handle.outcome.state
        if self._handle.early_state is not None:
            return self._handle.early_state
        return reconcile(self._run).state

    def done(self) -> bool:
        """Return whether the run has ended."""
        return not self.status().lives

    @entry
    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Wait at most `timeout` seconds (None: no limit) for the end; return how it ended, or None if it has not.

        A run that failed is a result too: `state`, `code`, `root_cause`, `exits`. See also `results`.
        """
        found = self._handle.wait(timeout)
        if found is None and not self._handle.detached and self._handle.over:
            return self._handle.result()  # the connection was lost: raises if the result is not known
        return found

    @entry
    def results(self, timeout: float | None = None) -> list[T]:
        """Wait for the end, and return what the function returned on each rank, by rank; None for ranks of a script.

        Large arrays and tensors are mapped from the files of the run, and read when they are used. Tensors are on the
        CPU.

        Raises the exception of the rank that failed first, caused by a `RemoteError` with its traceback; `RemoteError`
        itself if that rank raised none; and `TimeoutError` if the run has not ended in time.
        """
        return failures.results_of(self._run, self._ended(timeout))

    @entry
    def result(self, timeout: float | None = None) -> T:
        """Wait for the end, and return what the function returned on rank 0. Raises like `results`."""
        return self.results(timeout)[0]

    @entry
    def results_by_role(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Wait for the end, and return what the ranks of each role returned, by the name of the role.

        A run with one program has one role, `default` unless it was named. None for ranks of a script, and for those
        that were terminated because the main role had succeeded. Raises like `results`.
        """
        return failures.results_by_role(self._run, self._ended(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return what `results` would raise; None if the run succeeded."""
        outcome = self._ended(timeout)
        if outcome.state is RunState.SUCCEEDED:
            return None
        try:
            failures.raise_failure(self._run, outcome)
        except BaseException as error:
            return error.with_traceback(None)
        return None

    @property
    def failures(self) -> list[RemoteError]:
        """The failures of all ranks that failed by themselves, the first one first; empty until the run has ended."""
        outcome = self.wait(0)
        if outcome is None:
            return []
        failures.fetch(self._run)
        return failures.failures_of(self._run, outcome)

    def _ended(self, timeout: float | None) -> RunResult:
        outcome = self.wait(timeout)
        if outcome is None and self._handle.early_state is not None:
            raise TimeoutError(f"{self.id} has not been started" + (f" after {timeout:g}s" if timeout else ""))
        if outcome is None:
            found = reconcile(self._run)
            if not found.state.lives:
                why = f": {found.why}" if found.why else ""
                raise ControlError(f"the result of {self.id} is not known: it is {found.state}{why}", None)
            raise TimeoutError(f"{self.id} is still {found.state}" + (f" after {timeout:g}s" if timeout else ""))
        failures.fetch(self._run)
        return outcome

    def __await__(self) -> Generator[Any, None, list[T]]:
        """Wait for `results` without blocking the event loop. A cancelled wait ends the run, unless it is detached."""
        return self._results_of_thread().__await__()

    async def _results_of_thread(self) -> list[T]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[T]] = loop.create_future()

        def tell(found: list[T] | None, error: BaseException | None) -> None:
            if done.done():
                return
            if isinstance(error, StopIteration):  # a future refuses it, and nobody would wake up
                done.set_exception(error.__cause__ or RuntimeError(f"a rank raised {error!r}"))
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(found or [])

        def work() -> None:
            found, failed = None, None
            try:
                found = self.results()
            except BaseException as error:
                failed = error
            try:
                loop.call_soon_threadsafe(tell, found, failed)
            except RuntimeError:  # the loop was closed meanwhile
                pass

        processes.start_thread(work)
        try:
            return await done
        except asyncio.CancelledError:
            if not self._handle.detached:
                self._handle.stop()
            raise

    # ---- a look inside ----------------------------------------------------------------------------------------------

    def logs(
        self, rank: int | Sequence[int] | None = None, follow: bool = False, stream: str | None = None
    ) -> Iterator[str]:
        """Yield the lines that ranks have written, in the order of writing, without line ends.

        `rank`: only this rank, or these; lines of several ranks begin with `[RANK] `. `stream`: only `out` or `err`.
        `follow`: wait for more lines until the run ends.
        """
        if self._handle.early_state is not None:
            raise InvalidRequest(f"{self.id} has not been started", None)
        ranks = None if rank is None else [rank] if isinstance(rank, int) else list(rank)
        return log_lines.read(self._run, ranks, follow, stream)

    @entry
    def stacks(self) -> dict[int, str]:
        """Return the current Python stack of each running rank, without stopping the ranks."""
        if self.status() is not RunState.RUNNING:
            raise InvalidRequest(
                f"{self.id} has no running ranks", f"see how it ended: muster show {self._run.operand}"
            )
        answer = ask(self._run, "stacks", ranks=None)
        return {
            int(rank): str(text)
            for rank, text in sorted(answer.get("texts", {}).items(), key=lambda item: int(item[0]))
        }

    @entry
    def why(self) -> Why:
        """Return which ranks keep the others waiting: now, or for a run that has ended, when its last record was made.

        Raises `muster.InvalidRequest` if the run is pending, or has ended without such a record.
        """
        look = look_at(self._run)
        evidence = tuple(evidence_in_words(look.verdict, look.hosts))
        return Why(verdict_in_words(look.verdict, look.hosts), look.verdict.odd, evidence, look.live)

    @entry
    def kill(self) -> None:
        """Terminate the ranks as `muster kill` does, and wait until the run has ended. Does nothing if it has."""
        state, scheduled = self.status(), self._run.scheduled
        if not state.lives:
            return
        if not self._handle.detached:
            self._handle.stop()
            self._handle.wait()
            return
        in_queue = scheduled is not None and not scheduled.allocated and self._run.read(RECORD) is None
        if state is RunState.PENDING or in_queue:
            cancel(self._run)  # there is no controller yet
        else:
            try:
                ask(self._run, "kill", by="")
            except (ControlError, Unreachable):
                if not may_still_run(self._run, reconcile(self._run).state):
                    return
                if scheduled is None or scheduled.allocated:
                    raise
                cancel(self._run)  # the controller is just starting, or ending
        with Client(self._run) as client:
            grace = float(self._run.job.get("job", {}).get("grace") or 0)
            wait_for(Follower(self._run, client), grace + _ENDS_WITHIN)

    def end_with(self, error: BaseException) -> None:
        """End the run because this exception leaves the caller: after Ctrl-C as at a terminal, a second one hurries."""
        if self._handle.detached:
            self.kill()
            return
        while not self._handle.over:
            self._handle.stop(SIGINT if isinstance(error, KeyboardInterrupt) else 15)
            try:
                while not self._handle.over:
                    self._handle.wait(_TICK)
            except KeyboardInterrupt:
                continue


@entry
def attach(which: str = "last", *, run_dir: str | None = None) -> Run[Any]:
    """Return an existing run by its id, its name, a prefix of its id, or `last`: from any program of this user.

    `run_dir`: the directory that contains all runs, if it is not MUSTER_HOME or ~/.muster.

    Raises `muster.errors.InvalidRequest` if no run matches, or the prefix is ambiguous.
    """
    return Run(api.find(which, run_dir=run_dir))
