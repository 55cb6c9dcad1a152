"""`muster run` and `muster plan` for sweeps: several runs that differ by their arguments."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from muster import api
from muster.cli.common import named, store_of
from muster.cli.context import tell_progress, viewer_of
from muster.cli.plan import print_plan
from muster.cli.run_line import context_of, read_again
from muster.cli.sweeps import begun_in_words, follow_sweep, left_in_words
from muster.client.points import row_of
from muster.client.reconcile import point_statuses, reconcile
from muster.client.sweeps import PointStatus, counts, exit_code
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.core.env_forwarding import REDACTED
from muster.core.results import RunState
from muster.core.sweep import Point, Sweep, counts_in_words, goes_on
from muster.errors import ControlError, InvalidRequest
from muster.rundir.run import FUNCTION, Run
from muster.rundir.sweeps import (
    DRIVER_LOG,
    STOP,
    is_sweep,
    runs_by_point,
    sweep_of,
    sweep_run,
    why_not_started,
    words_of,
    write_error,
)
from muster.runner import sweeps
from muster.runner.awaited import Awaited, after_others, wait_for
from muster.runner.context import RunContext, Viewer
from muster.runner.sweeps import SweepContext
from muster.sweep_driver import drive
from muster.ui.sweep_text import end_of_point


def run_sweep(words: list[str], parsed: ParsedArgs, options: RunOptions, env: Mapping[str, str], began: float) -> int:
    """Start the points of a sweep, wait for them unless detached, and return the exit code of the sweep."""
    before = None
    if options.resubmit is not None:
        again = _again(parsed, options, env)
        if again is None:
            return 0
        before, numbers, parsed, options = again
        context = sweeps.started_again(_prepare("run", words, parsed, options, env, began, before), before, numbers)
        (before.path / STOP).unlink(missing_ok=True)
    else:
        context = _prepare("run", words, parsed, options, env, began)
    if before is None:
        api.tell_of_others(context.base)
    queued = sweeps.is_queued(context)
    base, waits = after_others(context.base, detached=options.detach and not queued)
    context = context._replace(base=base)
    if queued:
        return _follow(sweeps.submit(context, before), options)
    run = sweeps.create(context) if before is None else before
    if options.detach:
        return _in_background(context, run, env, waits)
    sweeps.write_record(run, context)
    return _drive(context, run, options, env)


def _drive(context: SweepContext, run: Run, options: RunOptions, env: Mapping[str, str], shown: bool = True) -> int:
    """Run the points from this process, and return the exit code of the sweep; `shown`: with their output."""
    sweep, total = context.sweep, len(context.sweep.points)
    several = (sweep.most or 1) > 1
    labels = {point.number: f" ({point.label})" if point.label else "" for point in sweep.points}
    noun = "part" if sweep.chain else "point"
    got: list[int] = []

    def viewer(number: int) -> Viewer:
        if not shown:
            return lambda *_: api.Silent(False)
        return viewer_of(options, env, f"[{number}.{{rank}}] " if several else None)

    def begin(number: int) -> None:
        context.base.progress(f"{noun} {number} of {total}{labels[number]} starts")

    def end(number: int) -> None:
        own = points[number]
        ended = Run(own.store.path(own.run_id))
        if (ended.path / "job.json").exists():
            one = PointStatus(by_number[number], ended, reconcile(ended))
            context.base.progress(end_of_point(row_of(one, metrics=False), total, ended.operand, noun))

    by_number = {point.number: point for point in sweep.points}
    points = {number: point._replace(viewer=viewer(number)) for number, point in context.points.items()}
    with _signals(got):
        drive(context._replace(points=points), run, begin, end, lambda: got[-1] if got else 0)
    found = point_statuses(run)
    context.base.progress(f"{run.id}: {counts_in_words(counts(found))}")
    return 128 + got[0] if got else exit_code(found, sweep.chain)


@contextmanager
def _signals(got: list[int]) -> Iterator[None]:
    """Collect the signals that end a run, instead of being ended by them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda number, _: got.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_background(context: SweepContext, run: Run, env: Mapping[str, str], waits: Sequence[Awaited]) -> int:
    """Wait for other runs, and run the points, in a process that does not depend on this terminal; print the id."""
    sys.stdout.flush()
    ready, started = os.pipe()
    if os.fork() == 0:
        code = 125
        try:
            os.setsid()
            os.close(ready)
            log = os.open(run.path / DRIVER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            sweeps.write_record(run, context)
            os.write(started, b"1")
            os.closerange(3, 1 << 16)  # the one that the parent reads, and what the caller of muster had open
            wait_for(waits, context.base.progress, lambda: int((run.path / STOP).exists()))
            code = _drive(context, run, context.base.options, env, shown=False)
        except BaseException as error:
            write_error(error)
        finally:
            os._exit(code)
    os.close(started)
    begun = os.read(ready, 1)  # until the process is recorded, so that the sweep is known to live
    os.close(ready)
    if not begun:
        why = why_not_started(run) or f"see {run.path / DRIVER_LOG}"
        raise ControlError(f"{run.id} could not be started in the background: {why}", None)
    tell_progress(begun_in_words(run), context.base.options.quiet)
    print(run.id)
    return 0


def _prepare(
    verb: str,
    words: list[str],
    parsed: ParsedArgs,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    before: Run | None = None,
) -> SweepContext:
    """Return the contexts of the points, also those of a sweep that was started `before`. Raises `InvalidRequest`."""
    sweep = sweeps.requested(options) if before is None else sweep_of(before)
    if sweep is None and options.after:
        sweep = Sweep((Point(0),), 1, chain=True)
    if sweep is None:
        raise InvalidRequest("--max-parallel requires a sweep", "add --sweep NAME=VALUES or --array NUMBERS")
    if before is None:
        for note in sweeps.notes_of(sweep, options, parsed):
            print(note, file=sys.stderr)
    elif options.max_parallel is not None:
        sweep = sweep._replace(most=options.max_parallel)
    run_id = "" if before is None else before.id
    if before is not None:
        words = list(before.job["argv"][2:])

    def resolved(line: ParsedArgs) -> RunContext:
        return context_of([verb, *words], line, options, env, began, verb, run_id=run_id)

    return sweeps.prepare(sweep, parsed, options, resolved)


def _again(
    parsed: ParsedArgs, options: RunOptions, env: Mapping[str, str]
) -> tuple[Run, list[int], ParsedArgs, RunOptions] | None:
    """Return an existing sweep, its points to run again, and its command line with the options that were typed now.

    None if there is no such point. Raises `InvalidRequest`.
    """
    if len(parsed.operands) > 1 or options.given(RunOptions.sweep, RunOptions.array):
        raise InvalidRequest(
            "--resubmit takes the points and the script of the sweep that it names",
            "for example, `muster run --resubmit failed last`; options such as --time and --mem may be added",
        )
    if parsed.operands and os.path.isfile(parsed.operands[0]):
        raise InvalidRequest(
            f"--resubmit takes a sweep, not a script, got: {parsed.operands[0]}",
            f"name the sweep, or `last`: `muster run --resubmit {options.resubmit} last`",
        )
    run = named(store_of(options, env), parsed.operands[0] if parsed.operands else "last")
    run = sweep_run(run) or run
    if not is_sweep(run):
        raise InvalidRequest(f"{run.id} is not a sweep", "start a single run again with its command: `muster show`")
    if any(os.path.lexists(one.path / FUNCTION) for one in runs_by_point(run).values()):
        raise InvalidRequest(
            f"{run.id} calls a Python function, which the command line cannot start again",
            "start the points from Python: muster.submit(…, sweep=…)",
        )
    words = words_of(run)
    typed = {key: value for key, value in parsed.options.items() if key != "resubmit"}
    old, merged = read_again(words, typed, env, run.job.get("job", {}).get("cwd", ""))
    hidden = [word for word in words if REDACTED.rstrip(")") in word]
    if hidden and not parsed.options.get("env"):
        raise InvalidRequest(
            f"{run.id} was started with a secret on the command line, which was not kept: {hidden[0]}",
            "give it again with --env",
        )
    points = point_statuses(run)
    ended = [one for one in points if not one.status.state.lives and one.status.state is not RunState.UNKNOWN]
    if options.resubmit == "failed":
        chain = sweep_of(run).chain
        ended = [
            one
            for one in ended
            if one.status.state is not RunState.SUCCEEDED and not (chain and goes_on(one.status.state))
        ]
    if not ended:
        print(f"{run.id}: no point to run again: {counts_in_words(counts(points))}")
        return None
    return run, [one.point.number for one in ended], old, merged


def _follow(run: Run, options: RunOptions) -> int:
    """Wait for the points in a queue; Ctrl-C leaves them there."""
    if options.detach:
        tell_progress(begun_in_words(run), options.quiet)
        print(run.id)
        return 0
    try:
        return follow_sweep(run, say=lambda text: tell_progress(text, options.quiet), failed=tell_progress)
    except KeyboardInterrupt:
        print(f"\n{left_in_words(run)}", file=sys.stderr)
        return 130


def plan_sweep(words: list[str], parsed: ParsedArgs, options: RunOptions, env: Mapping[str, str], began: float) -> int:
    """Print the points of a sweep, and the plan of the first one."""
    context = _prepare("plan", words, parsed, options, env, began)
    if options.scheduled and not options.json and not context.sweep.chain:
        print(sweeps.script_of_array(context))
    if not options.json:
        for point in context.sweep.points:
            program = context.points[point.number].asked.job.program
            label = f"{point.label}: " if point.label else ""
            print(f"# {'part' if context.sweep.chain else 'point'} {point.number}: {label}{' '.join(program.argv)}")
    if options.scheduled and not options.json and not context.sweep.chain:
        return 0
    if not options.json:
        print()
    return print_plan(context.points[context.sweep.points[0].number])
