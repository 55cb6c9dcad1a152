"""Start functions and scripts for a Python program."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from muster import api
from muster.agent.rank_info import detect
from muster.config.options import RUN, RunOptions
from muster.config.parse import ParsedArgs, from_table
from muster.config.program import script_of_ours
from muster.core.model import BUNDLED, Plan
from muster.core.plurals import plural
from muster.core.results import RunState
from muster.core.sweep import Point
from muster.core.sweep import Sweep as SweepRecord
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.shell import join
from muster.python.output import Printed, Quiet, tell
from muster.python.pickling import has_checkpoint, packed
from muster.python.run import Run
from muster.python.splitting import OPTIONS, Split, name_of, split
from muster.rundir.run import Run as RunDir
from muster.rundir.store import store_at
from muster.runner.awaited import Awaited, after_others, wait_for
from muster.runner.context import RunContext, Viewer, resolve
from muster.runner.later import LaterRun
from muster.schedulers import SCHEDULERS
from muster.ui.view import View


def start(program: Any, found: Split, show: bool) -> Run[Any]:
    """Start a single run. Raises `InvalidRequest`."""
    return begin(context_of(program, found, show))


def begin(context: RunContext) -> Run[Any]:
    """Start a run, after those that it has to wait for. Raises `InvalidRequest`."""
    context, waits = ordered(context)
    if not waits:
        return Run(api.start(context))
    later = LaterRun(RunDir(context.store.path(context.run_id)))

    def work() -> None:
        try:
            if wait_for(waits, context.progress, lambda: later.early_state is not RunState.PENDING) and later.claim():
                later.begun(api.start(context._replace(began=time.monotonic())))
        except BaseException as error:
            later.given_up(error)

    processes.start_thread(work)
    return Run(later)


def ordered(context: RunContext) -> tuple[RunContext, list[Awaited]]:
    """Return the context of a run that starts after those of `after`, and those that this program has to wait for."""
    context, waits = after_others(context, detached=True)
    if waits and context.options.detach:
        raise InvalidRequest(
            f"after={waits[0].run.id!r} cannot be combined with detach=True: this program waits for that run",
            "leave out detach=True",
        )
    return context, waits


def submit_array(
    program: Any, calls: Sequence[tuple[Any, ...]], keywords: Mapping[str, Any], most: int | None
) -> list[Run[Any]]:
    """Submit calls of a function as one job array, at most `most` at a time; return their runs, in this order.

    Raises `InvalidRequest` for options of a run without a queue.
    """
    from muster.runner import sweeps  # imported late, as all of this: other runs need none of it
    from muster.runner.detached import DetachedRun

    found = [split(program, (), {**keywords, "args": args}) for args in calls]
    points = SweepRecord(tuple(map(Point, range(len(calls)))), most)
    sweep = sweeps.of_calls(contexts_of_calls(program, found), points)
    base, waits = ordered(sweep.base)
    if waits:
        raise InvalidRequest(f"after={waits[0].run.id!r}: not a job that the array can wait for", "use executor.submit")
    sweeps.submit(sweep._replace(base=base))
    return [Run(DetachedRun(RunDir(base.store.path(point.run_id)))) for point in sweep.points.values()]


def contexts_of_calls(program: Any, found: Sequence[Split], show: bool = False) -> list[RunContext]:
    """Return the contexts of runs that call a function with the same options each."""
    first = context_of(program, found[0], show)
    warning = first.options.value(OPTIONS["signal_before"]).signal
    functions = [packed(program, one.args, one.kwargs, warning) for one in found[1:]]
    return [first, *(first._replace(function=function) for function in functions)]


def is_queued(options: Mapping[str, Any]) -> bool:
    """Return whether a run with these options waits in the queue of a scheduler, and is not inside one of its jobs."""
    scheduled = any(options.get(name) for name in ("scheduler", *SCHEDULERS))
    return scheduled and not any(row.job in os.environ for row in SCHEDULERS.values())


def context_of(program: Any, found: Split, show: bool) -> RunContext:
    """Return the context of a run of a function or a script. Raises `InvalidRequest`."""
    began, env = time.monotonic(), dict(os.environ)
    if callable(program) and has_checkpoint(program):
        found = found._replace(options={**_requeued(found.options), **found.options})
    options = options_of(found)
    refuse_in_a_rank()
    store = store_at(options.run_dir, env)
    words, source = program_of(program, found, options)
    function, shown = b"", join(words)
    if source:
        function = packed(program, found.args, found.kwargs, options.value(OPTIONS["signal_before"]).signal)
        shown = f"{name_of(program)}()"
    argv = ["run", *typed(found.options), *([shown] if function else words)]
    view = viewer(options, show)
    context = resolve(argv, ParsedArgs({}, words, False), options, env, began, store, view, tell, tell, brought=source)
    return context._replace(function=function)


def program_of(program: Any, found: Split, options: RunOptions) -> tuple[list[str], str]:
    """Return the command line of a program, and the source of the script that calls it, if it is a function.

    Raises `InvalidRequest`.
    """
    if not callable(program):
        return [os.fspath(program), *found.args], ""
    if options.module or options.no_python:
        raise InvalidRequest(
            f"{'module' if options.module else 'no_python'}= is for scripts, not for functions", "leave it out"
        )
    name = re.sub(r"[^\w.-]+", "-", name_of(program)).strip("-.") or "function"
    return [BUNDLED + name], script_of_ours("call.py")


def options_of(found: Split) -> RunOptions:
    """Return the options of a call. Raises `InvalidRequest`."""
    return RunOptions(("argv", from_table(RUN, found.options, "options of the run")))


_REQUEUES = 3
"""How often a job with a checkpoint is requeued at most, if `requeue` is not given."""


def _requeued(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the option that has a job continue from its checkpoint; empty without a job, and inside one."""
    return {"requeue": _REQUEUES} if is_queued(given) else {}


def viewer(options: RunOptions, show: bool, prefix: str | None = None) -> Viewer:
    """Return what makes the view of a run; `prefix`: that of its lines, unless the options have one."""
    prefix = prefix if options.prefix is None else options.prefix

    def view(plan: Plan, run_id: str, operand: str) -> View:
        if not show:
            return Quiet(False)
        return Printed(plan, True if options.ranks is None else list(options.ranks), prefix)

    return view


def refuse_in_a_rank() -> None:
    """Raise `InvalidRequest` if this process is a rank: each rank would start a run of its own."""
    found = detect()
    if found is not None and found.world_size is not None and found.world_size > 1 and _calls():
        raise InvalidRequest(
            f"this is rank {found.rank} of a run: {plural(found.world_size, 'rank')} would each start a run",
            "call muster.run in the program that starts the run, not in the function",
        )


def _calls() -> bool:
    """Return whether this process was started to call a function (`payloads/call.py`)."""
    import sys

    return "_muster_pickles" in sys.modules


def typed(options: Mapping[str, Any]) -> list[str]:
    """Return options as they would be typed, for job.json."""
    found = []
    for key, value in options.items():
        option = "--" + key.replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            if item is not False:
                found += [option] if item is True else [option, str(item)]
    return found
