"""A `concurrent.futures.Executor` whose calls are runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from weakref import WeakKeyDictionary

from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.python import starting, submission
from muster.python.entry import entry
from muster.python.run import Run
from muster.python.splitting import OPTIONS, OWN, SEVERAL, split
from muster.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Unpack

    from muster.python.signatures import RunKeywords

    P = ParamSpec("P")

T = TypeVar("T")

_submit = entry(submission.submit)

_AT_ONCE = 16
"""Jobs that are ended at the same time."""

_MOST = 1024
"""Threads that wait for jobs of a scheduler: more calls wait for a thread."""


class Executor(futures.Executor):
    """Runs each submitted call as a run of its own, with the options given here.

        with muster.Executor(slurm=True, nnodes=2, nproc_per_node=8, time="1:00:00") as executor:
            losses = [future.result() for future in [executor.submit(train, lr) for lr in (0.1, 0.01)]]

    The result of a call is what the function returned on rank 0; `executor.run_of(future).results()` has those of all
    ranks. `max_workers`: the number of runs at the same time; the default is one, and no limit for jobs of a scheduler,
    which has a queue itself. Leaving the block waits for all calls; an exception in it ends the runs and cancels calls
    that have not begun.
    """

    def __init__(self, max_workers: int | None = None, **options: Unpack[RunKeywords]) -> None:
        for name in options:
            if name in (*SEVERAL, "max_parallel"):
                hint = "max_workers" if name == "max_parallel" else "executor.map_array, or muster.submit"
                raise InvalidRequest(f"{name}= is no option of an Executor: each call is one run", f"use {hint}")
            if name not in OPTIONS and name not in OWN:
                hint = did_you_mean(name, OPTIONS) or f"pass arguments to the call: executor.submit(train, {name}=…)"
                raise InvalidRequest(f"unknown option: {name}", hint)
        split(print, (), {"args": (), **options})  # raises for wrong options now
        self._options: dict[str, Any] = dict(options)
        scheduled = any(self._options.get(name) for name in ("scheduler", *SCHEDULERS))
        self._most = max_workers
        self._pool = ThreadPoolExecutor(max_workers or (_MOST if scheduled else 1), thread_name_prefix="muster")
        self._arrays: ThreadPoolExecutor | None = None
        self._closed = False
        self._runs: WeakKeyDictionary[futures.Future[Any], Run[Any]] = WeakKeyDictionary()
        self._known = threading.Condition()
        self._waiting: set[futures.Future[Any]] = set()
        self._left_by: BaseException | None = None
        """The exception that has left the block: it ends the runs."""

    def __repr__(self) -> str:
        options = "".join(f" {name}={value!r}" for name, value in self._options.items())
        return f"<muster.Executor{options}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Start a run that calls the function with these arguments on each rank; return the future of its result."""
        future: futures.Future[T] = futures.Future()
        keywords = {"args": args, "kwargs": kwargs, **self._options}
        split(fn, (), keywords)  # raises for a wrong call now, not in the future
        self._waiting.add(future)
        self._pool.submit(self._work, future, fn, keywords)
        return future

    def map_array(self, fn: Callable[..., T], /, *iterables: Iterable[Any]) -> list[futures.Future[T]]:
        """Start a run for each element of the iterables, as `map` pairs them; return their futures, in this order.

        At most `max_workers` runs at a time: one by default, and no limit for a scheduler, where they are one job
        array. All calls are checked before the first run is started.
        """
        calls = list(zip(*iterables))
        for args in calls:
            split(fn, (), {"args": args, **self._options})
        if not calls or not starting.is_queued(self._options):
            return [self.submit(fn, *args) for args in calls]
        if self._closed:  # the futures could not be waited for, and the jobs would be forgotten
            raise RuntimeError("cannot schedule new futures after shutdown")
        runs = starting.submit_array(fn, calls, self._options, self._most)
        found: list[futures.Future[T]] = [futures.Future() for _ in runs]
        with self._known:
            self._runs.update(zip(found, runs))
        for future, run in zip(found, runs):
            self._waiting.add(future)
            self._array_pool().submit(self._await, future, run)
        return found

    def _array_pool(self) -> ThreadPoolExecutor:
        """Return the threads that wait for arrays, where the scheduler limits how many calls run at a time."""
        if self._arrays is None:
            self._arrays = ThreadPoolExecutor(_MOST, thread_name_prefix="muster")
        return self._arrays

    def _await(self, future: futures.Future[Any], run: Run[Any]) -> None:
        """Set the future of a call that was submitted to the result of its run."""
        self._waiting.discard(future)
        if not future.set_running_or_notify_cancel():
            run.kill()
            return
        try:
            result = run.result()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run_of(self, future: futures.Future[Any], timeout: float | None = None) -> Run[Any]:
        """Wait until the run of a call is started, and return it. Raises TimeoutError, and what starting raised."""
        with self._known:
            found = self._known.wait_for(lambda: future in self._runs or future.done(), timeout)
        if not found:
            raise TimeoutError("the run of this call has not been started")
        if future not in self._runs:
            future.result()
        return self._runs[future]

    def _work(self, future: futures.Future[Any], function: Callable[..., Any], keywords: dict[str, Any]) -> None:
        self._waiting.discard(future)
        if not future.set_running_or_notify_cancel():
            return
        try:
            run = _submit(function, (), keywords)
            with self._known:
                self._runs[future] = run
                left_by = self._left_by
                self._known.notify_all()
            if left_by is not None:  # while it was being started
                run.end_with(left_by)
            result = run.result()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            with self._known:
                self._known.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; `wait` for those that were submitted, or cancel those that have not begun."""
        if cancel_futures:
            for future in list(self._waiting):
                future.cancel()
        self._closed = True
        for pool in (self._pool, self._arrays):
            if pool is not None:
                pool.shutdown(wait)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        try:
            if kind is not None:
                self.shutdown(False, cancel_futures=True)
                with self._known:
                    self._left_by = error
                    runs = list(self._runs.values())
                _end(runs, error)
        finally:
            self.shutdown()
        return None


def _end(runs: Sequence[Run[Any]], error: BaseException) -> None:
    """End runs because of this exception: jobs of a scheduler at the same time. Raises what went wrong first."""
    jobs = [run for run in runs if run.survives]
    with ThreadPoolExecutor(min(_AT_ONCE, len(jobs)) or 1) as pool:
        ended = [pool.submit(run.end_with, error) for run in jobs]
        for run in runs:
            if not run.survives:
                run.end_with(error)
    for found in ended:
        found.result()
