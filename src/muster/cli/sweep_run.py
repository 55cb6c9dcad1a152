"""`muster run` and `muster plan` for sweeps: several runs that differ by their arguments."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from muster.cli.common import named, store_of
from muster.cli.context import tell_progress
from muster.cli.plan import print_plan
from muster.cli.run_line import context_of, read_again
from muster.cli.sweeps import follow_sweep, left_in_words
from muster.client.reconcile import point_statuses
from muster.client.sweeps import counts
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.core.env_forwarding import REDACTED
from muster.core.results import RunState
from muster.core.sweep import counts_in_words
from muster.errors import InvalidRequest
from muster.rundir.run import Run
from muster.rundir.sweeps import STOP, is_sweep, sweep_of, sweep_run, words_of
from muster.runner import sweeps
from muster.runner.context import RunContext
from muster.runner.sweeps import SweepContext


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
    if not sweeps.is_queued(context):
        raise InvalidRequest("--sweep without a queue is not supported yet", None)
    run = sweeps.submit(context, before)
    return _follow(run, options)


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
    run = named(store_of(options, env), parsed.operands[0] if parsed.operands else "last")
    run = sweep_run(run) or run
    if not is_sweep(run):
        raise InvalidRequest(f"{run.id} is not a sweep", "start a single run again with its command: `muster show`")
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
        ended = [one for one in ended if one.status.state is not RunState.SUCCEEDED]
    if not ended:
        print(f"{run.id}: no point to run again: {counts_in_words(counts(points))}")
        return None
    return run, [one.point.number for one in ended], old, merged


def _follow(run: Run, options: RunOptions) -> int:
    """Wait for the points in a queue; Ctrl-C leaves them there."""
    if options.detach:
        print(run.id)
        return 0
    try:
        return follow_sweep(run, say=lambda text: tell_progress(text, options.quiet))
    except KeyboardInterrupt:
        print(f"\n{left_in_words(run)}", file=sys.stderr)
        return 130


def plan_sweep(words: list[str], parsed: ParsedArgs, options: RunOptions, env: Mapping[str, str], began: float) -> int:
    """Print the points of a sweep, and the plan of the first one."""
    context = _prepare("plan", words, parsed, options, env, began)
    if options.scheduled and not options.json:
        print(sweeps.script_of_array(context))
    if not options.json:
        for point in context.sweep.points:
            program = context.points[point.number].asked.job.program
            label = f"{point.label}: " if point.label else ""
            print(f"# point {point.number}: {label}{' '.join(program.argv)}")
    if options.scheduled and not options.json:
        return 0
    if not options.json:
        print()
    return print_plan(context.points[context.sweep.points[0].number])
