"""`muster logs`: the output of a run's ranks, from their log files, in the order in which it was written."""

from __future__ import annotations

import errno
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from muster.cli.common import find_operand_run, parse_command
from muster.cli.sweeps import refuse_sweep
from muster.client.client import Client
from muster.client.follow import Follower, Mirror, tell_silence
from muster.client.reconcile import may_still_run, reconcile, require_known
from muster.config.command_options import LogsOptions
from muster.core.layout import fold, named
from muster.core.results import RoleRanks, RunState
from muster.core.roles import ranks_of
from muster.errors import InvalidRequest
from muster.rundir.log_order import Ordered
from muster.rundir.run import Run
from muster.rundir.sweeps import is_sweep, runs_by_point, sweep_of
from muster.ui.color import use_color
from muster.ui.folded_lines import FoldedLines
from muster.ui.output_writer import reader_gone, write_all
from muster.ui.terminal import TIMESTAMP, LinePrefixer, Where, prefixes
from muster.ui.text import unlogged_in_words

_LOOK = 0.1
"""Seconds between checks of the logs of a running run."""
_FULL = 1 << 15
"""Bytes of output that are written together."""


class _Page:
    """The destination of lines: writes all, or, until `turn`, only keeps the last `tail` of them."""

    def __init__(self, tail: int | None) -> None:
        self._last: deque[bytes] | None = None if tail is None else deque(maxlen=tail)
        self._lines = bytearray()

    def put(self, lines: bytes) -> None:
        """Add complete lines."""
        if self._last is not None:
            self._last.extend(line + b"\n" for line in lines.split(b"\n")[:-1])
            return
        if len(self._lines) + len(lines) < _FULL:
            self._lines += lines
            return
        self.turn()
        write_all(1, lines)

    def turn(self) -> None:
        """Write the kept lines. Raises OSError."""
        if self._last is not None:
            self._lines += b"".join(self._last)
            self._last = None
        write_all(1, self._lines)
        self._lines = bytearray()


def logs(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the logs; with `-f`, follow them until the run ends."""
    asked = parse_command(LogsOptions, "logs", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if options.fold:
        _refuse_with_fold(options)
    run = find_operand_run(store, rest, "logs", sweeps=True)
    if is_sweep(run):
        return _print_points(run, options, env)
    with Client(run) as client:
        return _print(run, client, options, env)


def _print_points(sweep: Run, options: LogsOptions, env: Mapping[str, str]) -> int:
    """Print the logs of each point of a sweep below its values. Raises `InvalidRequest` for `-f`."""
    if options.follow:
        refuse_sweep(sweep, "logs -f")
    code, runs = 0, runs_by_point(sweep)
    for point in sweep_of(sweep).points:
        if point.number not in runs or reader_gone(1):
            continue
        label = f": {point.label}" if point.label else ""
        write_all(1, f"==> {point.number}{label} <==\n".encode(errors="replace"))
        with Client(runs[point.number]) as client:
            code = max(code, _print(runs[point.number], client, options, env))
    return code


def _refuse_with_fold(options: LogsOptions) -> None:
    """Raise `InvalidRequest` for an option that has no meaning for folded lines."""
    for name, given in (
        ("--follow", options.follow),
        ("--timestamps", options.timestamps),
        ("--prefix", options.prefix is not None),
    ):
        if given:
            raise InvalidRequest(f"--fold cannot be combined with {name}", "leave out one of them")


def _print(run: Run, client: Client, options: LogsOptions, env: Mapping[str, str]) -> int:
    """Print the logs of a run, which is followed over this connection."""
    if not client.sync_files():
        print(f"warning: no answer from {run.job['served']['name']}: showing the logs copied so far", file=sys.stderr)
    attempts = run.attempts()
    attempt = options.attempt if options.attempt is not None else attempts[-1] if attempts else 0
    if attempts and attempt not in attempts:
        raise InvalidRequest(f"{run.id} has no attempt {attempt}", f"its attempts are {fold(attempts)}")
    streams = [name for name, only in (("out", options.stdout), ("err", options.stderr)) if only] or ["out", "err"]
    if options.follow:
        _await_start(run, client)
    every = range(int(run.job.get("ranks") or 1))
    roles = ranks_of(run.plan) if run.plan is not None else ()
    chosen = options.rank or tuple(every)
    if options.role is not None:
        chosen = tuple(rank for rank in chosen if rank in _ranks_of_role(run, options.role, roles))
    wrong = [rank for rank in chosen if rank not in every]
    if wrong:
        raise InvalidRequest(f"{run.id} has no rank {wrong[0]}", f"its ranks are {fold(every)}")
    keys = [(rank, stream) for rank in chosen for stream in streams]
    before = TIMESTAMP if options.timestamps else ""
    where, colour = _where(run, every), use_color(1, env)
    page, mirror = _Page(options.tail if not options.fold else None), Mirror(run, chosen)
    lines: LinePrefixer | FoldedLines
    if options.fold:
        lines = FoldedLines(where, colour, options.tail)
    else:
        lines = LinePrefixer(prefixes(where, options.prefix, colour, before, roles), False)
    follower = Follower(run, client, tell_silence, mirror) if options.follow else None
    shown = [Ordered(run, attempt, keys, mirror.take)]
    if options.since is not None:
        shown[-1].begin_since(time.time() - options.since)
    if options.tail is not None:
        shown[-1].begin_before_last(options.tail)

    def show(ordered: Ordered, all_of_it: bool) -> None:
        for written in ordered.read(all_of_it):
            page.put(lines.feed(*written))
            if reader_gone(1):
                break
        if all_of_it:
            page.put(lines.rest())
        page.turn()

    found = None
    try:
        while not reader_gone(1):
            # both before reading the files, so that nothing written later is missed
            found = follower.look() if follower is not None else None
            last = follower is None or found is None or not follower.goes_on(found)
            newer = [number for number in run.attempts() if number > attempt] if options.attempt is None else []
            show(shown[-1], bool(last or newer))
            if newer:
                shown[-1].close()
                attempt = newer[0]
                shown.append(Ordered(run, attempt, keys, mirror.take))
            elif last or follower is None:
                break
            else:
                follower.pause(_LOOK)
        if client.keeps_files:
            for earlier in shown[:-1]:
                show(earlier, True)  # one node may send the end of an attempt while another is already at the next one
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal is gone
            print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        return 1
    if shown[-1].untimed and before:
        told = "the run has no record of times"
        print(f"warning: no timestamps for {named(shown[-1].untimed)}: {told}", file=sys.stderr)
    _tell_missing(run, attempt, keys)
    if follower is not None and found is not None and follower.silent:
        require_known(run, found)
    if not run.attempts():
        starts = may_still_run(run, reconcile(run, client=client).state)
        why = "its ranks have not started yet; wait for them with -f" if starts else "its ranks were never started"
        print(f"{run.id} has no logs: {why}", file=sys.stderr)
    return 0


def _ranks_of_role(run: Run, name: str, roles: Sequence[RoleRanks]) -> range:
    """Return the ranks of a role of a run. Raises `InvalidRequest`."""
    for role in roles:
        if role.name == name:
            return range(role.first, role.first + role.ranks)
    known = ", ".join(role.name for role in roles)
    raise InvalidRequest(f"{run.id} has no role {name}", f"its roles are {known}" if known else "leave out --role")


def _where(run: Run, ranks: range) -> dict[int, Where]:
    """Return host, local rank and node of each rank, as planned; a run without a plan has no host yet."""
    plan = run.plan
    found = {rank: (str(run.job.get("host", "")), rank, 0) for rank in ranks}
    for node in plan.nodes if plan is not None else ():
        found.update({rank.rank: (node.host.name, rank.local_rank, node.number) for rank in node.ranks})
    return found


def _tell_missing(run: Run, attempt: int, logs: Collection[tuple[int, str]]) -> None:
    """Report what is missing in these logs because it could not be written."""
    outcome = run.outcome
    for line in unlogged_in_words(
        lacks
        for lacks in (outcome.unlogged if outcome is not None else ())
        if lacks.attempt == attempt and (lacks.rank, lacks.stream) in logs
    ):
        print(f"warning: {line}", file=sys.stderr)


def _await_start(run: Run, client: Client) -> None:
    """Wait until the number of ranks is known, which is after the job of the run has started."""
    while True:
        state = reconcile(run, client=client).state
        if not (state is RunState.PENDING or (state is RunState.RUNNING and not run.job.get("ranks"))):
            return
        time.sleep(0.2)
