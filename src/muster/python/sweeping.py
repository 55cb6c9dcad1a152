"""Start sweeps and chains for a Python program: what `muster.submit` does with `sweep=`, `array=` and `chain=`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.core.sweep import Ids
from muster.core.sweep import Sweep as SweepRecord
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.python.output import tell
from muster.python.splitting import OPTIONS, Split, name_of, split, values_in_words
from muster.python.starting import context_of, contexts_of_calls, options_of, ordered, typed, viewer
from muster.python.sweep import Point, Sweep
from muster.rundir.run import Run as RunDir
from muster.rundir.sweeps import STOP
from muster.runner import sweeps
from muster.runner.awaited import Awaited, wait_for
from muster.runner.context import RunContext
from muster.runner.detached import DetachedRun
from muster.runner.later import LaterRun
from muster.runner.sweeps import SweepContext
from muster.sweep_driver import drive


def start(program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], show: bool) -> Sweep[Any]:
    """Start the points of a sweep, or the parts of a chain. Raises `InvalidRequest` if nothing was started."""
    given = keywords.get("sweep")
    if isinstance(given, Mapping):  # values may come from an iterator
        given = {str(name): _several(name, values) for name, values in given.items()}
        keywords = {**keywords, "sweep": given}
    context, values = (_of_function if callable(program) else _of_script)(program, arguments, keywords, show, given)
    queued = sweeps.is_queued(context)
    if context.base.options.detach and not queued:
        raise InvalidRequest(
            f"detach=True: a {context.sweep.noun} that is not in a queue is run by this program",
            f"leave it out, or use the command line: muster run -d --{'chain' if context.sweep.chain else 'sweep'}",
        )
    base, waits = ordered(context.base)
    context = context._replace(base=base)
    if queued:
        if waits:
            raise InvalidRequest(
                f"after={waits[0].run.id!r}: not a job that the {context.sweep.noun} can wait for",
                "wait for it first: muster.attach(…).wait()",
            )
        run = sweeps.submit(context)
        places = {number: RunDir(base.store.path(Ids(run.id, number).run)) for number in context.points}
        return Sweep(run, [Point(DetachedRun(places[number]), number, values[number]) for number in places])
    return _run_here(context, values, waits, show)


def _several(name: Any, values: Any) -> Any:
    try:
        return values if isinstance(values, (str, bytes)) else list(values)
    except TypeError:
        return values  # refused with the other values


def _of_script(
    program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], show: bool, given: Any
) -> tuple[SweepContext, dict[int, Mapping[str, Any]]]:
    found = split(program, arguments, keywords)
    options, words = options_of(found), [os.fspath(program), *found.args]
    sweep, parsed = _requested(options), ParsedArgs({}, words, False)
    for note in sweeps.notes_of(sweep, options, parsed):
        tell(note)

    def resolved(line: ParsedArgs) -> RunContext:
        script, *args = line.operands
        context = context_of(script, found._replace(args=tuple(args)), show)
        return context._replace(argv=["run", *typed(found.options), *words])

    context = sweeps.prepare(sweep, parsed, options, resolved)
    return context, {point.number: dict(point.values) for point in sweep.points}


def _of_function(
    program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], show: bool, given: Any
) -> tuple[SweepContext, dict[int, Mapping[str, Any]]]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidRequest(
            f"sweep={given!r}: the parameters of a function are a mapping to lists", "sweep={'lr': [0.1, 0.01]}"
        )
    several: Mapping[str, Any] = given or {}
    names = list(several)
    explicit = keywords.get("args") is not None or keywords.get("kwargs") is not None
    for name in names:
        if not explicit and name in OPTIONS:
            raise InvalidRequest(
                f"sweep={{{name!r}: …}} is ambiguous: {name} is an option of muster too",
                f"a sweep gives arguments, not options; for a parameter of {name_of(program)}: kwargs={{}}",
            )
        values_in_words(name, several[name])  # raises if they are no list
    combined = [dict(zip(names, values)) for values in product(*several.values())] if names else [{}]

    def call(values: Mapping[str, Any]) -> Split:
        if not explicit:
            return split(program, arguments, {**keywords, **values})
        return split(program, arguments, {**keywords, "kwargs": {**(keywords.get("kwargs") or {}), **values}})

    found = [call(values) for values in combined]
    contexts = contexts_of_calls(program, found, show)
    sweep = _requested(contexts[0].options)
    if not names:
        contexts, combined = contexts * len(sweep.points), combined * len(sweep.points)
    return sweeps.of_calls(contexts, sweep), {one.number: values for one, values in zip(sweep.points, combined)}


def _requested(options: RunOptions) -> SweepRecord:
    sweep = sweeps.requested(options)
    assert sweep is not None
    return sweep


def _run_here(
    context: SweepContext, values: Mapping[int, Mapping[str, Any]], waits: Sequence[Awaited], show: bool
) -> Sweep[Any]:
    """Run the points from a thread of this program."""
    base = context.base
    run = sweeps.create(context)
    sweeps.write_record(run, context)
    points = {number: _shown(point, number, context, show) for number, point in context.points.items()}
    handles = {number: LaterRun(RunDir(point.store.path(point.run_id))) for number, point in points.items()}

    def work() -> None:
        failed: BaseException | None = None
        try:
            if wait_for(waits, base.progress, lambda: int((run.path / STOP).exists())):
                drive(context._replace(points=points), run, _nothing, _nothing, lambda: 0, handles)
        except BaseException as error:
            failed = error
        for handle in handles.values():
            handle.given_up(failed)

    processes.start_thread(work)
    return Sweep(run, [Point(handles[number], number, values[number]) for number in handles])


def _shown(point: RunContext, number: int, context: SweepContext, show: bool) -> RunContext:
    """Return the context of a point whose output begins with its number, if several run at the same time."""
    several = (context.sweep.most or 1) > 1
    return point._replace(viewer=viewer(point.options, show, f"[{number}.{{rank}}] " if several else None))


def _nothing(number: int) -> None:
    pass
