"""How the machine of a run is reached from here, and what is brought from there."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from muster.client.local import is_anothers
from muster.config.this_machine import identity
from muster.core.json_records import Malformed, checked, plan_from_json, table, text, texts, texts_by_name
from muster.core.model import Job, Plan, as_json
from muster.core.printable import line as safe
from muster.errors import ControlError, InvalidRequest, Unreachable
from muster.linux import processes
from muster.protocol import trace
from muster.rundir import (
    ID,
    JOB,
    LARGEST,
    MORE_OF_IT,
    Run,
    Store,
    list_runs,
    note,
    some,
    why_not_ours,
    why_refused,
)
from muster.schedulers import get_scheduler
from muster.transports import TRANSPORTS
from muster.transports.target import Target

if TYPE_CHECKING:
    from muster.controller.connections import ProcessConnection


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


def connect(run: Run) -> ProcessConnection:
    """A connection to the machine of the controller of a run, this one or its node 0, and by that to the controller.

    Raises `InvalidRequest` for a host that has no name of a host.
    """
    from muster.controller.connections import start_call  # imported late: `muster ps` of local runs needs none of it
    from muster.core.hostlist import parse_host

    job = run.job
    way = _way(run, job)
    if way.place == "local" and job.get("host") != identity()["host"]:
        way = Way("ssh")  # it runs on the machine where it was started, and that is another
    if way.place != "local" and is_anothers(run):
        raise InvalidRequest(f"{run.id} is another user's, and runs on {job.get('host')}", "ask there, or as that user")
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
    link = start_call(target, dict(env), "visit", run_dir=job["there"])
    # another user's directory is not written to
    link.channel.tracer = trace.tracer("" if is_anothers(run) else str(run.path), "client", "controller", target.host)
    return link


def import_run(store: Store, host: str, which: str) -> Run:
    """Come to know a run that was started from another machine, by the host on which its supervisor is.

    Raises `Unreachable`, `InvalidRequest`.
    """
    from muster.client.connection import frames
    from muster.controller.connections import start_call
    from muster.core.hostlist import parse_host

    found = parse_host(host)
    target = Target("ssh", found.name, found.user)
    link = start_call(target, dict(os.environ), "introduce", which=which)
    for fields, _ in frames(link, 30.0):
        if fields["kind"] == "introduced":
            try:
                told, fits = _introduced(fields), texts(fields.get("fits", ()))
            except Malformed as error:
                raise ControlError(f"{host} tells of a run in a way that is not understood: {error}", None) from None
            if told is None and len(fits) > 1:
                shown = some(map(safe, fits))
                raise InvalidRequest(f"`{which}` fits {len(fits)} runs on {host}: {shown}", MORE_OF_IT)
            if told is None:
                raise InvalidRequest(
                    f"there is no run `{which}` on {host}", "look there: `muster ps`, or MUSTER_HOME there"
                )
            record, plan, there = told
            known = [run for run in list_runs(store) if run.id == record["id"]]
            run = known[0] if known else Run(store.path(record["id"]))
            served = {"name": found.name, "user": found.user}
            if not os.path.lexists(run.path):
                processes.make_private(str(run.path))
                remember_way(run, Way(target.place, target.ssh, target.python))
                run.write("plan.json", as_json(plan))
                own = {"host": found.name, "served": served, "there": there, "shared": False}
                run.write("job.json", {**record, **own})
                run = note(store, run.path)
            elif why_refused(run.path) or (run.job.get("served"), run.job.get("there")) != (served, there):
                # whatever that host says, it is not to have another run ended
                raise InvalidRequest(
                    f"{host} tells of {run.id}, which is another run here", f"`muster show {run.operand}`"
                )
            return run
    raise Unreachable(f"{host} does not answer: {link.stderr_summary() or 'it said nothing'}", f"try `ssh {host} true`")


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
    if job["id"][:15] > time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() + 2 * 86400)):
        raise Malformed(f"{job['id']!r} is of a day to come")  # it would be the `last` run until then
    return job, plan_from_json(plan), text(frame.get("there"))


_INTRODUCED = ("id", "argv", "cwd", "started", "time", "ranks")
"""What is believed of a run that a host introduces.

Not its name, which may be that of another run here; nor a host, a process or a job of a scheduler, which would be
looked for, or ended, here.
"""


_SENT = re.compile(
    r"(events\.jsonl|outcome\.json|supervisor\.log|check\.html"
    r"|attempt_[0-9]{1,9}/rank_[0-9]{5,9}\.(out|err|stack|error\.json)"
    r"|node_[A-Za-z0-9:][A-Za-z0-9:._-]*/[A-Za-z0-9][A-Za-z0-9_-]*\.(log|jsonl|json))"
)
"""What may come from a host. Not the files that say where a run is and how it is reached."""


def sizes_of(run: Run) -> dict[str, int]:
    """How much there is here of each file of a run, by its name."""
    found = {}
    for path in run.path.rglob("*"):
        with suppress(FileNotFoundError):  # another command may be replacing it
            if path.is_file():
                found[str(path.relative_to(run.path))] = path.stat().st_size
    return found


def keep_piece(run: Run, name: str, offset: int, data: bytes) -> None:
    """Put a piece of a file that its host has sent at its place here. Raises OSError.

    What is no file of a run is of a newer muster, or of somebody who wants to write elsewhere, and is left out.
    """
    if not _SENT.fullmatch(name):
        return
    path = run.path / name
    processes.make_private(str(path.parent))
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
        if offset <= os.fstat(file.fileno()).st_size:  # else a piece is missing, and it would leave a hole
            file.seek(offset)
            file.write(data)


class Replacement:
    """A file that its host sends anew, in pieces. It takes the place of the one here when it is whole: other commands
    read that one meanwhile."""

    def __init__(self, name: str):
        self.name = name
        self._data = bytearray()

    def add(self, offset: int, data: bytes) -> None:
        """Add the next piece. Raises `Malformed` for one that is not the next, or for too large a file."""
        if offset != len(self._data) or offset + len(data) > LARGEST:
            raise Malformed(f"a piece of {self.name} at {offset}, after {len(self._data)} bytes")
        self._data += data

    def keep(self, run: Run) -> None:
        """It is whole: put it in its place. Raises OSError."""
        if not _SENT.fullmatch(self.name):
            return
        processes.make_private(str((run.path / self.name).parent))
        run.replace(self.name, bytes(self._data))
