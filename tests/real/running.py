"""Helpers for tests of processes that end: wait for conditions, and find living processes."""

from __future__ import annotations

import json
import marshal
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from waiting import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed_sum.py"

RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{4,16}(-[\w.-]+)?"
"""Pattern of a run ID."""

SAME_WORDS = {
    RUN_ID: "RUN",
    r"after \d[\w. ]*? s\b": "after SOME s",
    r"(?<=, )\d[\w. ]* after the start": "SOME s after the start",
    r"pid \d+": "pid N",
    r"report: /.*/runs/": "report: .../runs/",
    r'File "/[^"]*/([^"/]+)", line \d+': r'File ".../\1", line N',
}
"""Replacements for what differs between two runs of the same thing, for `golden`."""


# ---- processes ------------------------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process, distinguished from a later one with the same pid by its start time."""

    pid: int
    started: str


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, from the state on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def everybody() -> list[int]:
    """Return all pids of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def living(processes: Iterable[Process]) -> list[Process]:
    """Return those that are alive; a zombie is not."""
    found = []
    for process in processes:
        stat = _stat(process.pid)
        if stat and stat[0] not in "ZX" and stat[19] == process.started:
            found.append(process)
    return found


def process(pid: int) -> Process:
    """Return this process as it is now."""
    stat = _stat(pid)
    assert stat, f"there is no process {pid}"
    return Process(pid, stat[19])


def family(root: int) -> set[Process]:
    """Return all living descendants of a process."""
    stats = {pid: stat for pid in everybody() if (stat := _stat(pid)) and stat[0] not in "ZX"}
    found, before = {root}, 0
    while len(found) != before:
        before = len(found)
        found |= {pid for pid, stat in stats.items() if int(stat[1]) in found}
    return {Process(pid, stats[pid][19]) for pid in found - {root} if pid in stats}


def children(parent: int) -> list[int]:
    """Return the living children of a process, the oldest first."""
    stats = {pid: stat for pid in everybody() if (stat := _stat(pid)) and stat[0] not in "ZX"}
    found = [pid for pid, stat in stats.items() if int(stat[1]) == parent]
    return sorted(found, key=lambda pid: int(stats[pid][19]))


def parents(processes: Iterable[Process]) -> set[Process]:
    """Return the parents of these processes."""
    return {process(int(stat[1])) for one in processes if (stat := _stat(one.pid))}


def environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def command(pid: int) -> str:
    """Return the command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def carriers(run_id: str) -> set[Process]:
    """Return living processes that were started in the environment of this run."""
    found = (pid for pid in everybody() if environment(pid).get("TORCHELASTIC_RUN_ID") == run_id)
    pairs = ((pid, _stat(pid)) for pid in found)
    return {Process(pid, stat[19]) for pid, stat in pairs if stat and stat[0] not in "ZX"}


def shared(pids: Iterable[int]) -> list[str]:
    """Return torch's files in shared memory created by these processes, whose pids are in the names."""
    beginnings = tuple(f"torch_{pid}_" for pid in pids)
    return [name for name in os.listdir("/dev/shm") if name.startswith(beginnings)]


def temporary(run_id: str) -> list[str]:
    """Return the temporary directories of this run on this machine."""
    files = [file for base in ("/tmp", "/var/tmp", "/dev/shm") for file in Path(base).glob("muster-*/run")]
    found = []
    for file in files:
        try:
            found += [str(file.parent)] if file.read_text(errors="replace") == run_id else []
        except OSError:  # removed in the meantime
            continue
    return found


# ---- runs -----------------------------------------------------------------------------------------------------------


class RunProcesses:
    """A run in progress: the process, its run directory, and its descendants. `with` ends it in any case."""

    def __init__(self, muster: Any, *words: str, **more: Any):
        self.muster = muster
        self.seen: set[Process] = set()
        before = self._folders()
        self.process = muster.start(*words, **more)
        self.path: Path = until(lambda: next(iter(self._folders() - before), None), "the run has a job.json")
        self.id = self.path.name

    def __enter__(self) -> RunProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        left = {*self.seen, *self.everybody(), *carriers(self.id)}
        if self.process.poll() is None:
            self.process.kill()
        for one in living(left):
            # these free what the others leave in shared memory, and exit by themselves
            if not re.search("multiprocessing.resource_tracker|torch_shm_manager", command(one.pid)):
                with suppress(ProcessLookupError):  # it has ended since then
                    os.kill(one.pid, signal.SIGKILL)
        self.process.wait()
        # a worker of torch that is killed between creating and removing a file leaves it
        until(lambda: not living(left), "what was killed has ended")
        for name in shared(one.pid for one in left):
            os.unlink(f"/dev/shm/{name}")
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            if file is not None:
                file.close()

    def _folders(self) -> set[Path]:
        return {path.parent for path in (self.muster.home / "runs").glob("*/job.json")}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of this kind so far."""
        found = []
        path = self.path / "events.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:  # incomplete
                continue
            if event["event"] == kind:
                found.append(event)
        return found

    def log(self, rank: int, stream: str = "out", attempt: int = 0) -> str:
        """Return the output of a rank so far."""
        path = self.path / f"attempt_{attempt}" / f"rank_{rank:05d}.{stream}"
        return path.read_text(errors="replace") if path.exists() else ""

    def wrote(self, word: str, ranks: Iterable[int] = (0,), attempt: int = 0, timeout: float = 120.0) -> None:
        """Wait until each of these ranks has written `word` to its stdout."""
        for rank in ranks:

            def seen(rank: int = rank) -> bool:
                assert self.process.poll() is None or word in self.log(rank, attempt=attempt), self.all_output()
                return word in self.log(rank, attempt=attempt)

            until(seen, f"rank {rank} writes {word!r}", timeout)

    def all_output(self) -> str:
        """Return muster's output, after it has exited too early."""
        out, err = self.process.communicate(timeout=120)
        return f"muster ended with {self.process.returncode}:\n{out}\n{err}"

    def everybody(self) -> set[Process]:
        """Return all living descendants of muster, without muster itself."""
        found = family(self.process.pid)
        self.seen |= found
        return found

    def agent(self) -> int:
        """Return the process of the agent."""
        return int(until(lambda: self.events("hello"), "the agent says hello")[0]["pid"])

    def ranks(self, attempt: int = 0) -> dict[int, int]:
        """Return the process of each rank."""
        found = until(lambda: [event for event in self.events("pids") if event["attempt"] == attempt], "ranks start")
        return {int(rank): pid for rank, pid in found[0]["pids"].items()}

    def warm(self) -> int:
        """Return the fork server: the oldest child of the agent that was started to serve."""
        return next(pid for pid, mode in self._hooked() if mode == "serve")

    def store(self) -> int:
        """Return the store process: the child of the agent with the hook that is neither the fork server nor a rank.

        The agent may have another child for a while, which describes the node.
        """
        others = {self.warm(), *self.ranks().values()}
        return next(pid for pid, _ in self._hooked() if pid not in others)

    def _hooked(self) -> Iterator[tuple[int, str]]:
        """Yield the children of the agent that were started with the hook, with what they were started for."""
        for pid in children(self.agent()):
            hook = environment(pid).get("MUSTER_HOOK")
            if hook:
                yield pid, marshal.loads(bytes.fromhex(hook))["mode"]

    def end(self, timeout: float = 120.0) -> tuple[int, str, str]:
        """Wait until muster exits; return (exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def outcome(self) -> dict[str, Any]:
        """Return the content of outcome.json."""
        found: dict[str, Any] = json.loads((self.path / "outcome.json").read_text())
        return found


def newest(muster: Any) -> Path:
    """Return the newest run directory; IDs have the time in seconds only."""

    def began(path: Path) -> float:
        return float(json.loads((path / "job.json").read_text())["time"])

    return max((path.parent for path in (muster.home / "runs").glob("*/job.json")), key=began)


def log(muster: Any, rank: int, stream: str = "out", attempt: int = 0) -> bytes:
    """Return the output of a rank of the newest run."""
    return (newest(muster) / f"attempt_{attempt}" / f"rank_{rank:05d}.{stream}").read_bytes()


def outcome(muster: Any) -> dict[str, Any]:
    """Return the result of the newest run."""
    found: dict[str, Any] = json.loads((newest(muster) / "outcome.json").read_text())
    return found


def no_one_left(processes: Iterable[Process], run_id: str, timeout: float = 60.0) -> None:
    """Check that these processes, and all started in the environment of the run, exit within `timeout` seconds."""
    processes = list(processes)

    def left() -> list[str]:
        return [f"{one.pid} {command(one.pid)}" for one in {*living(processes), *carriers(run_id)}]

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and left():
        time.sleep(0.05)
    assert [] == left()
