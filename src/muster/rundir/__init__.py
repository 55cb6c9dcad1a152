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
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple

from muster.agent.links import unlink_all
from muster.core.controller_config import RECORD, ControllerConfig, config_from_json
from muster.core.json_records import (
    Malformed,
    checked,
    flag,
    job_from_json,
    number,
    optional,
    outcome_from_json,
    plan_from_json,
    table,
    text,
    texts,
    whole,
)
from muster.core.model import Plan, as_json
from muster.core.results import RunResult
from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes
from muster.linux.processes import NO_ROOM
from muster.protocol.paths import expanded, rank_file
from muster.rundir import homes
from muster.schedulers import SCHEDULERS

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4,16}(-[A-Za-z0-9_.-]{1,24})?")
"""The time, something random, and the name of the script."""

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


class Scheduled(NamedTuple):
    """The job of a scheduler in which a run is."""

    name: str
    """A key of `SCHEDULERS`."""
    job: str
    """Its number."""
    job_name: str | None = None
    """The name that it was given; None where nobody has noted it."""
    allocated: bool = False
    """It was there before the run, and does not end with it."""
    requeue: int = 0
    """How often it goes on as the next attempt when the scheduler has ended it."""


def _scheduler(value: Any) -> str:
    if text(value) not in SCHEDULERS:
        raise Malformed(f"{value!r} is no scheduler that this muster knows")
    return str(value)


def _number_of_job(value: Any) -> str:
    """It stands on the command line of what cancels it."""
    if not re.fullmatch(r"[0-9A-Za-z][\w.@:\[\]-]{0,63}", text(value)):
        raise Malformed(f"{value!r} is no number of a job")
    return str(value)


_SCHEDULED = {
    "name": _scheduler,
    "job": _number_of_job,
    "job_name": optional(text),
    "allocated": flag,
    "requeue": whole,
}


def _with_scheduler(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of job.json as they are written now; the version before this one knew no scheduler but Slurm."""
    if "slurm" not in data or "scheduler" in data:
        return data
    old = {"job": "slurm", "job_name": "slurm_name", "allocated": "allocated", "requeue": "requeue"}
    return {**data, "scheduler": {"name": "slurm", **{new: data[key] for new, key in old.items() if key in data}}}


def _number_of_ranks(value: Any) -> int:
    """So many that a list of them can be made."""
    if whole(value) > 1 << 20:
        raise Malformed(f"{value} is no number of ranks")
    return int(value)


_SERVED = {"name": text, "user": text}

JOB = {
    "id": text,
    "name": text,
    "argv": texts,
    "cwd": text,
    "started": text,
    "time": number,
    "ranks": _number_of_ranks,
    "pid": whole,
    "pid_started": text,
    "host": text,
    "boot": text,
    "job": lambda value: as_json(job_from_json(value)),
    "served": lambda value: checked(value, _SERVED, ("name", "user")),
    "there": text,
    "shared": flag,
    "scheduler": lambda value: checked(value, _SCHEDULED, ("name", "job")),
}
"""The fields of job.json."""


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
            return checked(_with_scheduler(data), JOB, required)
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


def new_id(title: str, stamp: str, random: str) -> str:
    """Make a run's id from the time, something random and the name of the script: it sorts, and people know it."""
    short = re.sub(r"[^A-Za-z0-9_.]+", "-", title).strip("-.")[:24]
    return "-".join(filter(None, (stamp, random, short)))


class Store(NamedTuple):
    """Where a command keeps runs, and where it finds them."""

    root: Path
    """The run directories of new runs are made in `runs/` of this directory."""
    homes: tuple[Path, ...] = ()
    """The homes of muster (`homes.py`). Runs that are kept elsewhere are noted in the first one."""
    alone: bool = False
    """Only what is in `root` is found: it was named on the command line."""

    @property
    def places(self) -> list[Path]:
        """All directories in which runs are looked for, beside those that are noted."""
        return [self.root] if self.alone else list(dict.fromkeys((self.root, *self.homes)))

    @property
    def required(self) -> set[Path]:
        """Those of them that nobody may overlook: new runs are kept or noted there."""
        return {self.root, *([] if self.alone else self.homes[:1])}

    @property
    def option(self) -> str:
        """What a command needs to look where this one does; empty where it does anyway."""
        return _option(self.root) if self.alone and self.root not in self.homes else ""

    @property
    def here(self) -> Store:
        """The same, without the runs that are kept elsewhere."""
        return self._replace(alone=True)

    def path(self, run_id: str) -> Path:
        """The run directory of a new run."""
        return self.root / "runs" / run_id


def store_at(named: str | None, env: Mapping[str, str], alone: bool = False) -> Store:
    """Where runs are kept, and found: in the directory that is named, or else in the home of muster.

    `alone`: only in the directory that is named. Raises `NoWorkingDirectory`.
    """
    try:
        found = homes.of_muster(env)
        root = Path(expanded(named, env)).absolute() if named is not None else found[0]
    except OSError as error:
        raise NoWorkingDirectory(processes.reason(error)) from None
    return Store(root, found, alone)


def _option(root: Path) -> str:
    return f" --run-dir {shlex.quote(str(root))}"


def free_id(store: Store, title: str, now: float, stamp: str) -> str:
    """An id that no run in this directory has. `now` is in seconds since 1970, `stamp` the same as text, in UTC:

    ids sort by time, so that the last one is the newest, whatever zone each terminal is in.
    """
    while True:
        # the fraction of the second first: of two runs that began in the same second, `last` is the later one
        found = new_id(title, stamp, f"{int(now % 1 * 4096):03x}{os.urandom(5).hex()}")
        if not store.path(found).exists():
            return found


def create(store: Store, run_id: str) -> Run:
    """Make a run directory; raises `InvalidRequest` with the reason when that cannot be."""
    root, path = store.root, store.path(run_id)
    made = False
    try:
        processes.make_private(str(path.parent))
        for folder in (root, path.parent):
            why = homes.why_anothers(folder) or processes.why_shared(str(folder))
            if why:
                raise InvalidRequest(
                    f"runs are not kept in {folder}, because others could change what runs there: {why}",
                    f"`chmod go-w {folder}`, or choose another place by `--run-dir` or MUSTER_HOME",
                )
        path.mkdir(mode=0o700)
        made = True
        processes.try_to_write(str(path))
    except OSError as error:
        if made:  # one that was there before is another run's
            _remove(path)
        reason = processes.reason(error)
        full = error.errno in NO_ROOM
        hint = ("free some space there, or " if full else "") + "choose another place by `--run-dir` or MUSTER_HOME"
        raise InvalidRequest(f"cannot write the run directory {path}: {reason}", hint) from None
    return note(store, path)


def note(store: Store, path: Path) -> Run:
    """The run of a new run directory, which is noted in the home if it is not kept there."""
    found = store.root in store.homes or bool(store.homes and homes.note(store.homes[0], path))
    return Run(path, "" if found else _option(store.root))


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


class Found(NamedTuple):
    """The runs that a command finds."""

    runs: list[Run]
    """The oldest first."""
    refused: dict[Path, str]
    """Run directories that are not read, and why not."""
    unreadable: dict[Path, str]
    """Directories in which there may be more runs, and why nobody knows."""

    def unknown(self, store: Store) -> dict[Path, str]:
        """Those of them that matter: not the usual home where another one is kept because of that."""
        return {folder: why for folder, why in self.unreadable.items() if folder.parent in store.required}


def look(store: Store) -> Found:
    """All runs that a command finds."""
    noted = homes.noted(store.homes[0]) if store.homes else {}
    paths, unreadable = {}, {}
    for place in store.places:
        names, why = _names_in(place / "runs")
        paths.update({name: place / "runs" / name for name in names if name not in paths})
        if why:
            unreadable[place / "runs"] = why
    if not store.alone:
        paths.update({name: path for name, path in noted.items() if ID.fullmatch(name) and name not in paths})
    found, refused = [], {}
    for name in sorted(paths):
        path = paths[name]
        why = why_refused(path, own=noted.get(name) == path)
        if why:
            refused[path] = why
        elif os.path.lexists(path / "job.json"):
            known = noted.get(name) == path or path.parents[1] in store.homes
            found.append(Run(path, "" if known else _option(path.parents[1])))
    return Found(found, refused, unreadable)


def _names_in(folder: Path) -> tuple[list[str], str]:
    """The ids of the runs in a directory, and why they cannot be known: empty where they are, or there is none."""
    try:
        return [name for name in os.listdir(folder) if ID.fullmatch(name)], ""
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], processes.reason(error)


def why_refused(path: Path, own: bool = False) -> str:
    """Why a run directory is not read: others could have written what stands in it. Empty when it is.

    `own`: this user has kept it there, and root is that user, too.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        return processes.reason(error)
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a directory"
    if found.st_uid != os.getuid() and os.getuid() != 0:
        return f"it belongs to {_user(found.st_uid)}"
    if own and found.st_uid != os.getuid():
        return f"it was this user's, and belongs to {_user(found.st_uid)} now"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others can write in it"
    return ""


def why_not_ours(path: Path) -> str:
    """Why a file is not taken for one of this very user, root or not; empty when it is."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return processes.reason(error)
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_uid != os.getuid():
        return f"it belongs to {_user(found.st_uid)}"
    return "others can write in it" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def list_runs(store: Store) -> list[Run]:
    """All runs that may be read, the oldest first."""
    return look(store).runs


def all_of(store: Store) -> list[Run]:
    """The same, where one that is overlooked would be a mistake; raises `InvalidRequest` when some cannot be known."""
    found = look(store)
    unknown = found.unknown(store)
    if unknown:
        raise unreadable_error(unknown)
    return found.runs


def find_run(store: Store, which: str, lives: Callable[[Run], bool] = lambda run: False) -> Run:
    """The run with this id, name or unique beginning of an id; `last` is the newest.

    Of several with the same name it is the one that `lives`, or the newest.
    """
    listed = f"`muster ps -a{store.option}` lists all"
    if not which:
        raise InvalidRequest("an empty name is the name of no run", f"{listed}; `last` is the newest")
    looked = look(store)
    runs, refused, unknown = looked.runs, looked.refused, looked.unknown(store)
    for path, why in refused.items():
        if path.name == which:
            raise InvalidRequest(f"{path} is not read: {why}", "its owner can, or root")
    exact = [run for run in runs if run.id == which]
    named = [run for run in runs if not exact and _name(run) == which]
    begun = [run for run in runs if run.id.startswith(which)]
    living = [run for run in named if lives(run)] if len(named) > 1 else []
    found = exact or living or named[-1:] or begun
    if unknown and not found:
        raise unreadable_error(unknown)
    if not runs:
        raise InvalidRequest(f"there is no run in {store.root}", "start one by `muster run`, or set MUSTER_HOME")
    if which == "last":
        return runs[-1]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidRequest(f"`{which}` fits {len(found)} runs: {some(run.id for run in found[::-1])}", MORE_OF_IT)
    raise InvalidRequest(
        f"there is no run `{which}`", f"the newest are {some(run.id for run in runs[-3:][::-1])}; {listed}"
    )


def unreadable_error(unreadable: Mapping[Path, str]) -> InvalidRequest:
    """The error for directories of runs that cannot be read, when it is not known what is in them."""
    folder, why = next(iter(unreadable.items()))
    return InvalidRequest(
        f"cannot read {folder}, where runs are kept: {why}",
        f"look at its permissions (`ls -ld {folder}`), or name another place by `--run-dir` or MUSTER_HOME",
    )


def namesakes(store: Store, name: str) -> list[Run]:
    """The runs with this name, the oldest first."""
    return [run for run in list_runs(store) if _name(run) == name]


def _name(run: Run) -> str:
    """Its name; one that cannot be read has none."""
    try:
        return str(run.job.get("name", ""))
    except Unreadable:
        return ""


MORE_OF_IT = "give the id of one of them"
"""The hint for the beginning of an id that fits several."""


def some(ids: Iterable[str]) -> str:
    """The first of these ids, for a sentence."""
    found = list(ids)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


_SHOWN = 8
"""Ids that a sentence lists."""


def remove(store: Store, run: Run) -> None:
    """Delete a run directory, the links that lead into it, and the note of where it is; nobody else's links."""
    for home in store.homes[:1]:
        homes.forget(home, run.path)
    with suppress(OSError):  # somebody else deletes it at the same time
        if run.uid == os.getuid():
            unlink_all(str(run.path))
    _remove(run.path)
