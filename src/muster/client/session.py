"""Requests to the controller of a session (`muster hold`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from muster.client.connection import Connection
from muster.client.remote import connect
from muster.controller.connections import ProcessConnection
from muster.core.env_forwarding import is_hidden
from muster.core.json_checks import Malformed, table
from muster.core.model import Host, Job, Plan
from muster.core.results import RunResult
from muster.core.suggestions import did_you_mean
from muster.errors import ControlError, InvalidRequest, Unreachable
from muster.linux.eventloop import EventLoop
from muster.linux.shell import quote
from muster.protocol.frames import VERSION
from muster.rundir.finding import RunNotFound, find_run
from muster.rundir.run import Run, Unreadable
from muster.rundir.session import SessionRecord, has_begun, read_session
from muster.rundir.store import Store
from muster.ui.reason_text import reason_in_words, reason_with_hint

Tell = Callable[[str], object]
"""Shows the user a message."""

_WITHIN = 60.0
"""Seconds for the agents of a session to have their parts of a run, after the host was reached."""


def name_of_session(run: Run) -> str:
    """Return the name of a session in displayed commands: the user's name, or its id."""
    return str(run.job.get("name")) if run.operand == run.id and run.job.get("name") else run.operand


def find_session(store: Store, name: str, tell: Tell | None = None) -> tuple[Run, SessionRecord, Plan]:
    """Return the session of this name or id. Raises `InvalidRequest`.

    If its job has not started yet, it is waited for with messages to `tell`; without that it is refused.
    """
    run = find_held(store, name)
    if not has_begun(run):
        if tell is None:
            raise InvalidRequest(f"the session {name} has not started yet", f"see `muster show {run.operand}`")
        await_ready(run, time.monotonic(), tell)
    record, plan = read_session(run), run.plan
    if record is None or plan is None:
        raise InvalidRequest(
            f"the session {name} was held from another machine", "start the run there, or hold a session here"
        )
    return run, record, plan


def find_held(store: Store, name: str) -> Run:
    """Return the session of this name or id, which may still be in a queue. Raises `InvalidRequest`."""
    try:
        run = find_run(store, name, _has_no_result)
    except InvalidRequest:
        from muster.client.reconcile import lives

        try:
            run = find_run(store, name, lives)
        except RunNotFound:
            raise _no_such_session(store, name) from None
    job = run.job.get("job", {})
    if job.get("hold") is None:
        what = name if name in (run.id, run.operand) else f"{name} ({run.id})"
        end = f"end it: muster kill {name}; " if run.outcome is None else ""
        raise InvalidRequest(f"{what} is a run, not a session", f"{end}hold a session: muster hold --name NAME")
    if run.outcome is not None:
        raise InvalidRequest(
            f"the session {name} has ended{_how(run.outcome)}",
            f"see how: muster show {run.operand}; hold a new one: muster hold",
        )
    return run


def _no_such_session(store: Store, name: str) -> InvalidRequest:
    """Return the error for the name of a session that does not exist, with the sessions that do."""
    from muster.rundir.finding import list_runs

    found = [run for run in list_runs(store) if run.job.get("job", {}).get("hold") is not None and _has_no_result(run)]
    known = ", ".join(name_of_session(run) for run in found[::-1][:3])
    sessions = f"sessions: {known}; hold another" if known else "no session is held; hold one"
    hint = did_you_mean(name, [name_of_session(run) for run in found])
    return InvalidRequest(f"session not found: `{name}`", hint or f"{sessions}: muster hold --name {quote(name)}")


def _how(outcome: RunResult) -> str:
    """Return why a session has ended, behind a colon; empty if that is not known."""
    how = reason_in_words(outcome.stopped)
    return f": {how}" if how else ""


def _has_no_result(run: Run) -> bool:
    """Return whether a run has not ended, as far as its directory says: mostly enough to choose between namesakes."""
    try:
        return run.outcome is None
    except Unreadable:
        return False


class SessionClient:
    """A connection to the controller of a session, in the loop of a command."""

    def __init__(self, loop: EventLoop, session: Run) -> None:
        self._loop, self._session = loop, session
        self.link: ProcessConnection = connect(session)
        self._answers: list[dict[str, Any]] = []
        self._gone, self._deadline = False, 0.0
        self._connection = Connection(loop, self.link, self._heard)
        self._connection.start()

    def _heard(self, fields: dict[str, Any], payload: bytes) -> None:
        if fields["kind"] == "no_controller":
            self._gone = True
        elif fields["kind"] in ("answer", "unknown"):
            self._answers.append(fields)

    def _greet(self) -> None:
        """Wait for the connection, and ask which version the controller has: its answer comes before any other."""
        self._deadline = time.monotonic() + _WITHIN
        self._until(lambda: self._connection.arrived)
        self._answers.clear()
        self._tell("state", version=VERSION)

    def _tell(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self._connection.tell(kind, payload, **fields)

    def _answer(self) -> dict[str, Any]:
        """Return what the session answers.

        Raises `Unreachable`, `ControlError`, and `InvalidRequest` if it refuses.
        """
        name = name_of_session(self._session)
        self._until(lambda: len(self._answers) > 1 or self._gone)
        if self._gone:
            raise ControlError(f"the session {name} has ended", f"see how: muster show {name}; hold a new one")
        state, answer = self._answers
        if state.get("version") != VERSION or answer["kind"] == "unknown":
            raise ControlError(
                f"the session {name} was started by another version of muster",
                f"hold it anew: muster kill {name}, then muster hold",
            )
        try:
            told = table(answer.get("session"))
        except Malformed as error:
            raise ControlError(f"invalid answer of the session {name}: {error}", None) from None
        if told.get("refused"):
            raise InvalidRequest(f"{name}: {told['refused']}", str(told.get("hint", "")) or None)
        return told

    def _until(self, condition: Callable[[], object]) -> None:
        while not condition():
            if not self._connection.open or time.monotonic() >= self._deadline:
                said = self.link.stderr_summary() or "no answer"
                raise Unreachable(
                    f"no answer from the session {name_of_session(self._session)}: {said}", "see `muster ps`"
                )
            self._loop.run_once(self._deadline - time.monotonic())

    def begin(self, order: Mapping[str, Any]) -> ProcessConnection:
        """Start a run on the session; return the connection, which leads to the controller of the run from now on."""
        self._greet()
        self._tell("begin_run", json.dumps(order).encode())
        told = self._answer()
        self._tell("visit_run", run_dir=str(told["run_dir"]))
        self._loop.remove(self.link.stdout, self.link.stderr)
        return self.link

    def release(self, by: str, force: bool) -> None:
        """End the session; with `force` also the run that is on it."""
        self._greet()
        self._tell("release", by=by, force=force)
        self._answer()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


_READY_WITHIN = 180.0
"""Seconds for the interpreters of a session to import torch and the rest."""

_LOOKS = 0.05
_ENDS_WITHIN = 10.0


def await_ready(run: Run, began: float, tell: Tell) -> None:
    """Wait until all nodes of a session are ready for runs; a job may be pending for long. Raises `ControlError`."""
    from muster.client.client import Client
    from muster.client.reconcile import reconcile

    if run.scheduled is not None:
        from muster.client.session_job import await_job

        await_job(run, name_of_session(run), tell)
        began = time.monotonic()
    deadline = began + _READY_WITHIN
    with Client(run) as client:
        while time.monotonic() < deadline:
            answer = client.ask("state")
            if (answer.get("session") or {}).get("ready"):
                return
            if answer.get("gone"):
                break
            time.sleep(_LOOKS)
        found = reconcile(run, client=client)
    if found.outcome is not None:
        raise ControlError(reason_with_hint(found.outcome.stopped) or "the session has ended", None)
    name = name_of_session(run)
    raise ControlError(f"the session was not ready within {_READY_WITHIN:g}s", f"end it: muster kill {name}")


def release_session(run: Run, by: str, force: bool) -> RunResult:
    """End a session, and wait until it has ended; with `force` also the run that is on it. Raises `MusterError`.

    A job that is still in the queue is removed from it.
    """
    # imported late: a run on a session does without
    from muster.client.client import Client
    from muster.client.follow import Follower, wait

    if not has_begun(run):
        from muster.client.session_job import leave_queue

        if (left := leave_queue(run, by)) is not None:
            return left
    with EventLoop() as loop:
        client = SessionClient(loop, run)
        try:
            client.release(by, force)
        finally:
            client.close()
    grace = run.plan.job.grace if run.plan is not None else 0.0
    with Client(run) as connection:
        status = wait(Follower(run, connection), grace + _ENDS_WITHIN).status
    if status.outcome is None:
        name = name_of_session(run)
        raise ControlError(f"{name} has not ended yet", f"see `muster ps`; or `muster kill {name}`")
    return status.outcome


def run_shell(job: Job, host: Host, gpus: int | None, env: Mapping[str, str]) -> int:
    """Run a shell on a host of a session, with the terminal of this process, and return its exit code.

    `job`: of the session's plan.json, which lacks secrets. `gpus`: their number there; None if unknown. In a
    scheduler's job the shell is a step of it. Over ssh it does not have the variables of `--env`, which would be
    visible on a command line.
    """
    setup = [*job.setup, *host.setup]
    for line in filter(is_hidden, setup):
        print(f"warning: not run in this shell, because its value is not stored: {line}", file=sys.stderr)
    lines = [f"cd {quote(job.cwd)}", *(line for line in setup if not is_hidden(line))]
    if job.scheduler:
        from muster.schedulers import get_scheduler

        of, words = get_scheduler(job.scheduler), ["bash", "-c", "\n".join([*lines, 'exec "${SHELL:-sh}"'])]
        assert of.shell is not None
        if os.isatty(0):
            argv = of.shell(host.name, words, job.allocation, gpus)
        else:
            argv = of.step((host.name,), words, job.allocation, gpus, True)
        return subprocess.run(argv, env=of.clean(env)).returncode
    if job.transport == "local":
        text = "\n".join([*lines, 'exec "${SHELL:-sh}"'])
        own = {name: value for name, value in job.env.items() if not is_hidden(value)}
        return subprocess.run(["bash", "-c", text], env={**env, **own}).returncode
    terminal = ["-t"] if os.isatty(0) else []
    where = f"{host.user}@{host.name}" if host.user else host.name
    text = "\n".join([*lines, 'exec "${SHELL:-sh}" -l'])
    return subprocess.run([*job.ssh, *terminal, where, text], env=dict(env)).returncode
