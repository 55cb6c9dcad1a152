"""A sweep while it runs: the output of its points, each line with its point, and a live table of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from muster.cli.run_log import RunLog, tell_unwritable
from muster.client.client import Client
from muster.client.points import row_of
from muster.client.reconcile import point_statuses
from muster.client.status import RunStatus
from muster.client.sweeps import PointStatus, counts, exit_code, whole
from muster.config.command_options import LogsOptions
from muster.core.results import RunState
from muster.core.sweep import counts_in_words
from muster.rundir.run import Run
from muster.rundir.sweeps import sweep_of
from muster.ui.color import use_color
from muster.ui.output_writer import reader_gone
from muster.ui.sweep_text import end_of_point, points_in_words
from muster.ui.top_text import Style

if TYPE_CHECKING:
    from muster.ui.top_screen import Screen

_TURN = 0.1
"""Seconds between looks at the logs."""
_LOOK = 1.0
"""Seconds between looks at the points."""


def follow_points(sweep: Run, options: LogsOptions, env: Mapping[str, str]) -> tuple[int, list[PointStatus]]:
    """Print what the points write until all have ended, each line with its point; return the exit code, and the points.

    The end of each point is told on stderr. Points that had ended before are not printed.
    """
    total, noun = len(sweep_of(sweep).points), "part" if sweep_of(sweep).chain else "point"
    ended: dict[str, RunStatus] = {}
    logs: dict[str, RunLog] = {}
    first = True
    with ExitStack() as connections:
        while True:
            points = point_statuses(sweep, known=ended)
            for one in points:
                if one.run is None or one.run.id in ended:
                    continue
                over = one.status.state.ended or one.status.state is RunState.LOST
                if one.run.id not in logs and _has_ranks(one) and not (first and over):
                    client = connections.enter_context(Client(one.run))
                    logs[one.run.id] = RunLog(one.run, client, options, env, f"[{one.point.number}.{{rank}}] ")
                if over:
                    ended[one.run.id] = one.status
                    if not first:
                        _end(logs.pop(one.run.id, None))
                        print(end_of_point(row_of(one, metrics=False), total, one.run.operand, noun), file=sys.stderr)
            state, first = whole(points, sweep_of(sweep).chain).state, False
            if reader_gone(1) or not (state.lives or state is RunState.UNKNOWN):
                break
            until = time.monotonic() + _LOOK
            while time.monotonic() < until and not reader_gone(1):
                try:
                    for log in logs.values():
                        log.turn()
                except OSError as error:
                    return tell_unwritable(error), points
                time.sleep(_TURN)
    print(f"{sweep.id}: {counts_in_words(counts(points))}", file=sys.stderr)
    return 0, points


def _has_ranks(one: PointStatus) -> bool:
    return one.run is not None and bool(one.run.job.get("ranks"))


def _end(log: RunLog | None) -> None:
    if log is not None:
        while log.turn():
            log.pause()
        log.finish()


def attach_sweep(sweep: Run, options: LogsOptions, env: Mapping[str, str]) -> int:
    """Print what the points write until all have ended; return the exit code of the sweep. Ctrl-C leaves it alone."""
    try:
        code, points = follow_points(sweep, options, env)
    except KeyboardInterrupt:
        hint = f"reattach: muster attach {sweep.operand}; stop: muster kill {sweep.operand}"
        print(f"\nmuster: detached, {sweep.id} keeps running; {hint}", file=sys.stderr)
        return 0
    return code or exit_code(points, sweep_of(sweep).chain)


# ---- top ------------------------------------------------------------------------------------------------------------


def top_sweep(sweep: Run, once: bool, env: Mapping[str, str]) -> int:
    """Show the table of the points until all have ended, or the user leaves; return the exit code of the sweep."""
    points = point_statuses(sweep)
    live = not once and sys.stdin.isatty() and sys.stdout.isatty() and env.get("TERM", "dumb") != "dumb"
    if live and _lives(points):
        from muster.ui.top_screen import Screen

        with Screen(use_color(1, env)) as terminal:
            points = _show(sweep, points, terminal)
    else:
        print("\n".join(_rows(sweep, points)))
    if _lives(points):
        if live:
            print(f"{sweep.id} keeps running; watch it again: muster top {sweep.operand}", file=sys.stderr)
        return 0
    return exit_code(points, sweep_of(sweep).chain)


def _lives(points: list[PointStatus]) -> bool:
    state = whole(points).state
    return state.lives or state is RunState.UNKNOWN


def _rows(sweep: Run, points: list[PointStatus]) -> list[str]:
    table = points_in_words([row_of(one) for one in points], "PART" if sweep_of(sweep).chain else "POINT")
    name = f" ({sweep.job['name']})" if sweep.job.get("name") else ""
    return [f"{sweep.id}{name}  {counts_in_words(counts(points))}", "", *table.splitlines()]


def _show(sweep: Run, points: list[PointStatus], terminal: Screen) -> list[PointStatus]:
    """Show the table until the sweep has ended, or the user leaves; return the points as they were at last."""
    from muster.ui.top_screen import row

    offset = 0
    looked = time.monotonic()
    while _lives(points):
        lines = _rows(sweep, points)
        room = max(1, terminal.size[1] - 4)
        offset = max(0, min(offset, len(lines) - 3 - room))
        rows = [row(lines[0], Style.TITLE), row(""), row(lines[2], Style.FAINT)]
        foot = f"arrows scroll  q leave  one point: muster top {sweep.operand}.{points[0].point.number}"
        terminal.draw([*rows, *map(row, lines[3 + offset :])], row(foot, Style.FAINT))
        key = terminal.key(max(0.05, looked + _LOOK - time.monotonic()))
        if key in ("q", "escape"):
            break
        offset += {"up": -1, "down": 1, "page up": -room, "page down": room}.get(key, 0)
        if time.monotonic() - looked >= _LOOK:
            points, looked = point_statuses(sweep), time.monotonic()
    return points
