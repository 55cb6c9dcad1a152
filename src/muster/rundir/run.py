"""The run directory: its layout, in one place. Everything that is told about a run comes from these files.

What stands in them is data: it may be damaged, and on a shared machine somebody else may have written it. So each file
is read for itself and checked field by field (`core/json_records.py`), and a directory that belongs to another user,
or in which others can write, is not read at all. Only root reads those of all users.

$MUSTER_HOME/runs/<id>/         mode 0700
    job.json  plan.json  events.jsonl  outcome.json
    reserve                     room for outcome.json, until the run ends
    token                       names the local sockets (`protocol/local_sockets.py`)
    attempt_0/rank_00003.out  .err  .stack  .error.json
    node_<host>/agent.log  times.log  ended.json
    links  node_<host>/links    names that files of the run have elsewhere (`agent/links.py`)
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

from muster.core.controller_config import RECORD, ControllerConfig, config_from_json
from muster.core.json_records import Malformed, checked, outcome_from_json, plan_from_json, table, whole
from muster.core.model import Plan
from muster.core.results import RunResult
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.linux.processes import NO_ROOM
from muster.protocol.paths import rank_file
from muster.rundir.job_record import JOB, Scheduled, with_scheduler

LARGEST = 64 << 20
"""Bytes of a JSON file of a run; the plan of some thousand ranks has a few MB."""

_RESERVE = "reserve"
"""A file of the run directory whose room is for outcome.json, should the disk be full at the end."""

_RESERVED, _RESERVED_A_RANK = 1 << 16, 1 << 10
"""Its bytes: so many, and as many more for each rank."""

STREAMS = ("out", "err", "stack", "error.json")
"""What there is of each rank."""


class Unreadable(InvalidRequest):
    """A file of a run does not hold what muster has written there."""

    def __init__(self, run: Run, name: str, why: str):
        super().__init__(
            f"{run.id}: {name} cannot be read: {why}", f"look at {run.path / name}, or `muster rm {run.operand}`"
        )


class Run:
    """One run directory."""

    def __init__(self, path: Path, option: str = ""):
        self.path = path
        self.id = path.name
        self.operand = self.id + option
        """What to type after a command to name this run: its id, and `--run-dir` where that alone finds it."""

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole or not at all. Raises OSError."""
        self.replace(name, (json.dumps(data, indent=1) + "\n").encode())

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all: several commands may do that at once. Raises OSError."""
        part = self.path / f"{name}.{os.urandom(8).hex()}.part"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):
                part.unlink()  # half of it would be of no use, and takes room
            raise
        part.replace(self.path / name)

    def reserve(self, ranks: int) -> None:
        """Take the room that the outcome of so many ranks needs. Where that cannot be, the run does without."""
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(self.path / _RESERVE, flags, 0o600), "wb") as file:
                file.write(os.urandom(_RESERVED + _RESERVED_A_RANK * ranks))  # which no file system makes smaller

    def write_outcome(self, data: Mapping[str, Any]) -> None:
        """Write outcome.json, where the disk is full into the room that `reserve` took; gives back the rest of it.

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
        """Write over what is reserved, which needs no block that is not there, and give it this name.

        Behind the data are blanks, which JSON allows: there is room to write more over it later.
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
        """Whose run it is: its sockets and its job are that user's."""
        return os.lstat(self.path).st_uid

    def read(self, name: str) -> dict[str, Any] | None:
        """Read one of the JSON files; None when it is not there. Raises `Unreadable`."""
        data = self.bytes_of(name)
        if data is None:
            return None
        try:
            return table(json.loads(data.decode()))
        except UnicodeDecodeError:
            raise Unreadable(self, name, "it is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise Unreadable(self, name, str(error) or "it is nested too deeply") from None

    def bytes_of(self, name: str) -> bytes | None:
        """The content of a file; None when it is not there. Raises `Unreadable`."""
        try:
            # a FIFO must not be waited for, and a link may lead anywhere
            with open(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise Unreadable(self, name, "it is not a regular file")
                if found.st_size > LARGEST:
                    raise Unreadable(self, name, f"it has {found.st_size >> 20} MB")
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(self, name, processes.reason(error)) from None

    @property
    def job(self) -> dict[str, Any]:
        """What was asked for, and by which process on which machine. Raises `Unreadable`."""
        data = self.read("job.json")
        try:
            if data is None:
                return {}
            required = ("time", *(("there", "host") if "served" in data else ()))
            return checked(with_scheduler(data), JOB, required)
        except Malformed as error:
            raise Unreadable(self, "job.json", str(error)) from None

    @property
    def scheduled(self) -> Scheduled | None:
        """The job of a scheduler in which it is; None where it is in none. Raises `Unreadable`."""
        found = self.job.get("scheduler")
        return None if found is None else Scheduled(**found)

    @property
    def plan(self) -> Plan | None:
        """What was planned; None when there is no plan yet. Raises `Unreadable`."""
        data = self.read("plan.json")
        try:
            return None if data is None else plan_from_json(data)
        except Malformed as error:
            raise Unreadable(self, "plan.json", str(error)) from None

    @property
    def controller_config(self) -> ControllerConfig | None:
        """What a controller elsewhere was told beside the plan; None where there is none yet. Raises `Unreadable`."""
        data = self.read(RECORD)
        try:
            return None if data is None else config_from_json(data, str(self.path))
        except Malformed as error:
            raise Unreadable(self, RECORD, str(error)) from None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of its nodes, by number; none when there is no plan yet. Raises `Unreadable`."""
        plan = self.plan
        return () if plan is None else plan.hosts

    @property
    def outcome(self) -> RunResult | None:
        """How it ended, if that is known. Raises `Unreadable`."""
        data = self.read("outcome.json")
        try:
            return None if data is None else outcome_from_json(data)
        except Malformed as error:
            raise Unreadable(self, "outcome.json", str(error)) from None

    def events(self) -> list[dict[str, Any]]:
        """What happened, in order. A line that is not whole, or no event, is left out. Raises `Unreadable`."""
        return [event for event in self.lines_of("events.jsonl") if isinstance(event.get("event"), str)]

    def lines_of(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects in a file of JSON lines; what is none is left out. Raises `Unreadable`."""
        for line in (self.bytes_of(name) or b"").splitlines():
            try:
                found = json.loads(line.decode(errors="replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found

    def attempts(self) -> list[int]:
        """The numbers of the attempts that left a folder."""
        names = (path.name[8:] for path in self.path.glob("attempt_*"))
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,9}", name))

    def log(self, attempt: int, rank: int, stream: str) -> Path:
        """The file of one rank: one of `STREAMS`. Raises `Malformed` for what is none: it may come from a host."""
        if stream not in STREAMS:
            raise Malformed(f"{stream!r} is no stream of a rank")
        attempt, rank = whole(attempt), whole(rank)
        return Path(rank_file(str(self.path / f"attempt_{attempt}"), rank, stream))

    def open_log(self, attempt: int, rank: int, stream: str) -> IO[bytes]:
        """That file, to be read. Raises OSError, and `Unreadable` for a FIFO: the directory may be another user's."""
        return self.open_file(str(self.log(attempt, rank, stream).relative_to(self.path)))

    def open_file(self, name: str) -> IO[bytes]:
        """A file of the run, to be read, in the same way."""
        file = open(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Unreadable(self, name, "it is not a regular file")
        return file

    def ranks(self, attempt: int) -> list[int]:
        """The ranks that left a log in an attempt."""
        names = (path.name for path in (self.path / f"attempt_{attempt}").glob("rank_*.out"))
        return sorted(int(name[5:-4]) for name in names if re.fullmatch(r"rank_[0-9]{5,9}\.out", name))
