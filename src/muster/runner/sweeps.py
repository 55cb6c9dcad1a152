"""A sweep or chain: the contexts of its points, its directory, and its submission to a scheduler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from muster import bundle
from muster.agent import code_tree, facts
from muster.agent.controller_process import ARCHIVE
from muster.client import remote
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.controller.job_records import RECORD_OF_JOB, REQUEST
from muster.core.env_forwarding import is_secret, redact_argv
from muster.core.layout import layout
from muster.core.model import Host
from muster.core.sweep import (
    MOST_POINTS,
    Ids,
    Point,
    Sweep,
    array_of,
    count_points,
    fill,
    misspelled,
    points_of,
    unused,
    variables,
)
from muster.errors import InvalidRequest, MusterError
from muster.launchers import make_plan
from muster.rundir.run import FUNCTION, Run
from muster.rundir.store import create_run, remove_run, writing
from muster.rundir.sweeps import next_ids, write_sweep
from muster.runner import scheduled
from muster.runner.context import NOTHING, RunContext, refuse_stdin, run_record
from muster.runner.scheduled import (
    check_nodes,
    check_queued,
    job_record,
    request,
    request_record,
    script_of,
    secrets_of,
    with_copy,
    write_script,
)
from muster.schedulers.client import client
from muster.schedulers.scheduler import After, Scheduler

MOST_PARTS = 1000
"""Maximum number of parts of a chain."""

Resolve = Callable[[ParsedArgs], RunContext]
"""Resolves the program and its arguments to a run. Raises `InvalidRequest`."""


class SweepContext(NamedTuple):
    """The start of a sweep, or of some points of one."""

    base: RunContext
    """The context of the sweep itself, whose run id is that of the sweep."""
    sweep: Sweep
    points: Mapping[int, RunContext]
    """The runs to start, by point."""


# ---- from options to points -----------------------------------------------------------------------------------------


def requested(options: RunOptions) -> Sweep | None:
    """Return the sweep that the options request; None for a single run. Raises `InvalidRequest`."""
    if options.chain is not None:
        other = [option for option in (RunOptions.sweep, RunOptions.array) if options.given(option)]
        if other:
            raise InvalidRequest(f"--chain cannot be combined with {other[0].long_name}", "leave out one of them")
        if options.chain > MOST_PARTS:
            raise InvalidRequest(f"--chain {options.chain}: the maximum is {MOST_PARTS}", "use fewer parts")
        return Sweep(tuple(map(Point, range(options.chain))), 1, chain=True)
    if not options.sweep and options.array is None:
        if options.given(RunOptions.max_parallel) and options.typed(RunOptions.max_parallel):
            raise InvalidRequest("--max-parallel requires a sweep", "add --sweep NAME=VALUES or --array NUMBERS")
        return None
    if options.sweep and options.array is not None:
        raise InvalidRequest("--sweep cannot be combined with --array", "leave out one of them")
    if options.array is not None:
        most = options.max_parallel or options.array.most
        return Sweep(tuple(map(Point, options.array.indices)), most)
    names = [one.name for one in options.sweep]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"--sweep {twice}: given twice", f"give all of its values at once: `--sweep {twice}=A,B`")
    count = count_points(options.sweep)
    if count > MOST_POINTS:
        raise InvalidRequest(f"the sweep has {count} points; the maximum is {MOST_POINTS}", "use fewer values")
    return Sweep(points_of(options.sweep), options.max_parallel)


def notes_of(sweep: Sweep, options: RunOptions, parsed: ParsedArgs) -> list[str]:
    """Return warnings about likely mistakes in the arguments."""
    texts = [*parsed.operands, *options.env]
    notes = [
        f"{{{name}}} is no parameter and stays as it is; did you mean {{{near}}}?"
        for name, near in (misspelled(sweep, texts))
    ]
    notes += [
        f"no argument contains {{{name}}}; ranks find its value in MUSTER_POINT_VALUES" for name in unused(sweep, texts)
    ]
    return [f"warning: {note}" for note in notes]


def _filled(parsed: ParsedArgs, point: Point) -> ParsedArgs:
    return parsed._replace(operands=[fill(word, point) for word in parsed.operands])


def prepare(sweep: Sweep, parsed: ParsedArgs, options: RunOptions, resolve: Resolve) -> SweepContext:
    """Return the contexts of a sweep and its points. Raises `InvalidRequest`."""
    if options.stdin is not None:
        raise InvalidRequest(f"--stdin cannot be combined with a {sweep.noun}", "leave out --stdin")
    first = sweep.points[0]
    base = resolve(_filled(parsed, first) if not sweep.chain else parsed)
    if base.session is not None and (sweep.most or 1) > 1:
        raise InvalidRequest(
            f"a session has one run at a time, so {sweep.most} points cannot run on it at the same time",
            "use `--max-parallel 1`, with which the points run one after another, or hold several sessions",
        )
    scripts = {fill(parsed.operands[0], point) for point in sweep.points} if not sweep.chain else set()
    if len(scripts) > 1 and (options.snapshot or options.sync):
        copied = "--snapshot" if options.snapshot else "--sync"
        raise InvalidRequest(
            f"{copied} cannot be combined with a parameter in the name of the script", "pass it as an argument"
        )
    points = {}
    for point in sweep.points:
        words = parsed if sweep.chain else _filled(parsed, point)
        context = base
        if len(scripts) > 1 and point is not first:
            context = resolve(words)
        points[point.number] = _of_point(base, context, sweep, point, words)
    # the sweep itself is recorded with the arguments as they were typed
    program = base.asked.job.program
    job = base.asked.job._replace(program=program._replace(argv=(program.argv[0], *parsed.operands[1:])))
    return SweepContext(base.with_job(job), sweep, points)


def of_calls(contexts: Sequence[RunContext], sweep: Sweep) -> SweepContext:
    """Return the contexts of a sweep or chain whose points are these runs, which call a function each."""
    base = contexts[0]
    words = ParsedArgs({}, list(base.asked.job.program.argv), False)
    points = {
        point.number: _of_point(base, context, sweep, point, words) for point, context in zip(sweep.points, contexts)
    }
    return SweepContext(base._replace(function=b""), sweep, points)


def _of_point(base: RunContext, context: RunContext, sweep: Sweep, point: Point, words: ParsedArgs) -> RunContext:
    """Return the context of one point, given that of a run with the same script."""
    job, options = context.asked.job, context.options
    env = dict(job.env)
    if not sweep.chain:
        for item in options.env:
            name, equals, value = item.partition("=")
            if equals:
                env[name] = fill(value, point)
    env.update(variables(sweep, point))
    job = job._replace(
        program=job.program._replace(argv=(job.program.argv[0], *words.operands[1:])),
        env=env,
        name=f"{job.name}.{point.number}" if job.name else "",
    )
    own = options.without(RunOptions.detach, RunOptions.keep_runs, RunOptions.keep_size)
    return context._replace(
        asked=context.asked._replace(job=job, snapshot=None),  # the code is copied once, for all points
        options=own,
        run_id=Ids(base.run_id, point.number).run,
        foreground=NOTHING,
    )


# ---- the directory --------------------------------------------------------------------------------------------------


def create(context: SweepContext) -> Run:
    """Create the directory of a sweep, with a copy of the code if requested. Raises `InvalidRequest`."""
    base = context.base
    kept = base.new_directory()
    try:
        base.make_copy()
        with writing(kept.path):
            write_sweep(kept, context.sweep, redact_argv(list(base.argv[1:])))
    except BaseException:
        remove_run(base.store, kept)
        raise
    return kept


def write_record(run: Run, context: SweepContext, here: bool = True) -> None:
    """Write job.json of a sweep. `here`: this process starts its points."""
    base = context.base
    more = {} if here else {"pid": 0, "pid_started": ""}
    with writing(run.path):
        run.write("job.json", run_record(base.asked.job, 0, run.id, base.argv, **more))


def started_again(context: SweepContext, run: Run, indices: Sequence[int]) -> SweepContext:
    """Return the context with which these points of an existing sweep are started again."""
    ids = next_ids(run, indices)
    points = {index: context.points[index]._replace(run_id=ids[index].run) for index in indices}
    return context._replace(points=points, base=context.base._replace(run_id=run.id))


# ---- submission -----------------------------------------------------------------------------------------------------


def script_of_array(context: SweepContext) -> str:
    """Return the batch script of the points, as `submit` writes it."""
    base = context.base
    _require_arrays(client(base.asked.job.scheduler).scheduler)
    run_dir = base.store.path(base.run_id)
    wanted = request(base.asked, base.options, run_dir, array_of(list(context.points), context.sweep.most))
    return script_of(wanted, base.asked, base.options, run_dir, (base.asked.job.scheduler, "array-0.json"))


def _require_arrays(scheduler: Scheduler) -> None:
    if scheduler.arrays is None:
        title = scheduler.title
        raise InvalidRequest(f"sweeps cannot be submitted to {title}", "run the sweep inside a job, or over ssh")


def is_queued(context: SweepContext) -> bool:
    """Return whether the points wait in the queue of a scheduler, which they do not inside one of its jobs.

    Raises `InvalidRequest`.
    """
    base = context.base
    name = base.asked.job.scheduler
    return bool(name) and client(name).allocation(base.env, base.store.root) is None


def submit(context: SweepContext, run: Run | None = None) -> Run:
    """Submit the points of a sweep as one job array, and return the sweep. Raises `MusterError`.

    `run`: the directory of an existing sweep.
    """
    base = context.base
    if context.sweep.chain:
        return _submit_chain(context, run)
    refuse_stdin(base)
    check_queued(base)
    asks = client(base.asked.job.scheduler)
    _require_arrays(asks.scheduler)
    make_plan(base.asked.job, layout([(Host("node"), 1)]), base.run_id)  # report errors now
    if base.options.sync:
        base = base._replace(asked=with_copy(base, base.store.path(base.run_id)))
        context = context._replace(base=base)
    made: list[Run] = []
    sweep_dir = create(context) if run is None else run
    try:
        with writing(sweep_dir.path):
            if run is None:
                made.append(sweep_dir)
                _write_shared(sweep_dir, base)
            for point in context.points.values():
                made.append(create_run(point.store, point.run_id))
                _write_point(made[-1], sweep_dir, point, base)
            name = f"array-{len(list(sweep_dir.path.glob('array-*.json')))}.json"
            runs = {str(index): point.run_id for index, point in context.points.items()}
            sweep_dir.write(name, {**runs, RECORD_OF_JOB: _record(sweep_dir, base, "")})
            number = _submit(context, sweep_dir, name)
    except BaseException:
        for one in reversed(made):
            remote.forget_way(one)
            remove_run(base.store, one)
        raise
    base.progress(f"{sweep_dir.id} submitted to {asks.title} as job {number} with {len(context.points)} points")
    return sweep_dir


def _submit_chain(context: SweepContext, run: Run | None) -> Run:
    """Submit each part of a chain as a job that waits for the one before."""
    base, parts = context.base, list(context.points.values())
    asks = client(base.asked.job.scheduler)
    if not asks.scheduler.waits:
        raise InvalidRequest(f"jobs of {asks.title} cannot wait for each other", "run the chain inside a job")
    chain_dir = create(context) if run is None else run
    submitted: list[Run] = []
    after, previous = base.after, ""
    try:
        if run is None:  # first: if this process is killed, commands find the parts that were submitted
            write_record(chain_dir, context, here=False)
        for part in parts:
            made = scheduled.start(part._replace(after=after, previous=previous)).run
            submitted.append(made)
            job = made.scheduled
            assert job is not None
            # a part that reached its time limit counts as failed for the scheduler: the next one decides (`batch.py`)
            after, previous = (After(job.job, "any"),), made.id
    except BaseException:
        for made in submitted:
            with suppress(MusterError):
                asks.cancel(made.scheduled.job if made.scheduled is not None else "")
        for made in [*submitted, *([chain_dir] if run is None else ())]:
            remote.forget_way(made)
            remove_run(base.store, made)
        raise
    return chain_dir


def _write_shared(sweep_dir: Run, base: RunContext) -> None:
    """Write what all points share: muster, and the list of the copied code."""
    (sweep_dir.path / ARCHIVE).write_bytes(bundle.kept(base.store.home))
    if base.options.sync and base.asked.snapshot is not None:
        copied = base.asked.snapshot[0]
        (sweep_dir.path / code_tree.LIST).write_bytes(code_tree.entries(copied.root, copied.names))


def _write_point(kept: Run, sweep_dir: Run, point: RunContext, base: RunContext) -> None:
    """Write into the directory of a point what its controller will start from."""
    facts.write_marker(str(kept.path))
    if point.function:
        kept.replace(FUNCTION, point.function)
    for name in (ARCHIVE, code_tree.LIST):
        _link(sweep_dir.path / name, kept.path / name)
    asked = point.asked._replace(snapshot=base.asked.snapshot)
    if base.options.sync:
        asked = asked._replace(job=asked.job._replace(cwd=base.asked.job.cwd))
    # the job has one environment for all points, so what differs between them has to be in a file
    before = base.asked.job.env
    own = {name for name, value in asked.job.env.items() if before.get(name) != value}
    secret = next((name for name in sorted(own) if is_secret(name, asked.job.env[name])), None)
    if secret is not None:
        raise InvalidRequest(
            f"--env {secret}: a secret cannot contain a parameter, because it would be stored in a file of each point",
            "pass the secret as a whole, and the parameter in another variable",
        )
    request_of_job = request_record(point._replace(asked=asked), None, {}, own)
    kept.write(REQUEST, {**request_of_job, RECORD_OF_JOB: _record(kept, base, "", point)})


def _record(run: Run, base: RunContext, number: str, point: RunContext | None = None) -> dict[str, Any]:
    """Return job.json of a sweep, or of a point. `number`: the id of its job."""
    own = base if point is None else point
    name = base.asked.job.name or base.asked.job.program.title  # all tasks of an array have the same
    requeue = 0 if point is None else client(base.asked.job.scheduler).scheduler.terms(base.options).requeue
    return job_record(run, own.asked, base.argv, number, False, requeue, name, base.after)


def _link(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """Make a file available under another name; without hard links, a copy of it. A missing one is ignored."""
    with suppress(FileNotFoundError):
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, target)


def _submit(context: SweepContext, sweep_dir: Run, name: str) -> str:
    """Submit the job array, and record its number."""
    base = context.base
    asked, options, store = base.asked, base.options, base.store
    asks = client(asked.job.scheduler)
    arrays = asks.scheduler.arrays
    assert arrays is not None
    array = array_of(list(context.points), context.sweep.most)
    wanted = asks.complete(request(asked, options, sweep_dir.path, array, base.after))
    check_nodes(base, asks, wanted)
    text = script_of(wanted, asked, options, sweep_dir.path, (asks.name, name))
    script = write_script(sweep_dir, text)
    number = asks.submit(wanted, script, {**base.env, **secrets_of(asked.job)})
    with asks.cancels_unless_recorded(number):
        for index, point in context.points.items():
            kept = Run(store.path(point.run_id))
            remote.remember_way(kept, remote.way_of(point.asked.job))
            kept.write("job.json", _record(kept, base, arrays.task(number, str(index)), point))
        # the last one: see `job_records.run_of_task`
        sweep_dir.write("job.json", _record(sweep_dir, base, number))
    return number
