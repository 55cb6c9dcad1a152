"""A run on this machine whose controller is this process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Callable

from muster.config.nodes import local_nodes
from muster.config.resolve import job_on_a_terminal
from muster.controller.connections import captured_signals, end_links, start_agents
from muster.core.env_forwarding import redact
from muster.core.model import Plan, as_json
from muster.core.results import SIGTERM, RunResult
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.rundir.run import Run
from muster.rundir.store import Store, remove_run, writing
from muster.runner.context import RunContext, refuse_stdin, run_record
from muster.runner.handle import RunHandle, Views
from muster.runtimes import BARE
from muster.schedulers import get_scheduler, title, typed, within_jobs
from muster.ui.keyboard import Keyboard

if TYPE_CHECKING:
    from muster.controller.foreground import ForegroundController

_TO_LEAVE = 0.5
"""Seconds for an agent to exit that was not configured yet."""
_SAYS_WITHIN = 2.0
"""Seconds for a scheduler to answer before starting ranks that do not need it."""


class LocalRun(RunHandle):
    """A run on this machine, which ends with this process."""

    def __init__(self, run: Run, views: Views, supervised: ForegroundController, resources: ExitStack[None]):
        super().__init__(run, views)
        self._supervised, self._resources = supervised, resources

    def _drive(self) -> RunResult:
        with self._resources:
            try:
                return self._supervised.go()
            except BaseException:
                _forsake(self.run)
                raise

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run gracefully."""
        self._supervised.stop(number)


def start(context: RunContext) -> LocalRun:
    """Start the agent; it starts the ranks once `drive` is called. Raises `InvalidRequest`."""
    options, asked, env = context.options, context.asked, context.env
    refuse_stdin(context)
    nodes = local_nodes(asked, options, env)
    job = asked.job
    if context.foreground.terminal:
        job = job_on_a_terminal(job, sum(len(node.ranks) for node in nodes), options, env)
    plan = make_plan(job, nodes, context.run_id)
    view = context.viewer(plan, context.run_id, context.run_id)
    _tell_of_more_nodes(view.say, env, context.store)
    run = context.new_directory()
    view.operand = run.operand
    try:
        with writing(run.path):
            run.write("job.json", run_record(job, plan.world_size, context.run_id, context.argv))
            run.write("plan.json", redact(as_json(plan)))
        context.make_copy()
        return _start_agent(context, plan, run, Views(view, context.warn))
    except BaseException:  # Ctrl-C while the code is copied, too
        remove_run(context.store, run)
        raise


def _start_agent(context: RunContext, plan: Plan, run: Run, views: Views) -> LocalRun:
    foreground, job = context.foreground, plan.job
    resources: ExitStack[None] = ExitStack()
    with resources:
        loop = resources.enter_context(EventLoop())
        signals = resources.enter_context(captured_signals(loop, job.passes, job.quits, foreground.signals))
        # the engine of a container passes on no other descriptor than its own
        stdin = foreground.stdin if plan.reader is not None and job.runtime == BARE else None
        agents = start_agents(job, plan.nodes, context.env, stdin)
        try:
            # meanwhile the agent starts
            from muster.controller.foreground import ForegroundController
            from muster.diagnostics.preflight import preflight
            from muster.linux import hardware

            for finding in preflight({plan.hosts[0]: hardware.cheap_facts(context.env)}, context.asked.job.env):
                if not context.options.quiet:
                    views.say(finding)
            keyboard = Keyboard(foreground.stdin) if foreground.stdin is not None else None
            supervised = ForegroundController(loop, signals, plan, run, agents, views, context.began, keyboard)
            supervised.start_writing()
        except BaseException as error:
            end_links(agents.connections, _TO_LEAVE)
            if not isinstance(error, OSError):
                raise
            hint = processes.FEWER_PROCESSES if processes.met_limit(error) else None
            raise InvalidRequest(f"cannot start the run: {processes.reason(error)}", hint) from None
        return LocalRun(run, views, supervised, resources.pop_all())


def _forsake(run: Run) -> None:
    """Record that this process no longer supervises the run: the process may live for long."""
    if run.outcome is None:
        run.write("job.json", {**(run.read("job.json") or {}), "pid": 0, "pid_started": ""})


def _tell_of_more_nodes(say: Callable[[str], object], env: Mapping[str, str], store: Store) -> None:
    """Report if the ranks run on only one of the nodes allocated by a scheduler, if the job still exists."""
    for name in within_jobs(env):
        try:
            found = get_scheduler(name).allocation(env)
        except InvalidRequest as error:  # a job on whose nodes muster cannot run; on this machine it can
            say(f"warning: {error.sentence}: all ranks run on this machine")
            continue
        if found is None or len(found.hosts) < 2:
            continue
        from muster.schedulers.client import client

        try:
            client(name).allocation(env, store.root, _SAYS_WITHIN)
        except InvalidRequest as error:
            say(f"warning: {error.sentence}")
        else:
            say(
                f"warning: {title(name)} job {found.job} has {len(found.hosts)} nodes, and all ranks run on this one; "
                f"use {typed(name)} to run on all"
            )
