"""Processes below a command, as /proc tells: their memory and CPU time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

from harness import Bench, Failed


def children(pid: int) -> list[int]:
    """Return the direct children of a process; none if it has ended."""
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except OSError:
        return []


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def family(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += children(found[-1])
    return found


def pss(pid: int) -> float:
    """Return the proportional set size in MB: a page that n processes share counts as 1/n of a page in each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def peak(pid: int) -> float:
    """Return the largest resident set size in MB so far; 0 if the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def cpu(pid: int) -> float:
    """Return the seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def runs_script(pid: int, script: str) -> bool:
    """Return whether a process is a rank, or will become one: its command line names the script."""
    try:
        return script.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3]
    except OSError:
        return True


class Peaks:
    """Looks at the memory of a launcher and its own processes, without the ranks, until `stop`."""

    def __init__(self, parent: int, script: str) -> None:
        self.parent, self.script, self.largest = parent, script, 0.0
        self.others = set(family(parent))
        """Processes that are there already, such as those of the lab."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        # children of this process itself: the command, and what it has left
        while not self._over.wait(0.1):
            for pid in family(self.parent):
                if pid not in self.others and not runs_script(pid, self.script):
                    self.largest = max(self.largest, peak(pid))

    def stop(self) -> float:
        """Return the largest size that a process had."""
        self._over.set()
        self._thread.join()
        return self.largest


class Idle:
    """Ranks of a launcher that wait: a context in which all of them are there."""

    def __init__(self, bench: Bench, words: list[str], ranks: int, there: Path) -> None:
        self.bench, self.words, self.ranks, self.there = bench, words, ranks, there

    def __enter__(self) -> int:
        """Return the pid of the launcher."""
        log = self.bench.new("idle.log")
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                self.words, env=self.bench.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        until = time.monotonic() + self.bench.left()
        while time.monotonic() < until and self.process.poll() is None:
            if self.there.exists() and self.there.read_text().count("idle") == self.ranks:
                return self.process.pid
            time.sleep(0.05)
        self.__exit__()
        raise Failed(f"{self.ranks} ranks were not there: {log.read_text()[-200:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
