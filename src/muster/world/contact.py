"""A run seen from another terminal: is it still there, and what to ask of it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from muster.agent import local, procfs, system, trace
from muster.agent.eventloop import EventLoop
from muster.agent.messages import AGENT, CLIENT, FROM_CLIENT, PROXY, TO_CLIENT, Message, between
from muster.agent.protocol import VERSION, Refused, Unknown, Unpacker, pack
from muster.errors import Impossible, MusterError, RunFailed, Unreachable
from muster.model import Job, Plan, as_json
from muster.places import TRANSPORTS
from muster.places.target import Target
from muster.printable import line as safe
from muster.report import outcome_as_json
from muster.results import RunState
from muster.runs import (
    ID,
    JOB,
    MORE_OF_IT,
    Run,
    Store,
    Unreadable,
    every,
    note,
    some,
    why_not_ours,
    why_refused,
)
from muster.schedulers import get_scheduler
from muster.schedulers.scheduler import Final
from muster.stored import Malformed, checked, plan_from_json, table, text, texts, texts_by_name, whole
from muster.world.compat import HINT, UNTOLD, lacks
from muster.world.here import identity
from muster.world.status import Controller, RunStatus, status

if TYPE_CHECKING:
    from muster.world.link import ChildLink
    from muster.world.queue import SchedulerClient

PATIENCE = 5.0
"""Seconds in which an agent must answer."""

_COMES_BACK = 60.0
"""Seconds for which a host that does not answer is asked again by who waits for the end of a run there."""

_TRIALS, _PAUSE = 5, 0.3
"""How often a supervisor that hung up without an answer is asked again, and the seconds before that."""


ANSWERS_WITHIN = 15.0
"""Seconds in which a supervisor elsewhere, or a scheduler, has to answer."""

_TO_GIVE_UP = 1.0
"""Seconds for ending an ssh that got nowhere."""


def statuses(runs: Sequence[Run], within: float) -> list[RunStatus]:
    """What became of each run. All are asked at the same time; what has not answered in `within` seconds is unknown."""
    found: dict[str, RunStatus] = {}

    def look(several: Sequence[Run]) -> None:
        for run in several:
            try:
                found[run.id] = reconcile(run, within)
            except Unreadable as error:
                found[run.id] = RunStatus(RunState.UNREADABLE, error.sentence)
            except MusterError as error:
                found[run.id] = RunStatus(RunState.UNKNOWN, error.sentence)

    here, queued, far = _by_place(runs)
    # one thread for all that are in queues, since each is asked once and its answer kept. No pool: its threads would be
    # waited for when this program ends
    asked = [queued, *([run] for run in far)]
    asking = [threading.Thread(target=look, args=(several,), daemon=True) for several in asked]
    deadline = time.monotonic() + within + _TO_GIVE_UP
    for thread in asking:
        thread.start()
    look(here)
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = RunStatus(RunState.UNKNOWN, f"nothing was heard within {within:g} s")
    return [found.get(run.id, late) for run in runs]


def _by_place(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """Those of which this machine knows all; those of which a scheduler is asked; those of which another machine is."""
    here: list[Run] = []
    queued: list[Run] = []
    far: list[Run] = []
    for run in runs:
        try:
            job, over = run.job, run.outcome is not None
        except Unreadable:
            job, over = {}, True
        if is_anothers(run):
            here.append(run)
        else:
            (queued if job.get("scheduler") else far if job.get("served") and not over else here).append(run)
    return here, queued, far


def require_known(run: Run, found: RunStatus) -> None:
    """Raise `Unreachable` for a run of which nobody knows whether it still runs: no answer is never an end."""
    if found.state is RunState.UNKNOWN:
        raise Unreachable(f"{run.id}: it is unknown whether it still runs: {found.why}", "try again when that answers")


class _Sight:
    """What is asked about a run from this machine: see `status.Sight`. Each answer is kept."""

    def __init__(self, run: Run, within: float):
        self.run, self.within = run, within
        self.anothers = is_anothers(run)
        self.machine = identity()
        self._controller: Controller | None = None

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def queued(self) -> str | None:
        """The state of its job, as its scheduler has it."""
        found = _client_of(self.run)
        return None if found is None else found.state(self.run, self.within)

    def past(self) -> str:
        """The state with which its job ended, as accounting has it."""
        return self._final().state

    def cancelled_by(self) -> str:
        """Who cancelled its job, as accounting has it."""
        import pwd

        with suppress(KeyError, ValueError):
            return pwd.getpwuid(int(self._final().cancelled_by)).pw_name
        return ""

    def _final(self) -> Final:
        scheduled, found = self.run.scheduled, _client_of(self.run)
        return Final() if scheduled is None or found is None else found.final(scheduled.job)

    def controller(self) -> Controller:
        """What its controller answers."""
        if self._controller is None:
            answer = ask_supervisor(self.run, "state", self.within)
            self._controller = Controller(not answer.get("gone"), str(answer.get("silent", "")))
        return self._controller

    def listens(self) -> bool:
        """Its agent is here, even if it takes no connection; of another user's run, or its controller."""
        if self.anothers:
            return answers(self.run)
        try:
            link = _reach(self.run)
        except TimeoutError:
            return True
        if link is not None:
            link.close()
        return link is not None

    def starter_lives(self) -> bool:
        """The process that job.json names lives, and is not stopped (Ctrl-Z) while its agent has ended the ranks."""
        job = self.run.job
        lives = procfs.still_lives(job.get("pid", 0), job.get("pid_started", ""))
        return lives and (self.anothers or not _stopped_after_its_ranks(self.run, job["pid"]))


def reconcile(run: Run, within: float = ANSWERS_WITHIN) -> RunStatus:
    """What became of a run; the run directory here is brought up to date with it.

    `within` bounds the seconds for which another machine, or a scheduler, is waited for. Raises `Unreadable`.
    """
    sight = _Sight(run, within)
    found = status(run, sight)
    if found.elsewhere and found.outcome is None:
        refresh(run)
        found = status(run, sight)
    if sight.anothers:
        return found
    if found.heard:
        _note_answer(run)
    if found.outcome is not None and run.outcome is None:
        run.write_outcome(outcome_as_json(found.outcome))
    return found


def answers(run: Run) -> bool:
    """Its agent, or its supervisor, is here: whatever its files say, it runs."""
    path = str(run.path)
    return any(local.listens(partial(local.find, path, who)) for who in (local.AGENT, local.SUPERVISOR))


def is_anothers(run: Run) -> bool:
    """The run is another user's, and this is root.

    That user can write anything into the directory at any moment, links too. So root reads it field by field,
    writes nothing there, asks no host and no scheduler in that user's name, and believes no socket but that user's.
    """
    return run.uid != os.getuid()


def lives(run: Run) -> bool:
    """It runs, or waits to; one whose files are damaged or whose host does not answer is not known to."""
    try:
        return reconcile(run).state.lives
    except Unreadable:
        return False


def has_not_ended(run: Run) -> bool:
    """It lives as far as is known here, without a question to another machine that takes time."""
    try:
        scheduled = run.scheduled
        if run.outcome is not None and (scheduled is None or not scheduled.requeue):
            return False
        return lives(run) if not run.job.get("served") or scheduled is not None else True
    except Unreadable:
        return False


def goes_on(run: Run, state: RunState) -> bool:
    """Who waits for the end has to wait longer; a scheduler that does not answer says nothing about the job."""
    return state.lives or (state is RunState.UNKNOWN and run.scheduled is not None)


def cancel(run: Run) -> None:
    """Have its scheduler end the job of a run. Raises `Impossible`, `Unreachable`."""
    scheduled, found = run.scheduled, _client_of(run)
    assert scheduled is not None and found is not None
    if is_anothers(run):
        raise Impossible(
            f"{run.id} is another user's, and says to be job {scheduled.job}",
            f"see `{found.scheduler.jobs().argv[0]}`, `{found.scheduler.cancel(scheduled.job)[0]}`",
        )
    found.cancel(scheduled.job)


def _client_of(run: Run) -> SchedulerClient | None:
    """Who asks the scheduler of a run; None where there is none."""
    from muster.world.queue import client  # most runs need none of it

    scheduled = run.scheduled
    return None if scheduled is None else client(scheduled.name)


_ANSWERED, _ANSWERED_EVERY = "answered", 30.0
"""A file whose time is that of the last answer, and the seconds after which it is worth another write."""


def _note_answer(run: Run) -> None:
    """Keep when a run was last known to run, for the day on which nobody answers."""
    path = run.path / _ANSWERED
    with suppress(OSError):
        if time.time() - (path.stat().st_mtime if path.exists() else 0.0) > _ANSWERED_EVERY:
            path.touch()


def last_answer(run: Run) -> float | None:
    """Seconds since a run that is `unknown` now was known to run; None when it never was."""
    try:
        return max(0.0, time.time() - (run.path / _ANSWERED).stat().st_mtime)
    except OSError:
        return None


# ---- a supervisor elsewhere -----------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How the host of a run is reached. The user's own options say so, and they are remembered beside the runs: what
    stands in a run directory may come from elsewhere, and is never a command."""

    place: str
    ssh: tuple[str, ...] = ("ssh",)
    python: str = "python3"


_WAY = {"place": text, "ssh": texts, "python": text}


def _way_file(run: Run) -> Path:
    return run.path.parents[1] / "ways" / f"{run.id}.json"


def way_of(job: Job) -> Way:
    """How the hosts of a job are reached."""
    return Way(job.place, job.ssh, job.python)


def remember_way(run: Run, way: Way) -> None:
    """Keep how the hosts of a run are reached that is started now."""
    path = _way_file(run)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(as_json(way), file)


def forget_way(run: Run) -> None:
    """The run is deleted."""
    _way_file(run).unlink(missing_ok=True)


def _way(run: Run, job: Mapping[str, Any]) -> Way:
    """How the host of a run is reached: as it was when the run was started from here, else in the usual way."""
    path = _way_file(run)
    if run.uid == os.getuid() and not why_not_ours(path):
        try:
            found = Way(**checked(json.loads(path.read_text()), _WAY, ("place",)))
            # versions before this one have written the scheduler as the place
            place = found.place if found.place in TRANSPORTS else "step"
            if place != "step" or job.get("scheduler"):
                return found._replace(place=place)
        except (OSError, ValueError):
            pass
    if is_anothers(run) and job.get("host") == identity()["host"] and job["there"] == str(run.path.resolve()):
        return Way("local", python=sys.executable)
    return Way("step") if job.get("scheduler") else Way("ssh")


def way_to(run: Run, name: str = "visit", **args: Any) -> ChildLink:
    """A connection to where the supervisor of a run is, here or on its node 0.

    `name` and `args` call for something else there, with the run directory (`agent/calls.py`).

    Raises `Impossible` for a host that has no name of a host.
    """
    from muster.hosts import parse_host
    from muster.world.link import start_call  # imported late: `muster ps` of local runs needs none of it

    job = run.job
    way = _way(run, job)
    if way.place == "local" and job.get("host") != identity()["host"]:
        way = Way("ssh")  # it runs on the machine where it was started, and that is another
    if way.place != "local" and is_anothers(run):
        raise Impossible(f"{run.id} is another user's, and runs on {job.get('host')}", "ask there, or as that user")
    target = Target(way.place, identity()["host"], python=way.python, ssh=way.ssh)
    if scheduled := run.scheduled:
        target = target._replace(scheduler=scheduled.name, allocation=scheduled.job)
    if way.place != "local":
        # a scheduler alone knows the nodes of its jobs
        served = job["served"] if job["served"]["name"] else {"name": job["host"], "user": ""}
        found = parse_host(f"{served['user']}@{served['name']}" if served["user"] else served["name"])
        target = target._replace(host=found.name, user=found.user)
    env: Mapping[str, str] = os.environ
    if way.place == "step":
        env = get_scheduler(target.scheduler).clean(env)
    link = start_call(target, dict(env), name, run_dir=job["there"], **args)
    # another user's directory is not written to
    link.wire.tracer = trace.tracer("" if is_anothers(run) else str(run.path), "client", "controller", target.host)
    return link


def ask_supervisor(run: Run, kind: str, within: float = ANSWERS_WITHIN, **fields: Any) -> dict[str, Any]:
    """Ask the supervisor of a run; `gone` is true in the answer where there is none.

    Where it cannot be reached the answer has only `silent`: why, in words. Where it does not understand the question
    the answer has only `refused`.
    """
    deadline = time.monotonic() + within
    for _ in range(_TRIALS):
        try:
            link = way_to(run)
        except Unreadable:
            raise
        except Impossible as error:
            return {"silent": error.sentence}
        greeted = kind == "state"  # which tells the version, and is known to all
        for frame, _ in frames_of(link, deadline - time.monotonic(), pack("state", version=VERSION)):
            if frame["kind"] == "gone":
                return {"gone": True, "there": bool(frame.get("there"))}
            if frame["kind"] == "unknown":
                return {"refused": f"it knows no `{kind}`"}
            if frame["kind"] == "answer" and greeted:
                return frame
            if frame["kind"] == "answer":
                if why := _lacks(frame, FROM_CLIENT[kind]):
                    return {"refused": why}
                greeted = True
                link.wire.put(pack(kind, **fields))
        if link.preface is not None:
            return {"silent": link.last_words() or f"nothing was heard within {within:g} s"}
        # it was reached, and was just about to end, or to begin again
        time.sleep(_PAUSE)
    return {"silent": f"the host was reached, but nobody there answered ({_TRIALS} times)"}


def _lacks(answer: Mapping[str, Any], message: Message) -> str:
    """Why who gave this answer to `state` is not to be sent that message; empty when it may be."""
    version = answer.get("version", UNTOLD)
    return lacks(version if type(version) is int else 0, message)


_HEARD = {**TO_CLIENT, **between(PROXY, CLIENT)}
"""What a command may hear from a host."""


def frames_of(link: ChildLink, within: float, question: bytes = b"") -> Iterator[tuple[dict[str, Any], bytes]]:
    """The frames that come over a connection, which ends with this, after a question."""
    from muster.world.link import end_links

    deadline = time.monotonic() + within
    unknown = Unknown(lambda text: print(f"muster: {link.host}: {text}", file=sys.stderr))
    loop, came, ended = EventLoop(), deque[tuple[dict[str, Any], bytes]](), False

    def flush() -> None:
        link.wire.pump(loop, flush)

    def complained() -> None:
        if not link.listen():
            loop.remove_reader(link.stderr)

    def heard() -> None:
        nonlocal question, ended
        frames = link.read()
        ended = frames is None
        came.extend(frames or ())
        if link.preface is None and question:
            link.wire.put(question)  # not before: what follows the text of the program is lost until it runs
            question = b""

    loop.add_reader(link.stdout, heard)
    loop.add_reader(link.stderr, complained)
    try:
        while not ended and time.monotonic() < deadline:
            flush()  # whoever takes these frames may have asked something more
            loop.run_once(deadline - time.monotonic())
            while came:
                fields, payload = came.popleft()
                if fields["kind"] in _HEARD:
                    yield fields, payload
                else:
                    unknown(fields["kind"])
    finally:
        loop.close()
        link.process.terminate()
        end_links([link], 2.0)


def introduce(store: Store, host: str, which: str) -> Run:
    """Come to know a run that was started from another machine, by the host on which its supervisor is.

    Raises `Unreachable`, `Impossible`.
    """
    from muster.hosts import parse_host
    from muster.world.link import start_call

    found = parse_host(host)
    target = Target("ssh", found.name, found.user)
    link = start_call(target, dict(os.environ), "introduce", which=which)
    for fields, _ in frames_of(link, 30.0):
        if fields["kind"] == "introduced":
            try:
                told, fits = _introduced(fields), texts(fields.get("fits", ()))
            except Malformed as error:
                raise RunFailed(f"{host} tells of a run in a way that is not understood: {error}", None) from None
            if told is None and len(fits) > 1:
                shown = some(map(safe, fits))
                raise Impossible(f"`{which}` fits {len(fits)} runs on {host}: {shown}", MORE_OF_IT)
            if told is None:
                raise Impossible(
                    f"there is no run `{which}` on {host}", "look there: `muster ps`, or MUSTER_HOME there"
                )
            record, plan, there = told
            known = [run for run in every(store) if run.id == record["id"]]
            run = known[0] if known else Run(store.path(record["id"]))
            served = {"name": found.name, "user": found.user}
            if not os.path.lexists(run.path):
                system.make_private(str(run.path))
                remember_way(run, Way(target.place, target.ssh, target.python))
                run.write("plan.json", as_json(plan))
                own = {"host": found.name, "served": served, "there": there, "shared": False}
                run.write("job.json", {**record, **own})
                run = note(store, run.path)
            elif why_refused(run.path) or (run.job.get("served"), run.job.get("there")) != (served, there):
                # whatever that host says, it is not to have another run ended
                raise Impossible(f"{host} tells of {run.id}, which is another run here", f"`muster show {run.operand}`")
            return run
    raise Unreachable(f"{host} does not answer: {link.last_words() or 'it said nothing'}", f"try `ssh {host} true`")


def _introduced(frame: Mapping[str, Any]) -> tuple[dict[str, Any], Plan, str] | None:
    """(job.json, the plan, the run directory there) as a host has told them; None where there is no such run.

    Raises `Malformed`. How that host is reached is never taken from there.
    """
    files = texts_by_name(frame.get("files"))
    if "plan.json" not in files or "job.json" not in files:
        return None
    try:
        job, plan = (table(json.loads(files[name])) for name in ("job.json", "plan.json"))
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    job = {name: value for name, value in checked(job, JOB, ("id", "time")).items() if name in _INTRODUCED}
    if not ID.fullmatch(job["id"]):
        raise Malformed(f"{job['id']!r} is no id of a run")
    if job["id"][:8] > time.strftime("%Y%m%d", time.localtime(time.time() + 2 * 86400)):
        raise Malformed(f"{job['id']!r} is of a day to come")  # it would be the `last` run until then
    return job, plan_from_json(plan), text(frame.get("there"))


_INTRODUCED = ("id", "argv", "cwd", "started", "time", "ranks")
"""What is believed of a run that a host introduces.

Not its name, which may be that of another run here; nor a host, a process or a job of Slurm, which would be looked for,
or ended, here.
"""


def _kept_as(name: Any) -> str:
    """The name in the run directory here of a file that a host sends. Raises `Malformed` for what is none of these."""
    if not isinstance(name, str) or not _SENT.fullmatch(name):
        raise Malformed(f"{name!r} is no file of a run")
    return name


_SENT = re.compile(
    r"(events\.jsonl|outcome\.json|supervisor\.log|check\.html"
    r"|attempt_[0-9]{1,9}/rank_[0-9]{5,9}\.(out|err|stack|error\.json)"
    r"|node_[A-Za-z0-9:][A-Za-z0-9:._-]*/[A-Za-z0-9][A-Za-z0-9_-]*\.(log|jsonl|json))"
)
"""What may come from a host. Not the files that say where a run is and how it is reached."""


def refresh(run: Run) -> bool:
    """Bring the files of a run here whose run directory is elsewhere; False when that cannot be reached."""
    job = run.job
    if not job.get("served") or job.get("shared") or is_anothers(run):
        return True
    have = {str(path.relative_to(run.path)): path.stat().st_size for path in run.path.rglob("*") if path.is_file()}
    link = way_to(run, "send_files", have=have)
    for fields, payload in frames_of(link, 60.0):
        if fields["kind"] == "done":
            return True
        if fields["kind"] == "file":
            try:
                name, offset = _kept_as(fields.get("name")), whole(fields.get("offset"))
            except Malformed:
                continue  # of a newer muster, or of somebody who wants to write elsewhere
            path = run.path / name
            system.make_private(str(path.parent))
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
                if fields.get("whole") and offset == 0:
                    file.truncate()
                if offset <= os.fstat(file.fileno()).st_size:  # else a piece is missing, and it would leave a hole
                    file.seek(offset)
                    file.write(payload)
    return False


# ---- one that is here -----------------------------------------------------------------------------------------------


def _stopped_after_its_ranks(run: Run, pid: int) -> bool:
    """The agent has ended the ranks, and muster is stopped (Ctrl-Z), so it does not take note of that."""
    found = procfs.stat(pid)
    return found is not None and found.state in ("T", "t") and any(run.path.glob("node_*/ended.json"))


def _reach(run: Run) -> socket.socket | None:
    """A connection to the agent of a run here; raises TimeoutError when there is one that takes none."""
    link = local.find(str(run.path), local.AGENT)
    if link is not None:
        link.settimeout(PATIENCE)
    return link


def ask(run: Run, kind: str, within: float = ANSWERS_WITHIN, **fields: Any) -> dict[str, Any]:
    """Ask who looks after a run for something, and give the answer. Raises `RunFailed`, `Unreachable` for none.

    `within` bounds the seconds for which another machine is waited for.
    """
    if run.job.get("served"):
        answer = ask_supervisor(run, kind, within, **fields)
        if "silent" in answer:
            raise Unreachable(f"{run.id} does not answer: {answer['silent']}", "try again when that host answers")
        if answer.get("gone"):
            raise RunFailed(f"{run.id} does not answer: it has ended", "`muster ps` tells")
        if "refused" in answer:
            raise RunFailed(f"the controller of {run.id} cannot be asked: {answer['refused']}", HINT)
        return answer
    try:
        link = _reach(run)
    except TimeoutError:
        raise RunFailed(
            f"the agent of {run.id} takes no connection", "is it stopped? see agent.log in its folder"
        ) from None
    if link is None:
        raise RunFailed(f"{run.id} does not answer: it is not running here", "`muster ps` tells")
    with link:
        greeting = _ask_agent(run, link, "state", version=VERSION)
        if why := _lacks(greeting, between(CLIENT, AGENT)[kind]):
            raise RunFailed(f"the agent of {run.id} cannot be asked: {why}", HINT)
        answer = _ask_agent(run, link, kind, **fields) if greeting else {}
        if answer.get("kind") == "unknown":
            raise RunFailed(f"the agent of {run.id} cannot be asked: it knows no `{kind}`", HINT)
        return answer


def _ask_agent(run: Run, link: socket.socket, kind: str, **fields: Any) -> dict[str, Any]:
    """Ask the agent of a run; empty when it hangs up. Raises `RunFailed`."""
    link.sendall(pack(kind, **fields))
    frames = Unpacker()
    while True:
        try:
            data = link.recv(1 << 16)
        except OSError:
            raise RunFailed(f"the agent of {run.id} does not answer", "look at agent.log in its folder") from None
        if not data:
            return {}
        try:
            answers = frames.feed(data)
        except Refused as error:
            raise RunFailed(f"the agent of {run.id} was not understood: {error}", None) from None
        for answer, _ in answers:
            return answer


class Waited(NamedTuple):
    """What came of waiting for the end of a run."""

    status: RunStatus
    in_time: bool
    """False where the time was over before anything was known of an end."""


def wait(run: Run, timeout: float | None = None, lost_sight: Callable[[str], object] = lambda why: None) -> Waited:
    """Wait until a run has ended, for at most `timeout` seconds.

    A host that does not answer may come back, or the way to it: `lost_sight` is told why, once each time, and the
    host is asked again for a minute before the state is `unknown`.
    """
    began = time.monotonic()
    since: float | None = None
    pause = 0.01
    while True:
        now = reconcile(run)
        silent = now.state is RunState.UNKNOWN and bool(run.job.get("served"))
        if silent and since is None:
            since = time.monotonic()
            lost_sight(now.why)
        since = since if silent else None
        comes_back = since is not None and time.monotonic() - since < _COMES_BACK
        if not (comes_back or goes_on(run, now.state)):
            return Waited(now, True)
        if timeout is not None and time.monotonic() - began >= timeout:
            return Waited(now, False)
        time.sleep(pause)
        pause = min(1.0 if silent else 0.25, pause * 1.5)
