"""The `--on-end` command of a run: what it is told, and that it runs at most once.

Whoever decides the end of a run starts it: its controller; for a run without one, the command that finds out. The claim
is a file that only one process can create. It is also the stdin of the command, so nothing has to write to a pipe, and
the command may go on when its starter has exited.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, NamedTuple

from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import RunResult, RunState
from muster.errors import MusterError
from muster.linux.files import create_file
from muster.linux.processes import reason
from muster.rundir.run import Run
from muster.ui.command_text import how_it_was_started
from muster.ui.formatting import seconds
from muster.ui.text import outcome_in_words

FACTS, LOG, STATUS = "on_end.json", "on_end.log", "on_end.status"
"""Files of the run directory: what the command reads, which is also the claim; its output; its exit status."""
LIMIT = 60
"""Seconds for the command to exit."""
_AFTER_TERM = 5
"""Seconds from SIGTERM to SIGKILL after that."""
_TOO_LATE = 124
"""Exit status of timeout(1) for a command that took too long."""

_SHELL = f"""
cd "$2" 2>/dev/null || cd /
timeout -k {_AFTER_TERM} "$1" /bin/sh -c "$0"
status=$?
printf '%s\\n' "$status" >"$3/on_end.part" && mv "$3/on_end.part" "$3/on_end.status"
"""
"""Runs the command in the run's working directory with a time limit, and notes its exit status."""


class Notification(NamedTuple):
    """A started `--on-end` command."""

    run: Run
    process: subprocess.Popen[bytes]

    @property
    def ended(self) -> bool:
        """Whether the command has exited."""
        return self.process.poll() is not None

    def wait(self) -> None:
        """Wait for the command to exit, or to be killed for taking too long."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LIMIT + 2 * _AFTER_TERM)


def command_of(run: Run) -> str:
    """Return the `--on-end` command of a run; empty without one, or if its files are damaged."""
    try:
        return str(run.job.get("job", {}).get("on_end", ""))
    except MusterError:
        return ""


def notify(
    run: Run, state: RunState, outcome: RunResult | None, why: str = "", env: Mapping[str, str] | None = None
) -> Notification | None:
    """Start the `--on-end` command of a run that has ended; None if it has none, or it was started before.

    `why`: the reason, for an end without a result.
    """
    command = command_of(run)
    if not command:
        return None
    found = dict(os.environ if env is None else env)
    try:
        with _claim(run, facts_of_end(run, state, outcome, why)) as facts:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(run.path / LOG, flags, 0o600), "wb") as log:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", _SHELL, command, str(LIMIT), str(run.job.get("cwd", "/")), str(run.path)],
                    stdin=facts,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**found, "MUSTER_RUN_ID": run.id, "MUSTER_STATUS": str(state)},
                    start_new_session=True,
                )
    except FileExistsError:
        return None
    except (OSError, MusterError) as error:
        with suppress(OSError):
            (run.path / LOG).write_text(f"muster: cannot run the command: {reason(error)}\n")
        return None
    return Notification(run, process)


def _claim(run: Run, facts: Mapping[str, Any]) -> IO[bytes]:
    """Create the file that only one process can create, and open it for reading. Raises OSError."""
    path = run.path / FACTS
    create_file(str(path), (json.dumps(facts, indent=1) + "\n").encode())
    return open(path, "rb")


def facts_of_end(run: Run, state: RunState, outcome: RunResult | None, why: str = "") -> dict[str, Any]:
    """Return what the command reads from its stdin, as JSON."""
    job, now = run.job, time.time()
    hosts = run.hosts
    verdict = f"{state}: {why}" if why else str(state)
    if outcome is not None:
        verdict = outcome_in_words(outcome, run.operand, len(outcome.exits), hosts)
    title = job.get("name") or run.id
    scheduled = run.scheduled
    return {
        "run": run.id,
        "name": job.get("name", ""),
        "status": str(state),
        "exit_code": None if outcome is None else outcome.code,
        "text": f"{title}: {verdict.partition(chr(10))[0]}",
        "verdict": verdict,
        "duration": round(max(0.0, now - job["time"]) if outcome is None else outcome.duration, 3),
        "started": job.get("time"),
        "ended": round(now, 3),
        "attempts": 1 + (max(run.attempts(), default=0) if outcome is None else outcome.attempt),
        "ranks": job.get("ranks", 0),
        "hosts": list(hosts),
        "command": how_it_was_started(job),
        "cwd": job.get("cwd", ""),
        "run_dir": str(run.path),
        "scheduler": None if scheduled is None else {"name": scheduled.name, "job": scheduled.job},
    }


def status_of(run: Run) -> int | None:
    """Return the exit status of the command; None if it has not exited, or was never started."""
    try:
        text = (run.bytes_of(STATUS) or b"").decode("ascii", "replace").strip()
    except MusterError:
        return None
    return int(text) if text.isdigit() and len(text) < 4 else None


def failure_in_words(run: Run) -> str:
    """Return what went wrong with the command; empty if nothing did."""
    status = status_of(run)
    if status == 0:
        return ""
    how = f"exited with status {status}"
    if status is None:
        how = "did not run to its end"
    elif status == _TOO_LATE:
        how = f"was killed after {seconds(LIMIT)}"
    return f"the --on-end command {how}; its output: {run.path / LOG}"


def told_in_words(run: Run) -> str:
    """Return the line of `muster show` about the command; empty if it was not started."""
    if not os.path.lexists(run.path / FACTS):
        return ""
    status = status_of(run)
    try:
        lines = (run.bytes_of(LOG) or b"").decode("utf-8", "replace").splitlines()
    except MusterError:
        lines = []
    last = f": {safe(lines[-1])}" if lines and status != 0 else ""
    more = f" ({plural(len(lines), 'line')} in {run.path / LOG})" if lines else ""
    how = "has not exited" if status is None else "succeeded" if status == 0 else f"exit status {status}"
    return f"on end   {how}{last}{more}"
