"""What all ways to start a run are given: what was asked for, and what of this process belongs to the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from muster import runs
from muster.agent import procfs
from muster.environ import hidden, hidden_words
from muster.errors import Impossible
from muster.job import Asked, make_job
from muster.model import Job, Plan, as_json
from muster.options import RunOptions
from muster.parsing import Parsed
from muster.world.here import identity
from muster.world.view import View

Viewer = Callable[[Plan, str, str], View]
"""Makes the `View` of a plan, for the id of its run and what names that run in commands that are shown (`operand`).

Raises `Impossible` where it cannot show that plan.
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
    asked: Asked
    env: Mapping[str, str]
    began: float
    """When it was asked for, by the monotonic clock."""
    run_id: str
    store: runs.Store
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

    def new_directory(self) -> runs.Run:
        """Make the run directory, in the place of old ones by --keep-runs and --keep-size; raises `Impossible`."""
        options, run = self.options, runs.create(self.store, self.run_id)
        if options.given(RunOptions.keep_runs, RunOptions.keep_size):
            from muster.client.pruning import limit

            deleted = limit(self.store, options.keep_runs, options.keep_size)
            if deleted:
                self.progress(deleted)
        return run

    def make_copy(self) -> None:
        """Copy the code into the run directory, if that was asked for."""
        if self.asked.copied is None:
            return
        from muster.world import code

        for note in self.asked.copied[0].notes:
            self.progress(note)
        code.snapshot(*self.asked.copied)

    def with_job(self, job: Job) -> RunContext:
        """The same with another job."""
        return self._replace(asked=self.asked._replace(job=job))


def resolve(
    argv: list[str],
    parsed: Parsed,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    store: runs.Store,
    viewer: Viewer,
    progress: Say,
    warn: Say,
    foreground: Foreground = NOTHING,
    verb: str = "run",
    brought: str = "",
) -> RunContext:
    """What the options ask for, as a job, with the id of a new run. Nothing is written yet. Raises `Impossible`.

    `verb` is the command that messages name; `brought` is the text of a script of muster's own.
    """
    asked = make_job(parsed, options, env, verb, brought, warn)
    now = time.time()
    run_id = runs.free_id(store, asked.job.program.title, now, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    context = RunContext(argv, options, asked, env, began, run_id, store, viewer, progress, warn, foreground)
    if options.snapshot:
        from muster.world import code

        copy, job = store.path(run_id) / "code", asked.job
        found = code.tree(job.cwd, job.program.path, str(store.root / "runs"))
        code.guard(found, context.code_limit, "--snapshot")
        asked = asked._replace(job=code.redirect(job, found.root, str(copy)), copied=(found, copy))
    return context._replace(asked=asked)


def refuse_stdin(context: RunContext) -> None:
    """Raise `Impossible` for a rank that is to read a stdin where there is none."""
    if context.asked.job.stdin is not None and context.foreground.stdin is None:
        raise Impossible("--stdin: the program that starts this run gives it no stdin", "leave it out")


def job_record(job: Job, ranks: int, run_id: str, argv: Sequence[str], **more: Any) -> dict[str, Any]:
    """What job.json says of a run; `more` takes the place of what holds for one that this process supervises."""
    return {
        "id": run_id,
        "name": job.name,
        "argv": ["muster", *hidden_words(list(argv))],
        "cwd": job.cwd,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "time": time.time(),
        "ranks": ranks,
        "pid": os.getpid(),
        "pid_started": procfs.started(os.getpid()),
        **identity(),
        "job": hidden(as_json(job)),
        **more,
    }
