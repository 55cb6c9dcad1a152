"""What the ways to start a run share: on this machine, on hosts, by a scheduler."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from muster import runs
from muster.agent import procfs
from muster.environ import hidden, hidden_words
from muster.job import Asked, notes, warnings
from muster.model import Job, Plan
from muster.options import AttachOptions, RunOptions

if TYPE_CHECKING:
    from muster.world.view import View

Viewer = Callable[[Plan, str, str], "View"]
"""Makes the view of a plan, for the id of its run and what names that run in commands that are shown."""


class RunContext(NamedTuple):
    """One start of a run."""

    argv: list[str]
    """The command line after `muster`."""
    options: RunOptions
    asked: Asked
    env: Mapping[str, str]
    began: float
    """When muster was started, by the monotonic clock."""
    run_id: str
    store: runs.Store
    viewer: Viewer

    def progress(self, text: str) -> None:
        """Tell on stderr how far the start is; nothing under `--quiet`."""
        tell_progress(text, self.options.quiet)

    @property
    def code_limit(self) -> int:
        """The bytes that code may have."""
        return self.options.code_limit << 20

    def new_directory(self) -> runs.Run:
        """Make the run directory, in the place of old ones by --keep-runs and --keep-size; raises `Impossible`."""
        options, kept = self.options, runs.create(self.store, self.run_id)
        if options.given(RunOptions.keep_runs, RunOptions.keep_size):
            from muster.client.pruning import limit

            deleted = limit(self.store, options.keep_runs, options.keep_size)
            if deleted:
                self.progress(deleted)
        return kept

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


def tell_progress(text: str, quiet: bool = False) -> None:
    """Tell on stderr how far something is."""
    if not quiet:
        print(f"muster: {text}", file=sys.stderr, flush=True)


def viewer_of(options: RunOptions | AttachOptions, env: Mapping[str, str]) -> Viewer:
    """What shows a run as these options say; what it makes raises `Impossible` for a `--prefix` that cannot be."""
    quiet = isinstance(options, RunOptions) and options.quiet

    def view(plan: Plan, run_id: str, operand: str) -> View:
        from muster.world.terminal import JsonLines, Terminal

        if options.json:
            return JsonLines(run_id, options.ranks, quiet)
        shown = Terminal(plan, run_id, env, options.prefix, options.ranks, quiet)
        shown.operand = operand
        for note in [*(() if quiet else notes(options)), *warnings(plan.job)]:
            shown.say(note)
        return shown

    return view


def job_record(job: Job, ranks: int, run_id: str, argv: list[str], **more: Any) -> dict[str, Any]:
    """What job.json says of a run; `more` takes the place of what holds for one that this process looks after."""
    from muster.model import as_json
    from muster.world.here import identity

    return {
        "id": run_id,
        "name": job.name,
        "argv": ["muster", *hidden_words(argv)],
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
