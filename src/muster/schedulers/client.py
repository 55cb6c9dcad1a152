"""Runs a scheduler's commands and reads their output; no answer means that nothing is known."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn, TypeVar

from muster.core.accounting import Granted, Recorded
from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest, MusterError, Unreachable
from muster.linux.files import replace_file
from muster.linux.shell import join, quote
from muster.rundir.run import Run
from muster.schedulers import SCHEDULERS, get_scheduler, typed
from muster.schedulers.scheduler import (
    Allocation,
    Answer,
    Argv,
    Ask,
    Final,
    JobGpus,
    JobRecord,
    JobStatus,
    Phase,
    Request,
    program_of,
)

T = TypeVar("T")

_WITHIN, _SOON = 15.0, 4.0
_NOT_FOUND = 127
"""Exit status of a shell that does not find a program."""
_AGAIN = 0.5
"""Seconds before a question is asked again that failed."""
_GPUS_WITHIN, _GPUS_AGAIN = 8.0, 10.0
"""Seconds for an answer about a job's GPUs, and for asking again: an answer is worth some seconds of a start."""
_FRESH = 2.0
"""Seconds for which an answer is cached, for all runs and processes of a user together."""
_SEEN = "{name}-jobs-{host}.json"
"""The cached answer, in muster's directory, which hosts of several clusters may share."""
_PROVEN = "{name}-sees.json"
"""The partitions whose nodes were seen to write to muster's directory."""
_SILENT_FOR = 5.0
"""Seconds for which this process does not ask a scheduler again after it gave no answer."""


class SchedulerClient:
    """Asks one scheduler, using the commands of its record."""

    def __init__(self, name: str):
        self.name, self.scheduler = name, get_scheduler(name)
        self.title = self.scheduler.title
        self._silent_since = -_SILENT_FOR
        self._no_accounting_since = -_SILENT_FOR
        self._seen: tuple[float, dict[str, JobStatus]] = 0.0, {}
        """The last answer about the user's jobs and its Unix time, so that a long queue is not parsed for each run."""

    # ---- questions --------------------------------------------------------------------------------------------------

    def _answer(self, argv: Argv, within: float = _WITHIN) -> Answer:
        """Run a command without the user's environment variables that would change its meaning, and return its output.

        `within`: timeout in seconds. Raises OSError, TimeoutExpired.
        """
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=within,
            env=self.scheduler.clean(os.environ),
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def _asked(
        self,
        ask: Ask[T] | None,
        otherwise: T,
        within: float = _WITHIN,
        again: float = 0.0,
        accepted: Callable[[T], bool] = lambda found: True,
    ) -> T:
        """Return the answer to a question; `otherwise` if the scheduler has no such command, or does not answer.

        For `again` seconds the question is asked again if there was no answer, or it was not `accepted`. The last
        answer is returned even if it was not.
        """
        if ask is None:
            return otherwise
        found, deadline = otherwise, time.monotonic() + again
        while True:
            try:
                found = ask.read(self._answer(ask.argv, within))
                if accepted(found):
                    return found
            except FileNotFoundError:
                return found  # the command is not installed
            except (OSError, subprocess.TimeoutExpired):
                pass
            if time.monotonic() >= deadline:
                return found
            time.sleep(_AGAIN)

    def ask(self, ask: Ask[T]) -> T:
        """Return the answer to a question that must be answered. Raises `InvalidRequest`, `Unreachable`."""
        return ask.read(Answer(0, self.call(ask.argv)))

    def call(self, argv: Argv) -> str:
        """Return the output of a command that must succeed. Raises `InvalidRequest`, `Unreachable`."""
        look = self.scheduler.down or None
        try:
            done = self._answer(argv)
        except FileNotFoundError:
            raise InvalidRequest(f"command not found: {argv[0]}", self.scheduler.login_node) from None
        except subprocess.TimeoutExpired:
            raise Unreachable(f"no answer from {program_of(argv)} within {_WITHIN:g}s", look) from None
        if done.code != 0:
            said = (done.err.strip().splitlines() or ["no error message"])[-1]
            if self.scheduler.no_cluster and re.search(self.scheduler.no_cluster, done.err):
                raise InvalidRequest(
                    f"{self.title} commands are installed, but this machine is not part of a cluster",
                    "run this on a login node",
                )
            if done.code == _NOT_FOUND and program_of(argv) != argv[0]:  # shell lines
                raise InvalidRequest(f"command not found: {program_of(argv)}", self.scheduler.login_node)
            raise Unreachable(f"{program_of(argv)} failed: {said}", look)
        return done.out

    def jobs(self, root: Path, since: float = 0.0, within: float = _WITHIN) -> dict[str, JobStatus] | None:
        """Return the user's jobs by id, up to `_FRESH` seconds old; None if the scheduler does not answer.

        `root` is muster's directory. A cached answer from before `since` (Unix time) is not used.
        """
        asked, found = self._seen
        if asked > since and 0 <= time.time() - asked < _FRESH:
            return found
        question = self.scheduler.jobs()
        kept = root / _SEEN.format(name=self.name, host=socket.gethostname())
        with suppress(OSError, *NOT_UNDERSTOOD):
            seen = json.loads(kept.read_text())
            if seen["time"] > since and 0 <= time.time() - seen["time"] < _FRESH:
                self._seen = seen["time"], question.read(Answer(0, seen["said"]))
                return self._seen[1]
        if time.monotonic() - self._silent_since < _SILENT_FOR:
            return None
        asked = time.time()
        try:
            done = self._answer(question.argv, within)
            answered = done.code == 0
        except (OSError, subprocess.TimeoutExpired):
            answered = False
        if not answered:
            self._silent_since = time.monotonic()
            return None
        with suppress(OSError):  # a full disk must not withhold the answer
            replace_file(str(kept), json.dumps({"time": asked, "said": done.out}).encode())
        self._seen = asked, question.read(done)
        return self._seen[1]

    def phase(self, status: JobStatus) -> Phase:
        """Return the phase of a job."""
        return self.scheduler.phase(status.state)

    # ---- the job that this process runs in --------------------------------------------------------------------------

    def allocation(self, env: Mapping[str, str], root: Path, within: float = _WITHIN) -> Allocation | None:
        """Return the allocation in which this process runs; None outside of any job.

        Raises `InvalidRequest` if only the environment claims there is one: a shell, tmux or container may outlive the
        job whose environment variables it has.
        """
        found = self.own_allocation(env, within)
        if found is None or self.scheduler.left_over is None:
            return found
        jobs = self.jobs(root, within=within)
        if jobs is None or (found.job in jobs and self.phase(jobs[found.job]).lives):
            return found  # no answer means that nothing is known
        # that answer may be older than the job, or come from another cluster
        try:
            now = self._job_now(found.job, self.scheduler.cluster(env), within)
        except LookupError:
            return found
        if now is not None and self.phase(now) is not Phase.ENDED:
            return found
        why = f"that job has ended ({now.state})" if now else f"{self.title} knows no such job of yours"
        what, remedy = self.scheduler.left_over(found)
        raise InvalidRequest(
            f"stale {what}: {why}", f"run `{remedy}`; then {typed(self.name)} submits a job of its own"
        )

    def own_allocation(self, env: Mapping[str, str], within: float = _WITHIN) -> Allocation | None:
        """Return the job in which a process with this environment runs, or seems to; None outside of one."""
        found = self.scheduler.allocation(env)
        return found if found is not None else self._asked(self.scheduler.ask_allocation(env), None, within)

    def _job_now(self, job: str, cluster: str, within: float) -> JobStatus | None:
        """Return the status of a job on the named cluster; None if it has no such job.

        Raises `LookupError` if this cannot be determined.
        """
        if self.scheduler.job_now is None:
            raise LookupError
        own = self._asked(self.scheduler.cluster_asked, "", within) if cluster else ""
        if cluster and not own:
            raise LookupError  # it is not known which cluster would be asked
        ask = self.scheduler.job_now(job, "" if cluster == own else cluster, os.getuid() == 0)
        try:
            return ask.read(self._answer(ask.argv, within))
        except (OSError, subprocess.TimeoutExpired):
            raise LookupError from None

    def gpus_by_host(self, allocation: Allocation, env: Mapping[str, str]) -> dict[str, int | None]:
        """Return the job's number of GPUs on each of its nodes, in their order; None where it is unknown.

        `env`: the environment of a process of the job. Raises `Unreachable` if a job that requested GPUs seems to have
        none: ranks would silently compute without any.
        """
        if self.scheduler.gpus is None:
            return dict.fromkeys(allocation.hosts)
        claim = self.scheduler.gpus_claimed(env)

        def accepted(found: JobGpus | None) -> bool:
            """Return whether the record has the GPUs that were requested."""
            if found is None or any(found.by_host.values()):
                return found is not None
            # a complete record is right where a variable is left from another job
            return not found.requested and (bool(found.by_host) or not claim)

        ask = self.scheduler.gpus(allocation.job, dict(zip(allocation.hosts, allocation.tasks)))
        found = self._asked(ask, None, _GPUS_WITHIN, _GPUS_AGAIN if claim else _SOON, accepted)
        by_host = {} if found is None else found.by_host
        if not accepted(found) and (claim or found is not None):
            look = f"look at it with `{join(ask.argv)}`, and submit it again"
            what, program = f"the GPUs of job {allocation.job}", program_of(ask.argv)
            if found is None:
                raise Unreachable(f"cannot determine {what}: {program} gave no answer, but {claim} is set", look)
            if not by_host:
                said = found.requested or claim
                raise Unreachable(f"cannot determine {what}: {program} lists none, but the job requested {said}", look)
            raise Unreachable(
                f"{self.title} allocated no GPU to job {allocation.job}, which requested {found.requested}",
                f"its nodes may not have registered after a restart of the controller; {look}",
            )
        return {host: by_host.get(host) for host in allocation.hosts}

    def record(self, job: str) -> JobRecord | None:
        """Return the scheduler's record of a running job; None if it does not answer soon."""
        return self._asked(self.scheduler.record(job), None, _SOON) if self.scheduler.record is not None else None

    def kill_wait(self) -> float:
        """Return the seconds between the scheduler's SIGTERM and SIGKILL, or its default if it does not answer."""
        return self._asked(self.scheduler.signals.asked_kill_wait, self.scheduler.signals.kill_wait)

    def start_step(
        self,
        job: str,
        hosts: Sequence[str],
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        gpus: int | None = 0,
        keep: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start one task on each of these hosts of a job, with `gpus` GPUs each and output to `log`.

        The command keeps the descriptors `keep` open.
        """
        with open(log, "ab") as file:
            return subprocess.Popen(
                self.scheduler.step(hosts, command, job, gpus, False),
                env=self.scheduler.clean(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                pass_fds=keep,
            )

    def granted(self, job: str) -> dict[str, Granted]:
        """Return what a job has on each of its nodes; empty if that is unknown."""
        return self._asked(self.scheduler.granted(job), {}) if self.scheduler.granted is not None else {}

    def starts_tasks_with(self, option: str) -> bool:
        """Return whether the scheduler's program that starts tasks has this option, as of a plugin."""
        try:
            argv = [self.scheduler.task.program, "--help"]
            told = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_WITHIN)
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
            return False
        return re.search(rf"(^|\s){re.escape(option)}\b", told.stdout) is not None

    def requeue(self, job: str, ending: bool) -> Answer:
        """Requeue a running job."""
        assert self.scheduler.requeue is not None
        done = subprocess.run(
            self.scheduler.requeue(job, ending),
            capture_output=True,
            text=True,
            env=self.scheduler.clean(os.environ),
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    # ---- a pending or finished job ----------------------------------------------------------------------------------

    def state(self, run: Run, within: float = _WITHIN) -> str | None:
        """Return the state of a run's job; empty if the scheduler no longer lists it, None if it does not answer."""
        found = self.jobs(run.path.parents[1], float(run.job["time"]), within)
        if found is None:
            return None
        seen = _of(run, found)
        return "" if seen is None else seen.state

    def seen(self, run: Run, within: float = _WITHIN) -> JobStatus | None:
        """Return a run's job as the scheduler lists it; None if it does not."""
        found = self.jobs(run.path.parents[1], float(run.job["time"]), within)
        return None if found is None else _of(run, found)

    def final(self, job: str) -> Final:
        """Return the final state of a job that is no longer listed; empty if there is no accounting."""
        return Final() if self.scheduler.final is None else self._of_accounting(self.scheduler.final(job), Final())

    def recorded(self, job: str, since: float) -> Recorded | None:
        """Return what accounting recorded of a job submitted at `since` (Unix time); None if it knows nothing yet."""
        ask = self.scheduler.recorded
        return None if ask is None else self._of_accounting(ask(job, since), None)

    def _of_accounting(self, ask: Ask[T], otherwise: T) -> T:
        """Return the answer to a question to accounting; `otherwise` without one."""
        if time.monotonic() - self._no_accounting_since < _SILENT_FOR:
            return otherwise
        try:
            answer = self._answer(ask.argv, _SOON)
            if answer.code == 0:
                return ask.read(answer)
        except (OSError, subprocess.TimeoutExpired):
            pass
        # a list of many old runs must not wait for accounting that is off or unreachable once for each of them
        self._no_accounting_since = time.monotonic()
        return otherwise

    def restarts(self, job: str) -> int:
        """Return how often a job was requeued; 0 if unknown."""
        return self._asked(self.scheduler.restarts(job), 0) if self.scheduler.restarts is not None else 0

    def start_now(self, job: str) -> None:
        """Have a requeued job start as soon as possible."""
        if self.scheduler.start_now is not None:
            argv = self.scheduler.start_now(job)
            subprocess.run(argv, capture_output=True, env=self.scheduler.clean(os.environ))

    def cancel(self, job: str) -> None:
        """Cancel a job. Raises `InvalidRequest`, `Unreachable`."""
        self.call(self.scheduler.cancel(job))

    @contextmanager
    def cancels_unless_recorded(self, job: str) -> Iterator[None]:
        """Cancel a job that was submitted if its record cannot be written: no command would know of it."""
        try:
            yield
        except BaseException:
            with suppress(MusterError):
                self.cancel(job)
            raise

    def complete(self, request: Request) -> Request:
        """Return the request with what only the cluster can tell. Raises `InvalidRequest`, `Unreachable`."""
        ask = self.scheduler.complete(request)
        return request if ask is None else self.ask(ask)

    def submit(self, request: Request, script: Path, env: Mapping[str, str]) -> str:
        """Submit a script and return the job id. Raises `InvalidRequest` with the scheduler's own message."""
        ask = self.scheduler.submit(request, str(script))
        try:
            done = subprocess.run(ask.argv, capture_output=True, text=True, env=self.scheduler.submit_env(env))
        except FileNotFoundError:
            raise InvalidRequest(
                f"{typed(self.name)}: command not found: {ask.argv[0]}", self.scheduler.login_node
            ) from None
        if done.returncode != 0:
            refusal = self.scheduler.refused(done.stderr)
            if refusal.option:
                self._refuse_option(ask.argv[0], refusal.option)
            raise InvalidRequest(f"{self.title} rejected the job: {refusal.words}", refusal.hint)
        return ask.read(Answer(0, done.stdout, done.stderr))

    def _refuse_option(self, program: str, name: str) -> NoReturn:
        """Raise `InvalidRequest` for an option that the command rejected.

        Only the command knows its options: its `--help` may not list all (sbatch 22.05 omits `--hint`, `--prefer` and
        more).
        """
        known = self._asked(self.scheduler.options_known, set[str]())
        raise InvalidRequest(
            f"{program} has no option `--{name}`", did_you_mean(name, known) or f"list its options with `man {program}`"
        )

    def try_folder(self, root: Path, request: Request, env: Mapping[str, str], python: str = "") -> bool:
        """Check with a job step of a second, on a node that is free now, that nodes can write to muster's directory.

        `python`: an interpreter that they have to see, too. Done once for each partition; if no node is free, return
        False: the job itself finds out. Raises `InvalidRequest`.
        """
        if self.scheduler.trial is None:
            return False
        partition = dict(request.options).get("partition", "")
        proven = root / _PROVEN.format(name=self.name)
        known: list[str] = []
        with suppress(OSError, *NOT_UNDERSTOOD):
            known = [str(name) for name in json.loads(proven.read_text())]
        wanted = [partition, *([f"{partition} {python}"] if python else ())]
        if all(name in known for name in wanted):
            return True
        flag = root / f"seen-by-a-node-{os.getpid()}"
        script = f"echo reached; [ -x {quote(python or '/')} ] || echo unseen; echo >{quote(str(flag))}"
        try:
            done = subprocess.run(
                self.scheduler.trial(request, ("sh", "-c", script)),
                capture_output=True,
                text=True,
                env=self.scheduler.clean(env),
                timeout=_WITHIN,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        arrived = flag.exists()
        flag.unlink(missing_ok=True)
        if "unseen" in done.stdout:
            raise InvalidRequest(
                f"--ship-env: {self.title} nodes do not see {python}, which is on a disk of this machine",
                "make the environment in a directory that all nodes share: they send it to each other from there",
            )
        if arrived:
            with suppress(OSError):
                replace_file(str(proven), json.dumps(list(dict.fromkeys([*known, *wanted]))).encode())
        elif "reached" in done.stdout:
            said = done.stderr.strip().splitlines()[:1]
            raise InvalidRequest(
                f"{self.title} nodes cannot write to the shared run directory {root}"
                + (f": {said[0]}" if said else ""),
                "choose a directory on a file system that all nodes share: --run-dir, or MUSTER_HOME",
            )
        return arrived

    def replace_with(self, command: Argv) -> int:
        """Replace this process by the command. Raises `InvalidRequest` if it is not installed."""
        try:
            os.execvp(command[0], list(command))
        except FileNotFoundError:
            raise InvalidRequest(
                f"command not found: {command[0]}",
                f"{typed(self.name)} requires a machine that can submit to {self.title}",
            ) from None


def _of(run: Run, found: Mapping[str, JobStatus]) -> JobStatus | None:
    """Return the job of a run: another cluster may have a different job of this id."""
    job = run.scheduled
    assert job is not None
    seen = found.get(job.job)
    return seen if seen is not None and seen.name in (job.job_name, None) else None


@cache
def client(name: str) -> SchedulerClient:
    """Return this process's client of a scheduler."""
    return SchedulerClient(name)


def around(env: Mapping[str, str], root: Path, within: float = _WITHIN) -> tuple[str, Allocation] | None:
    """Return the scheduler and the job in which this process runs; None outside of any job.

    Raises `InvalidRequest` if only the environment claims that there is a job.
    """
    for name in SCHEDULERS:
        found = client(name).allocation(env, root, within)
        if found is not None:
            return name, found
    return None
