"""The run directory and its layout. Everything that is reported about a run comes from these files.

The contents are data: they may be damaged, and on a shared machine another user may have written them. So each file is
read separately and checked field by field (`core/json_checks.py`), and a directory that belongs to another user, or
that others can write to, is not read at all. Only root reads those of all users.

$MUSTER_HOME/runs/<id>/         mode 0700
    job.json  plan.json  events.jsonl  outcome.json
    reserve                     space for outcome.json, until the run ends
    token                       names the local sockets (`protocol/local_sockets.py`)
    function                    what ranks call, of a run of a function (`payloads/call.py`)
    attempt_0/rank_00003.out  .err  .stack  .error.json  .exception.json  .result  .imports
    node_<host>/agent.log  times.log  ended.json
    links  node_<host>/links    links to files of the run from elsewhere (`agent/links.py`)
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from muster import __version__
from muster.core.controller_config import RECORD, ControllerConfig, config_from_json
from muster.core.json_checks import Malformed, checked, number, optional, table, text, whole
from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.model import Plan
from muster.core.provenance import PROVENANCE, Provenance, provenance_from_json
from muster.core.results import RunResult
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.files import replace_file
from muster.linux.processes import NO_ROOM
from muster.protocol.paths import rank_file
from muster.rundir.job_record import JOB, Scheduled, with_scheduler

LARGEST = 64 << 20
"""Maximum bytes of a run's JSON file; the plan of several thousand ranks has a few MB."""

_FORMER_NAMES = {RECORD: "serve.json"}
"""Names of the files of the previous version, which are still read."""

_RESERVE = "reserve"
"""A file of the run directory whose space is used for outcome.json if the disk is full at the end."""

_RESERVED, _RESERVED_A_RANK = 1 << 16, 1 << 10
"""Its size in bytes, and the additional bytes per rank."""

FUNCTION = "function"
"""The pickled function that ranks call, if the program is one (`payloads/call.py`)."""

STREAMS = ("out", "err", "stack", "error.json", "exception.json", "result")
"""The kinds of files of each rank."""


_EVENT = {"event": text, "t": number, **dict.fromkeys(("node", "rank", "attempt", "spare"), optional(whole))}
"""The fields that events of many kinds have."""


class Unreadable(InvalidRequest):
    """A file of a run is damaged."""

    def __init__(self, run: Run, name: str, why: str):
        newer = written_by_newer(run.path)
        super().__init__(
            f"{run.id}: cannot read {name}: {why}",
            f"muster {newer} has written it, which is newer than this one ({__version__}): use that version"
            if newer
            else f"check {run.path / name}, or delete the run with `muster rm {run.operand}`",
        )


_WRITTEN_BY = re.compile(rb'"muster": "(([0-9]{1,9})\.([0-9]{1,9})[^"\\\x00-\x1f\x7f-\xff]{0,40})"')


def written_by_newer(path: Path) -> str:
    """Return the version of muster that has written a run directory if it is newer than this one; empty otherwise.

    Keys that this version does not know are ignored, so that most runs of newer versions can be read. job.json is not
    parsed: it may be the file that is damaged.
    """
    try:
        with open(os.open(path / "job.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = _WRITTEN_BY.search(file.read(1 << 16))
    except OSError:
        return ""
    own = [int(digits) for digits in re.findall("[0-9]+", __version__)[:2]]
    return found[1].decode() if found and [int(found[2]), int(found[3])] > own else ""


class Run:
    """A run directory."""

    def __init__(self, path: Path, option: str = ""):
        self.path = path
        self.id = path.name
        self.operand = self.id + option
        """How to name this run on a command line: its id, with `--run-dir` if it is not found otherwise."""
        self._job: tuple[bytes | None, dict[str, Any]] = None, {}
        """The last contents of job.json, and the result of checking them, which takes a millisecond."""
        self._outcome: tuple[bytes | None, RunResult | None] = None, None
        """The same for outcome.json."""

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one of the JSON files atomically. Raises OSError."""
        self.replace(name, (json.dumps(data, indent=1) + "\n").encode())

    def replace(self, name: str, data: bytes) -> None:
        """Write a file atomically, even if several commands do that concurrently. Raises OSError."""
        replace_file(str(self.path / name), data)

    def reserve(self, ranks: int) -> None:
        """Reserve space for the outcome of this many ranks; without it if the space is not available."""
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(self.path / _RESERVE, flags, 0o600), "wb") as file:
                file.write(os.urandom(_RESERVED + _RESERVED_A_RANK * ranks))  # random, so incompressible

    def write_outcome(self, data: Mapping[str, Any]) -> None:
        """Write outcome.json, into the reserved space if the disk is full; otherwise free that space.

        Raises OSError.
        """
        try:
            self.write("outcome.json", data)
        except OSError as error:
            if error.errno not in NO_ROOM or not self._write_reserved("outcome.json", json.dumps(data).encode()):
                raise
        else:
            with suppress(OSError):
                (self.path / _RESERVE).unlink(missing_ok=True)

    def _write_reserved(self, name: str, data: bytes) -> bool:
        """Overwrite the reserved file, which needs no new blocks, and rename it.

        The data is padded with blanks, which JSON allows, so that it can be overwritten with more later.
        """
        used = not (self.path / _RESERVE).exists()
        try:
            fd = os.open(self.path / (name if used else _RESERVE), os.O_WRONLY | os.O_NOFOLLOW)
            try:
                size = os.fstat(fd).st_size
                if size < len(data) or os.pwrite(fd, data.ljust(size), 0) < size:
                    return False
            finally:
                os.close(fd)
            if not used:
                (self.path / _RESERVE).replace(self.path / name)
        except OSError:
            return False
        return True

    @property
    def uid(self) -> int:
        """Uid of the owner: the run's sockets and job are that user's."""
        return os.lstat(self.path).st_uid

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the contents of a JSON file; None if it does not exist. Raises `Unreadable`."""
        return self._parsed(name, self.bytes_of(name))

    def _parsed(self, name: str, data: bytes | None) -> dict[str, Any] | None:
        if data is None:
            return None
        try:
            return table(json.loads(data.decode()))
        except UnicodeDecodeError:
            raise Unreadable(self, name, "not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise Unreadable(self, name, str(error) or "nested too deeply") from None

    def bytes_of(self, name: str) -> bytes | None:
        """Return the contents of a file; None if it does not exist. Raises `Unreadable`."""
        found = self._bytes_of(name)
        if found is None and name in _FORMER_NAMES:
            return self._bytes_of(_FORMER_NAMES[name])
        return found

    def _bytes_of(self, name: str) -> bytes | None:
        try:
            # do not wait for a FIFO, and do not follow a link
            with open(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise Unreadable(self, name, "not a regular file")
                if found.st_size > LARGEST:
                    raise Unreadable(self, name, f"too large: {found.st_size >> 20} MiB")
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(self, name, processes.reason(error)) from None

    @property
    def job(self) -> dict[str, Any]:
        """The request, and the process and machine that started it. Raises `Unreadable`."""
        content = self.bytes_of("job.json")
        if content is not None and content == self._job[0]:
            return dict(self._job[1])
        data = self._parsed("job.json", content)
        try:
            if data is None:
                return {}
            required = ("time", *(("there", "host") if "served" in data else ()))
            self._job = content, checked(with_scheduler(data), JOB, required)
            return dict(self._job[1])
        except Malformed as error:
            raise Unreadable(self, "job.json", str(error)) from None

    @property
    def scheduled(self) -> Scheduled | None:
        """The run's scheduler job; None if it has none. Raises `Unreadable`."""
        found = self.job.get("scheduler")
        return None if found is None else Scheduled(**found)

    @property
    def plan(self) -> Plan | None:
        """The plan; None if there is none yet. Raises `Unreadable`."""
        data = self.read("plan.json")
        try:
            return None if data is None else plan_from_json(data)
        except Malformed as error:
            raise Unreadable(self, "plan.json", str(error)) from None

    @property
    def controller_config(self) -> ControllerConfig | None:
        """The configuration of the detached controller; None if there is none yet. Raises `Unreadable`."""
        data = self.read(RECORD)
        try:
            return None if data is None else config_from_json(data, str(self.path))
        except Malformed as error:
            raise Unreadable(self, RECORD, str(error)) from None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of its nodes, by number; empty if there is no plan yet. Raises `Unreadable`."""
        plan = self.plan
        return () if plan is None else plan.hosts

    @property
    def outcome(self) -> RunResult | None:
        """The result; None if it is not known. Raises `Unreadable`."""
        content = self.bytes_of("outcome.json")
        if content is not None and content == self._outcome[0]:
            return self._outcome[1]
        data = self._parsed("outcome.json", content)
        try:
            self._outcome = content, None if data is None else outcome_from_json(data)
            return self._outcome[1]
        except Malformed as error:
            raise Unreadable(self, "outcome.json", str(error)) from None

    @property
    def is_over(self) -> bool:
        """Whether it certainly does not run: it has a result, and no scheduler starts it again."""
        if not os.path.lexists(self.path / "outcome.json"):
            return False
        try:
            scheduled = with_scheduler(self.read("job.json") or {}).get("scheduler")
        except Unreadable:
            return False
        return not (isinstance(scheduled, dict) and scheduled.get("requeue"))

    def events(self) -> list[dict[str, Any]]:
        """Return the events in order, without incomplete and invalid lines. Raises `Unreadable`."""
        found = []
        for event in self.lines_of("events.jsonl"):
            with suppress(Malformed):
                checked(event, _EVENT, ("event",))
                found.append(event)
        return found

    def provenance(self) -> tuple[Provenance, ...]:
        """Return what ran on each node, as far as it was recorded, by node. Raises `Unreadable`."""
        found, begin = {}, f'{{"event": "{PROVENANCE}"'.encode()
        for line in (self.bytes_of("events.jsonl") or b"").splitlines():
            if line.startswith(begin):
                with suppress(ValueError, RecursionError):  # `Malformed` is a ValueError
                    told = provenance_from_json(json.loads(line))
                    found[told.node] = told
        return tuple(found[node] for node in sorted(found))

    def lines_of(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in a file of JSON lines, skipping invalid lines. Raises `Unreadable`."""
        for line in (self.bytes_of(name) or b"").splitlines():
            try:
                found = json.loads(line.decode(errors="replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found

    def attempts(self) -> list[int]:
        """Return the numbers of the attempts that have a directory."""
        names = (path.name[8:] for path in self.path.glob("attempt_*"))
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,9}", name))

    def log(self, attempt: int, rank: int, stream: str) -> Path:
        """Return a rank's file; `stream` is one of `STREAMS`. Raises `Malformed` otherwise: it may come from a host."""
        if stream not in STREAMS:
            raise Malformed(f"unknown stream: {stream!r}")
        attempt, rank = whole(attempt), whole(rank)
        return Path(rank_file(str(self.path / f"attempt_{attempt}"), rank, stream))

    def open_log(self, attempt: int, rank: int, stream: str) -> IO[bytes]:
        """Open a rank's file. Raises OSError, and `Unreadable` for a FIFO: the directory may be another user's."""
        return self.open_file(str(self.log(attempt, rank, stream).relative_to(self.path)))

    def open_file(self, name: str) -> IO[bytes]:
        """Open a file of the run for reading. Raises OSError, and `Unreadable` for a FIFO."""
        file = open(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Unreadable(self, name, "not a regular file")
        return file

    def ranks(self, attempt: int) -> list[int]:
        """Return the ranks that have a log in an attempt."""
        names = (path.name for path in (self.path / f"attempt_{attempt}").glob("rank_*.out"))
        return sorted(int(name[5:-4]) for name in names if re.fullmatch(r"rank_[0-9]{5,9}\.out", name))
