"""The context of a run's start: what was requested, and which resources of this process the run may use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from muster import __version__
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.resolve import JobRequest, RoleRequest, make_job
from muster.core.env_forwarding import redact, redact_argv
from muster.core.model import Job, Plan, as_json
from muster.errors import InvalidRequest
from muster.linux import procfs
from muster.linux.identity import identity
from muster.rundir.run import FUNCTION, Run
from muster.rundir.store import Store, create_run, free_id, remove_run, writing
from muster.runtimes import BARE
from muster.ui.view import View

if TYPE_CHECKING:
    from muster.rundir.session import SessionRecord
    from muster.schedulers.scheduler import After

Viewer = Callable[[Plan, str, str], View]
"""Makes the `View` of a plan, given the run id and the run's name in displayed commands (`operand`).

Raises `InvalidRequest` if it cannot show that plan.
"""

Say = Callable[[str], object]
"""Takes a message for the user."""


class Foreground(NamedTuple):
    """The resources of this process that a run may use: none by default, all for a program such as `muster run`."""

    signals: bool = False
    """Whether SIGINT, SIGTERM and so on stop the run or are forwarded to ranks, until it ends and the previous handlers
    are restored. Only in the main thread."""
    stdin: int | None = None
    """Descriptor for the rank that reads stdin. If it is a terminal, its settings are restored at the end."""
    terminal: bool = False
    """Whether stdout and stderr show the run. If they are a terminal, a single rank gets one, too."""


NOTHING, ALL = Foreground(), Foreground(True, 0, True)


class RunContext(NamedTuple):
    """The start of one run."""

    argv: list[str]
    """The command line after `muster`."""
    options: RunOptions
    asked: JobRequest
    env: Mapping[str, str]
    began: float
    """Start time by the monotonic clock."""
    run_id: str
    store: Store
    viewer: Viewer
    progress: Say
    """Called with progress messages."""
    warn: Say
    """Called with warnings about likely mistakes."""
    foreground: Foreground = NOTHING
    after: tuple[After, ...] = ()
    """The scheduler's jobs that have to end first."""
    previous: str = ""
    """The id of the run of the previous part of a chain, in the same directory; the run ends at once if that failed."""
    session: tuple[Run, SessionRecord, Plan] | None = None
    """The session that the run is on, with the nodes of this run in the plan; None for other runs."""
    function: bytes = b""
    """The pickled function that the ranks call, for the file `function` of the run; empty for other programs."""

    @property
    def code_limit(self) -> int:
        """The maximum size of the code, in bytes."""
        return self.options.code_limit << 20

    def new_directory(self, marked: bool = False) -> Run:
        """Create the run directory, deleting old runs per --keep-runs and --keep-size. Raises `InvalidRequest`.

        `marked`: with the file by which other hosts see whether they share it.
        """
        options, run = self.options, create_run(self.store, self.run_id)
        if options.given(RunOptions.keep_runs, RunOptions.keep_size):
            from muster.client.pruning import limit

            deleted = limit(self.store, options.keep_runs, options.keep_size)
            if deleted:
                self.progress(deleted)
        try:
            with writing(run.path):
                if marked:
                    from muster.agent import facts

                    facts.write_marker(str(run.path))
                if self.function:
                    run.replace(FUNCTION, self.function)
        except InvalidRequest:
            remove_run(self.store, run)
            raise
        return run

    def make_copy(self) -> None:
        """Copy the code into the run directory, if requested."""
        if self.asked.snapshot is None:
            return
        from muster import code_sync

        for note in self.asked.snapshot[0].notes:
            self.progress(note)
        code_sync.snapshot(*self.asked.snapshot)

    def with_job(self, job: Job) -> RunContext:
        """Return a copy of the context with another job, for a run with one program."""
        return self._replace(asked=self.asked._replace(job=job))

    def with_jobs(self, jobs: Sequence[Job]) -> RunContext:
        """Return a copy of the context with other jobs: one for each role, or for the one program."""
        return self._replace(asked=self.asked.with_jobs(jobs))


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
    run_id: str = "",
    roles: Sequence[tuple[ParsedArgs, RunOptions]] = (),
    brought_by_role: Sequence[str] = (),
) -> RunContext:
    """Resolve options to a job and the id of a new run, without writing anything. Raises `InvalidRequest`.

    `verb` is the command named in messages; `brought` is the source of one of muster's own scripts. `run_id`: the id of
    an existing sweep, whose points are started again. `roles`: the command line and the options of each role, with
    those of the first one, if the run has several programs. `brought_by_role`: as `brought`, for each of them.
    """
    session = None
    if options.on is not None:
        from muster.client.session import find_session
        from muster.config.sessions import nodes_of_run, with_session

        held, record, plan = find_session(store, options.on, progress)
        session = (held, record, plan._replace(nodes=nodes_of_run(options, options.on, plan)))
        options = with_session(options, record.options)
    if roles:
        from muster.config.roles import make_roles

        asked = make_roles(roles, env, verb, warn, brought_by_role)
    else:
        asked = make_job(parsed, options, env, verb, brought, warn)
    if session is not None:
        of, job = plan.job, asked.job._replace(setup=plan.job.setup)
        job = job._replace(python=of.python, python_source=of.python_source, python_named=of.python_named)
        job = job._replace(allocation=of.allocation, env={**session[1].env, **job.env})
        asked = asked._replace(job=job)
    if not options.no_auto_preload and not roles:
        from muster.rundir.last_imports import last_imports

        asked = asked._replace(job=asked.job._replace(last_imports=last_imports(store, asked.job)))
    now = time.time()
    asked = asked._replace(roles=tuple(_in_container(role, store) for role in asked.roles))
    run_id = run_id or free_id(store, asked.job.program.title, now, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    if asked.job.runtime != BARE:
        asked = asked._replace(job=asked.job._replace(runs=str(store.root / "runs")))
    context = RunContext(argv, options, asked, env, began, run_id, store, viewer, progress, warn, foreground)._replace(
        session=session
    )
    in_job = session is not None and options.sync and bool(asked.job.scheduler)  # whose nodes share the run directory
    if options.snapshot or in_job:
        from muster import code_sync

        copy = store.path(run_id) / "code"
        found = code_sync.tree_of(asked.jobs, str(store.root / "runs"))
        option = "--snapshot" if options.snapshot else "--sync"
        code_sync.guard(found, context.code_limit, option)
        asked = asked.with_jobs([code_sync.redirect(job, found.root, str(copy), option) for job in asked.jobs])
        asked = asked._replace(snapshot=(found, copy))
    return context._replace(asked=asked)


def _in_container(role: RoleRequest, store: Store) -> RoleRequest:
    """Return a role whose container, if it has one, sees the directory of runs."""
    job = role.asked.job
    if job.runtime == BARE:
        return role
    return role._replace(asked=role.asked._replace(job=job._replace(runs=str(store.root / "runs"))))


def refuse_stdin(context: RunContext) -> None:
    """Raise `InvalidRequest` if a rank is to read stdin and there is none."""
    if context.asked.job.stdin is not None and context.foreground.stdin is None:
        raise InvalidRequest("--stdin: the program that starts this run provides no stdin", "leave out --stdin")


def run_record(job: Job, ranks: int, run_id: str, argv: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return the contents of job.json; `more` overrides the fields of a run that this process supervises."""
    return {
        "id": run_id,
        "name": job.name,
        "argv": ["muster", *redact_argv(list(argv))],
        "muster": __version__,
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
