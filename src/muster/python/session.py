"""Hosts that are held for a Python program: `muster.hold`."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from muster import api
from muster.client.session import await_ready, release_session
from muster.config.command_options import HoldOptions
from muster.config.parse import ParsedArgs, from_table
from muster.config.sessions import options_to_hold
from muster.core.model import BUNDLED
from muster.python import submission
from muster.python.entry import entry
from muster.python.output import tell
from muster.python.run import Run
from muster.rundir.store import store_at
from muster.runner.context import resolve
from muster.runner.handle import RunHandle
from muster.ui.view import Silent

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from muster.python.signatures import RunKeywords

T = TypeVar("T")


class Cluster:
    """Hosts with agents and preloaded interpreters, on which functions and scripts run again at once.

    One run at a time. As a context manager it is released at the end of the block, with the run that is on it.
    """

    def __init__(self, handle: RunHandle, run_dir: str | None) -> None:
        self._handle, self._session, self._run_dir = handle, handle.run, run_dir

    def __repr__(self) -> str:
        return f"<muster.Cluster {self.id}>"

    @property
    def id(self) -> str:
        """The id of the session: `muster run --on ID`."""
        return str(self._session.id)

    @entry
    def run(self, program: Callable[..., T] | str, /, *arguments: Any, **keywords: Any) -> list[T]:
        """Run a function or a script here, wait for it, and return what each rank returned, as `muster.run` does."""
        return submission.run(program, arguments, self._with_place(keywords))

    @entry
    def submit(self, program: Callable[..., T] | str, /, *arguments: Any, **keywords: Any) -> Run[T]:
        """Start a function or a script here, and return it without waiting for its end, as `muster.submit` does."""
        found: Run[T] = submission.submit(program, arguments, self._with_place(keywords))
        return found

    def _with_place(self, keywords: dict[str, Any]) -> dict[str, Any]:
        place = {"on": self.id, "run_dir": self._run_dir} if self._run_dir is not None else {"on": self.id}
        return {**keywords, **place}

    @entry
    def release(self, force: bool = False) -> None:
        """Release the hosts, and wait until everything there has ended; with `force` also the run that is there."""
        if self._session.outcome is None:
            release_session(self._session, f"pid {os.getpid()}", force)
        self._handle.wait()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(force=True)


@entry
def hold(*, idle: float | str | None = None, **options: Unpack[RunKeywords]) -> Cluster:
    """Hold hosts, or this machine, for several runs, and return them once they are ready; see `muster hold`.

        with muster.hold(hosts="n[1-2]", nproc_per_node=4) as cluster:
            first = cluster.run(train, lr=0.1)
            second = cluster.run(train, lr=0.01)

    `idle`: the time without a run after which they are released, e.g. "2h" (default: 30m). They are also released when
    this program ends, in whatever way: on this machine at once, over ssh after `lease` at the latest. The job of a
    scheduler goes on until `idle` or its time limit.

    Raises `muster.errors.MusterError` if they cannot be held; then nothing is left there.
    """
    began, env = time.monotonic(), dict(os.environ)
    given = {**options, **({} if idle is None else {"idle": idle})}
    record = options_to_hold(HoldOptions(("argv", from_table(HoldOptions.table, given, "options of the session"))))
    if not record.scheduled:
        record = record.without(HoldOptions.detach)  # this program owns the session
    store = store_at(record.run_dir, env)
    parsed = ParsedArgs({}, [f"{BUNDLED}hold.py"], False)
    context = resolve(
        *(["hold"], parsed, record, env, began, store, lambda *_: Silent(False), tell, tell), brought="pass\n"
    )
    job = context.asked.job._replace(hold=record.idle, lease=record.lease)
    cluster = Cluster(api.start(context.with_job(job)), record.run_dir)
    try:
        await_ready(cluster._session, began, tell)
    except BaseException:
        cluster.release(force=True)
        raise
    return cluster
