"""What all ways to start a run are given: what was asked for, and what of this process belongs to the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.resolve import JobRequest, make_job
from muster.core.env_forwarding import redact, redact_argv
from muster.core.model import Job, Plan, as_json
from muster.errors import InvalidRequest
from muster.linux import procfs
from muster.linux.identity import identity
from muster.rundir.run import Run
from muster.rundir.store import Store, create_run, free_id
from muster.ui.view import View

Viewer = Callable[[Plan, str, str], View]
"""Makes the `View` of a plan, for the id of its run and what names that run in commands that are shown (`operand`).

Raises `InvalidRequest` where it cannot show that plan.
"""

Say = Callable[[str], object]
"""Takes words for a person."""


class Foreground(NamedTuple):
    """What of this process belongs to a run: nothing, unless it is a program for that run, as `muster run` is."""

    signals: bool = False
    """Its SIGINT, SIGTERM and so on end the run, or are passed on to ranks, as long as the run lasts; then its own
    handlers are there again. This holds in its main thread."""
    stdin: int | None = None
    """What a rank reads that reads the terminal. If that is one, its settings are those from before at the end."""
    terminal: bool = False
    """stdout and stderr show the run. If they are a terminal, a rank that is alone has one, too."""


NOTHING, ALL = Foreground(), Foreground(True, 0, True)


class RunContext(NamedTuple):
    """One start of a run."""

    argv: list[str]
    """The command line after `muster`."""
    options: RunOptions
    asked: JobRequest
    env: Mapping[str, str]
    began: float
    """When it was asked for, by the monotonic clock."""
    run_id: str
    store: Store
    viewer: Viewer
    progress: Say
    """Told how far the start is."""
    warn: Say
    """Told what is most likely not meant."""
    foreground: Foreground = NOTHING

    @property
    def code_limit(self) -> int:
        """The bytes that code may have."""
        return self.options.code_limit << 20

    def new_directory(self) -> Run:
        """Make the run directory, in the place of old ones by --keep-runs and --keep-size; raises `InvalidRequest`."""
        options, run = self.options, create_run(self.store, self.run_id)
        if options.given(RunOptions.keep_runs, RunOptions.keep_size):
            from muster.client.pruning import limit

            deleted = limit(self.store, options.keep_runs, options.keep_size)
            if deleted:
                self.progress(deleted)
        return run

    def make_copy(self) -> None:
        """Copy the code into the run directory, if that was asked for."""
        if self.asked.snapshot is None:
            return
        from muster import code_sync

        for note in self.asked.snapshot[0].notes:
            self.progress(note)
        code_sync.snapshot(*self.asked.snapshot)

    def with_job(self, job: Job) -> RunContext:
        """The same with another job."""
        return self._replace(asked=self.asked._replace(job=job))


def resolve(
    argv: list[str],
    parsed: ParsedArgs,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    store: Store,
    viewer: Viewer,
    progress: Say,
    warn: Say,
    foreground: Foreground = NOTHING,
    verb: str = "run",
    brought: str = "",
) -> RunContext:
    """What the options ask for, as a job, with the id of a new run. Nothing is written yet. Raises `InvalidRequest`.

    `verb` is the command that messages name; `brought` is the text of a script of muster's own.
    """
    asked = make_job(parsed, options, env, verb, brought, warn)
    now = time.time()
    run_id = free_id(store, asked.job.program.title, now, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    context = RunContext(argv, options, asked, env, began, run_id, store, viewer, progress, warn, foreground)
    if options.snapshot:
        from muster import code_sync

        copy, job = store.path(run_id) / "code", asked.job
        found = code_sync.tree(job.cwd, job.program.path, str(store.root / "runs"))
        code_sync.guard(found, context.code_limit, "--snapshot")
        asked = asked._replace(job=code_sync.redirect(job, found.root, str(copy)), snapshot=(found, copy))
    return context._replace(asked=asked)


def refuse_stdin(context: RunContext) -> None:
    """Raise `InvalidRequest` for a rank that is to read a stdin where there is none."""
    if context.asked.job.stdin is not None and context.foreground.stdin is None:
        raise InvalidRequest("--stdin: the program that starts this run gives it no stdin", "leave it out")


def run_record(job: Job, ranks: int, run_id: str, argv: Sequence[str], **more: Any) -> dict[str, Any]:
    """What job.json says of a run; `more` takes the place of what holds for one that this process supervises."""
    return {
        "id": run_id,
        "name": job.name,
        "argv": ["muster", *redact_argv(list(argv))],
        "cwd": job.cwd,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "time": time.time(),
        "ranks": ranks,
        "pid": os.getpid(),
        "pid_started": procfs.started(os.getpid()),
        **identity(),
        "job": redact(as_json(job)),
        **more,
    }
