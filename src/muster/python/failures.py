"""The results and failures of the ranks of a run, from its files."""

from __future__ import annotations

import errno
import os
from typing import Any

from muster.client.client import Client
from muster.core.model import Plan
from muster.core.results import RankExit, RunResult, RunState
from muster.core.roles import rank_in_words, ranks_of
from muster.errors import InvalidRequest, RemoteError
from muster.payloads import pickles
from muster.rundir.finding import why_refused
from muster.rundir.run import FUNCTION, Run
from muster.ui.death_text import signal_name
from muster.ui.formatting import size_in_words
from muster.ui.reason_text import reason_in_words

RESULT = "result"
"""The kind of the file of a rank with its result."""


def is_call(run: Run) -> bool:
    """Return whether the ranks of a run call a function."""
    return os.path.lexists(run.path / FUNCTION)


def fetch(run: Run) -> None:
    """Fetch the results of ranks on hosts that do not share the run directory."""
    with Client(run) as client:
        client.sync_files()


def results_of(run: Run, outcome: RunResult) -> list[Any]:
    """Return what each rank returned, by rank; None for the ranks of a script. Raises what the first rank raised."""
    if outcome.state is not RunState.SUCCEEDED:
        raise_failure(run, outcome)
    plan = run.plan
    ranks = range(plan.world_size if plan is not None else 0)
    calling = _calling(run, plan)
    if plan is not None and plan.roles:  # servers that were terminated after the main role return nothing
        calling -= {end.rank for end in outcome.exits if end.by_muster}
    return [_value(run, outcome, rank) if rank in calling else None for rank in ranks]


def results_by_role(run: Run, outcome: RunResult) -> dict[str, list[Any]]:
    """Return what the ranks of each role returned. Raises what the first rank raised."""
    found, plan = results_of(run, outcome), run.plan
    parts = plan.parts if plan is not None else ()
    return {part.name: [found[rank] for rank in part.own_ranks] for part in parts}


def _calling(run: Run, plan: Plan | None) -> set[int]:
    """Return the ranks that call a function: all or none without roles, as one program is a function or a script."""
    if plan is None or not is_call(run):
        return set()
    return {rank for part in plan.parts if part.job.program.source or not plan.roles for rank in part.own_ranks}


def _stored(run: Run, attempt: int, rank: int) -> pickles.Stored | None:
    """Return the result file of a rank; None without a complete one. Raises `InvalidRequest`."""
    if why := why_refused(run.path):
        raise InvalidRequest(f"cannot read the results of {run.id}: {why}", "only the owner of a run can read them")
    try:
        return pickles.read(str(run.log(attempt, rank, RESULT)))
    except (OSError, pickles.Incomplete):
        return None


def _value(run: Run, outcome: RunResult, rank: int) -> Any:
    stored = _stored(run, outcome.attempt, rank)
    if stored is None:
        raise _error(
            run, rank, "exited with code 0 before the function returned", "return instead of calling sys.exit()"
        )
    try:
        return stored.value()
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            size = size_in_words(os.path.getsize(stored.path))
            words = f"returned a value of {size}, which does not fit into the memory that this program may use"
            raise _error(run, rank, words, "write it to a file in the function, and return the path") from error
        raise _error(run, rank, f"returned a value that cannot be unpickled here: {_line(error)}", None) from error


def raise_failure(run: Run, outcome: RunResult) -> None:
    """Raise the exception of the rank that failed first, or `RemoteError`."""
    failures = failures_of(run, outcome)
    cause = outcome.root_cause
    first = next((found for found in failures if cause is not None and found.rank == cause.rank), None)
    if first is None:
        words = f"{run.id} {outcome.state}"
        reason = reason_in_words(outcome.stopped) if outcome.stopped is not None else ""
        first = _error(run, None, f"{words}: {reason}" if reason else words, f"see it: muster show {run.operand}")
    if first.exception is not None:
        raise first.exception from first
    raise first


def failures_of(run: Run, outcome: RunResult) -> list[RemoteError]:
    """Return the failure of each rank that failed by itself, the first one first."""
    first = outcome.root_cause
    failed = [found for found in outcome.exits if not found.ok and not found.by_muster and not found.by_launcher]
    if first is not None and all(found.rank != first.rank for found in failed):
        failed.append(first)
    failed.sort(key=lambda found: (first is None or found.rank != first.rank, found.when))
    calling = _calling(run, run.plan)
    return [_failure(run, outcome, found, found.rank in calling) for found in failed]


def _failure(run: Run, outcome: RunResult, found: RankExit, calls: bool) -> RemoteError:
    stored = _stored(run, outcome.attempt, found.rank) if calls else None
    if stored is not None and stored.says.get("kind") == "error":
        failed = _error(run, found.rank, f"raised {stored.says['line']}", None)
        failed.log = str(run.log(outcome.attempt, found.rank, "err"))
        failed.traceback = str(stored.says["traceback"])
        if stored.says.get("pickled"):
            try:
                value = stored.value()
            except Exception:  # its class does not exist here
                value = None
            failed.exception = value if isinstance(value, BaseException) else None
        return failed
    failure = found.failure
    ended = f"exited with code {found.code}" if found.signal is None else f"was killed by {signal_name(found.signal)}"
    said = f": {failure.summary}" if failure is not None and failure.summary else ""
    failed = _error(run, found.rank, ended + said, f"see its output: muster logs {run.operand} --rank {found.rank}")
    failed.log = str(run.log(outcome.attempt, found.rank, "err"))
    failed.traceback = "\n".join(failure.frames) if failure is not None else ""
    return failed


def _error(run: Run, rank: int | None, words: str, hint: str | None) -> RemoteError:
    if rank is None:
        error = RemoteError(words, hint)
    else:
        plan = run.plan
        host = _host(plan, rank)
        who = rank_in_words(rank, ranks_of(plan) if plan is not None else ())
        error = RemoteError(f"{who}{f' on {host}' if host else ''} {words}", hint)
        error.host, error.rank = host, rank
    error.run = run.id
    return error


def _host(plan: Plan | None, rank: int) -> str:
    for node in plan.nodes if plan is not None else ():
        if any(found.rank == rank for found in node.ranks):
            return node.host.name
    return ""


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
