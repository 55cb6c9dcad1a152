"""Reaching the machine of a run, and fetching files from there."""

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
from muster.core.json_checks import Malformed, by_present_keys, checked, table, text, texts, texts_by_name
from muster.core.json_records import plan_from_json
from muster.core.model import Job, Plan, as_json
from muster.core.printable import line as safe
from muster.errors import ControlError, InvalidRequest, Unreachable
from muster.linux import processes
from muster.linux.files import create_file
from muster.linux.identity import identity
from muster.protocol import trace
from muster.rundir.finding import MORE_OF_IT, list_runs, some_ids, why_not_ours, why_refused
from muster.rundir.job_record import JOB
from muster.rundir.run import LARGEST, Run
from muster.rundir.store import ID, Store, note_run
from muster.schedulers import get_scheduler
from muster.transports import TRANSPORTS
from muster.transports.target import Target

if TYPE_CHECKING:
    from muster.controller.connections import ProcessConnection


class Way(NamedTuple):
    """How to reach the host of a run.

    It comes from the user's own options, and is stored beside the runs: the contents of a run directory may come from
    elsewhere, and are never executed.
    """

    transport: str
    ssh: tuple[str, ...] = ("ssh",)
    python: str = "python3"


_WAY = {"transport": text, "ssh": texts, "python": text}


def _way_file(run: Run) -> Path:
    return run.path.parents[1] / "ways" / f"{run.id}.json"


def way_of(job: Job) -> Way:
    """Return how to reach the hosts of a job."""
    return Way(job.transport, job.ssh, job.python)


def remember_way(run: Run, way: Way) -> None:
    """Store how to reach the hosts of a run that is starting."""
    path = _way_file(run)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    create_file(str(path), json.dumps(as_json(way)).encode())


def forget_way(run: Run) -> None:
    """Delete what was stored by `remember_way`, as the run is deleted."""
    _way_file(run).unlink(missing_ok=True)


def _way(run: Run, job: Mapping[str, Any]) -> Way:
    """Return how to reach the host of a run: as stored when it was started from here, otherwise the default way."""
    path = _way_file(run)
    if run.uid == os.getuid() and not why_not_ours(path):
        try:
            written = by_present_keys(json.loads(path.read_text()), {"transport": "place"})
            found = Way(**checked(written, _WAY, ("transport",)))
            # earlier versions stored the scheduler as the place
            transport = found.transport if found.transport in TRANSPORTS else "step"
            if transport != "step" or job.get("scheduler"):
                return found._replace(transport=transport)
        except (OSError, ValueError):
            pass
    if is_anothers(run) and job.get("host") == identity()["host"] and job["there"] == str(run.path.resolve()):
        return Way("local", python=sys.executable)
    return Way("step") if job.get("scheduler") else Way("ssh")


def connect(run: Run) -> ProcessConnection:
    """Return a connection to a run's controller, through its machine: this one, or node 0.

    Raises `InvalidRequest` for an invalid hostname.
    """
    # imported late: `muster ps` of local runs does not need it
    from muster.client import direct
    from muster.controller.connections import start_call
    from muster.core.hostlist import parse_host

    job = run.job
    way = _way(run, job)
    if way.transport == "local" and job.get("host") != identity()["host"]:
        way = Way("ssh")  # it runs on the machine where it was started, which is another one
    if way.transport != "local" and is_anothers(run):
        raise InvalidRequest(
            f"{run.id} belongs to another user, and runs on {job.get('host')}",
            f"run this command on {job.get('host')}, or as that user",
        )
    target = Target(way.transport, identity()["host"], python=way.python, ssh=way.ssh)
    if scheduled := run.scheduled:
        target = target._replace(scheduler=scheduled.name, allocation=scheduled.job)
    if way.transport != "local":
        # only a scheduler knows the nodes of its jobs
        served = job["served"] if job["served"]["name"] else {"name": job["host"], "user": ""}
        found = parse_host(f"{served['user']}@{served['name']}" if served["user"] else served["name"])
        target = target._replace(host=found.name, user=found.user)
    env: Mapping[str, str] = os.environ
    if way.transport == "step":
        env = get_scheduler(target.scheduler).clean(env)
    link: ProcessConnection
    if way.transport == "local":
        link = direct.visit(job["there"], target.host)
    else:
        link = start_call(target, dict(env), "visit", run_dir=job["there"])
    # another user's directory is not written to
    link.channel.tracer = trace.tracer("" if is_anothers(run) else str(run.path), "client", "controller", target.host)
    return link


def import_run(store: Store, host: str, which: str) -> Run:
    """Create a local record of a run that was started from another machine, given the host of its controller.

    Raises `Unreachable`, `InvalidRequest`.
    """
    from muster.client.connection import frames
    from muster.controller.connections import start_call
    from muster.core.hostlist import parse_host

    found = parse_host(host)
    target = Target("ssh", found.name, found.user)
    link = start_call(target, dict(os.environ), "introduce", which=which)
    for fields, _ in frames(link, 30.0):
        if fields["kind"] == "run_described":
            try:
                told, fits = _introduced(fields), texts(fields.get("fits", ()))
            except Malformed as error:
                raise ControlError(f"invalid description of the run from {host}: {error}", None) from None
            if told is None and len(fits) > 1:
                shown = some_ids(map(safe, fits))
                raise InvalidRequest(
                    f"`{which}` is ambiguous: it matches {len(fits)} runs on {host}: {shown}", MORE_OF_IT
                )
            if told is None:
                raise InvalidRequest(
                    f"run not found on {host}: `{which}`",
                    f"list its runs: ssh {host} muster ps; or set MUSTER_HOME there",
                )
            record, plan, there = told
            known = [run for run in list_runs(store) if run.id == record["id"]]
            run = known[0] if known else Run(store.path(record["id"]))
            served = {"name": found.name, "user": found.user}
            if not os.path.lexists(run.path):
                processes.make_private(str(run.path))
                remember_way(run, Way(target.transport, target.ssh, target.python))
                run.write("plan.json", as_json(plan))
                own = {"host": found.name, "served": served, "there": there, "shared": False}
                if "job" in record:  # the machine that started the run tells of its end
                    own["job"] = {**record["job"], "on_end": ""}
                run.write("job.json", {**record, **own})
                run = note_run(store, run.path)
            elif why_refused(run.path) or (run.job.get("served"), run.job.get("there")) != (served, there):
                # whatever that host says, it must not have another run killed
                raise InvalidRequest(
                    f"{run.id} on {host} is not the run of that id known here", f"see it: muster show {run.operand}"
                )
            return run
    raise Unreachable(f"no answer from {host}: {link.stderr_summary() or 'no error message'}", f"try `ssh {host} true`")


def _introduced(frame: Mapping[str, Any]) -> tuple[dict[str, Any], Plan, str] | None:
    """Return (job.json, the plan, the remote run directory) as reported by a host; None if there is no such run.

    How to reach that host is never taken from its reply. Raises `Malformed`.
    """
    files = texts_by_name(frame.get("files"))
    if "plan.json" not in files or "job.json" not in files:
        return None
    try:
        job, plan = (table(json.loads(files[name])) for name in ("job.json", "plan.json"))
    except RecursionError:
        raise Malformed("nested too deeply") from None
    job = {name: value for name, value in checked(job, JOB, ("id", "time")).items() if name in _INTRODUCED}
    if not ID.fullmatch(job["id"]):
        raise Malformed(f"not a run id: {job['id']!r}")
    if job["id"][:15] > time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() + 2 * 86400)):
        raise Malformed(f"run id {job['id']!r} is in the future")  # it would be the `last` run until then
    return job, plan_from_json(plan), text(frame.get("there"))


_INTRODUCED = ("id", "argv", "cwd", "started", "time", "ranks")
"""Fields trusted in the record of a run that a host reports.

Not the name, which may be that of another run here; nor a host, a process or a scheduler job, which would be looked up,
or killed, here.
"""


_SENT = re.compile(
    r"(events\.jsonl|outcome\.json|(controller|supervisor)\.log|(check|report)\.html"
    r"|attempt_[0-9]{1,9}/rank_[0-9]{5,9}\.(out|err|stack|error\.json|result)"
    r"|attempt_[0-9]{1,9}/(resources|snapshot)_[0-9]{1,6}\.json"
    r"|node_[A-Za-z0-9:][A-Za-z0-9:._-]*/[A-Za-z0-9][A-Za-z0-9_-]*\.(log|jsonl|json))"
)
"""Files that may be fetched from a host. Not those that say where a run is and how to reach it."""


def sizes_of(run: Run) -> dict[str, int]:
    """Return the local size of each file of a run, by name."""
    found = {}
    for path in run.path.rglob("*"):
        with suppress(FileNotFoundError):  # another command may be replacing it
            if path.is_file():
                found[str(path.relative_to(run.path))] = path.stat().st_size
    return found


def keep_piece(run: Run, name: str, offset: int, data: bytes) -> None:
    """Write a piece of a file sent by its host into the local copy. Raises OSError.

    Names that are no file of a run come from a newer muster, or from someone who wants to write elsewhere, and are
    ignored.
    """
    if not _SENT.fullmatch(name):
        return
    path = run.path / name
    processes.make_private(str(path.parent))
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
        if offset <= os.fstat(file.fileno()).st_size:  # otherwise a piece is missing, and this one would leave a hole
            file.seek(offset)
            file.write(data)


class Replacement:
    """A file that its host sends completely, in pieces.

    It replaces the local one when it is complete, since other commands read that meanwhile.
    """

    def __init__(self, name: str):
        self.name = name
        self._data = bytearray()

    def add(self, offset: int, data: bytes) -> None:
        """Add the next piece. Raises `Malformed` for a wrong offset, or a file that is too large."""
        if offset != len(self._data) or offset + len(data) > LARGEST:
            raise Malformed(f"a piece of {self.name} at {offset}, after {len(self._data)} bytes")
        self._data += data

    def keep(self, run: Run) -> None:
        """Replace the local file by the completed one. Raises OSError."""
        if not _SENT.fullmatch(self.name):
            return
        processes.make_private(str((run.path / self.name).parent))
        run.replace(self.name, bytes(self._data))
