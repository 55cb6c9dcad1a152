"""`muster why`, `stacks`: what the ranks of a run are doing, and which of them keeps the others waiting."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

from muster.cli.common import end_in_words, find_operand_run, parse_command
from muster.client.hangs import Look, look_at
from muster.config.command_options import StacksOptions, WhyOptions
from muster.core.hostlist import fold_hostlist
from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.layout import fold
from muster.core.printable import line as safe
from muster.core.results import RunState, StopKind
from muster.core.root_cause import is_own_failure
from muster.core.verdict import verdict_as_json
from muster.errors import InvalidRequest, MusterError
from muster.rundir.run import Run
from muster.ui.formatting import seconds, shortened
from muster.ui.hang_text import evidence_in_words, verdict_in_words
from muster.ui.stacks_text import stacks_in_words


def why(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print which rank keeps the others waiting, and what all ranks are doing."""
    asked = parse_command(WhyOptions, "why", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "why")
    look = look_at(run)
    if options.json:
        told = {
            "run": run.id,
            "live": look.live,
            "seconds": round(look.snapshot.when, 3),
            "attempt": look.snapshot.attempt,
            "reason": str(look.snapshot.reason),
            "sentence": verdict_in_words(look.verdict, look.hosts),
            "verdict": verdict_as_json(look.verdict),
            "last_output": {str(rank): lines for rank, lines in _last_output(run, look).items()},
        }
        print(json.dumps(told, indent=1))
        return 0
    outcome = None if look.live else run.outcome
    first = outcome.root_cause if outcome is not None and outcome.state is RunState.FAILED else None
    lost = outcome is not None and outcome.stopped is not None and outcome.stopped.kind is StopKind.NODE_LOST
    failed = lost or (first is not None and is_own_failure(first))
    ended = end_in_words(run, outcome) if outcome is not None else ""
    print(ended if failed else verdict_in_words(look.verdict, look.hosts))
    if not look.live:
        print(f"\n{_moment(look.snapshot)}:")
    print()
    for line in evidence_in_words(look.verdict, look.hosts):
        print(line)
    for rank, lines in _last_output(run, look).items():
        for stream, line in lines.items():
            print(f"  last line of rank {rank} on {stream}: {shortened(safe(line), _LONGEST)}")
    _print_silent(run, look.snapshot)
    if ended and not failed:
        print(f"\nthe run ended: {ended}")
    print(f"\nstacks: muster stacks {run.operand}")
    return 0


_MOST_RANKS, _TAIL, _LONGEST = 3, 1 << 13, 160
"""Ranks whose last output is shown, the bytes of it that are read, and the characters of a line that are shown."""


def _last_output(run: Run, look: Look) -> dict[int, dict[str, str]]:
    """Return the last line that each odd rank has written, by stream; of files that are here."""
    found: dict[int, dict[str, str]] = {}
    for rank in look.verdict.odd[:_MOST_RANKS]:
        for stream, name in (("out", "stdout"), ("err", "stderr")):
            try:
                with run.open_log(look.snapshot.attempt, rank, stream) as file:
                    file.seek(max(0, file.seek(0, 2) - _TAIL))
                    lines = file.read().decode(errors="replace").splitlines()
            except (OSError, MusterError):
                continue
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            if last:
                found.setdefault(rank, {})[name] = last
    return found


def stacks(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the Python stacks of the ranks, equal ones once, without stopping the ranks."""
    asked = parse_command(StacksOptions, "stacks", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "stacks")
    _require_ranks(run, options.rank)
    look = look_at(run, old=True)
    if not look.live:
        print(f"{run.id} has ended; stacks as of {_moment(look.snapshot)}", file=sys.stderr)
    _print_silent(run, look.snapshot)
    text = stacks_in_words(look.snapshot, look.verdict, look.hosts, options.rank, options.all_threads, look.live)
    print(text or "no ranks are running", file=sys.stdout if text else sys.stderr)
    return 0


def _require_ranks(run: Run, ranks: Iterable[int] | None) -> None:
    every = range(int(run.job.get("ranks") or 0))
    wrong = [rank for rank in ranks or () if rank not in every]
    if every and wrong:
        raise InvalidRequest(f"{run.id} has no rank {wrong[0]}", f"its ranks are {fold(every)}")


def _moment(snapshot: Snapshot) -> str:
    before = {
        SnapshotReason.FAILURE: ", just after a rank failed",
        SnapshotReason.STOP: ", before the ranks were terminated",
        SnapshotReason.HANG: ", when the ranks made no progress",
    }
    return f"{seconds(snapshot.when)} after the start{before.get(snapshot.reason, '')}"


def _print_silent(run: Run, snapshot: Snapshot) -> None:
    names = dict(enumerate(run.hosts))
    if snapshot.silent:
        hosts = fold_hostlist(names.get(node, f"node {node}") for node in snapshot.silent)
        print(f"warning: no answer from {safe(hosts)}", file=sys.stderr)
