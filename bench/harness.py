"""What rows of the bench measure with: commands here and in the lab, taking turns, and records of what they took."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from records import MUSTER, NO_TIME, Measurement, Results, Skipped

from muster.lab import Lab

HERE = Path(__file__).parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
PROGRAM = str(BIN / "muster")
FIRST_SUM = str(HERE / "scripts" / "first_sum.py")

TORCHRUNX = "BENCH_TORCHRUNX"
"""Variable with the Python of a virtual environment that has torchrunx: it is no part of the project."""

Contender = Callable[[], Mapping[str, float]]
"""Runs a program once; returns what it took, by the names of `QUANTITIES`."""

PR_SET_CHILD_SUBREAPER = 36


class Failed(Exception):
    """A program did not do what is measured."""


class Missing(Exception):
    """A program is not here, or cannot do what is measured."""


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str
    began: float
    """Time of the clock, as ranks write it down."""
    took: float

    def times(self, path: Path, what: str, count: int) -> list[float]:
        """Return the times at which ranks did `what`, since the start of the command; raises `Failed` if some miss."""
        text = path.read_text() if path.exists() else ""
        found = [float(time) - self.began for time in re.findall(rf"^{what} ([\d.]+)$", text, re.M)]
        if len(found) < count:
            raise Failed(
                f"{len(found)} of {count} ranks {what}, exit status {self.status}: {last(self.err or self.out)}"
            )
        return found


def last(text: str) -> str:
    """Return the last line of a text."""
    return (text.strip().splitlines() or ["no output"])[-1][:200]


class Bench:
    """A run of the bench: its directory, its options, and the results so far. Rows measure with it."""

    def __init__(self, folder: Path, small: bool, until: float, origin: str):
        self.folder, self.small, self.until = folder, small, until
        self.repeat, self.patience = 1, 180.0
        self.origin, self.row = origin, ""
        self.only: tuple[str, ...] = ()
        """The only other programs that are measured; empty: all."""
        self.cases: tuple[str, ...] = ()
        """The only cases that are measured; empty: all."""
        self.no_lab = os.geteuid() != 0
        self.results = Results()
        self.failures: list[str] = []
        self._counted = 0
        self._lab: Lab | None = None
        self._stack = ExitStack()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER", "PET_", "SLURM"))}
        self.env = {**kept, "MUSTER_HOME": str(folder / "muster"), "OMP_NUM_THREADS": "1"}
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        # processes that a command leaves become children of this one, so that their CPU time is counted
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def size(self, usual: int, small: int) -> int:
        """Return `small` if this run is only for correctness."""
        return small if self.small else usual

    def sizes(self, usual: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        """Return `small` if this run is only for correctness."""
        return small if self.small else usual

    def new(self, name: str) -> Path:
        """Return the path of a new file in the directory, which hosts of the lab share."""
        self._counted += 1
        return self.folder / f"{self._counted}-{name}"

    # commands

    def left(self) -> float:
        """Return the seconds within which a command must end: one that has been started late has a minute."""
        return max(60.0, min(600.0, self.until - time.monotonic()))

    def run(
        self,
        words: Sequence[str],
        env: Mapping[str, str] | None = None,
        expected: int | None = 0,
        out: int | IO[bytes] = subprocess.PIPE,
        cwd: str | None = None,
    ) -> Done:
        """Run a command on this machine; raises `Failed` if it does not end, or not with the expected status."""
        began, at = time.time(), time.monotonic()
        process = subprocess.Popen(
            list(words),
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            said, wrong = process.communicate(timeout=self.left())
        except BaseException as error:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"no end after {time.monotonic() - at:.0f} s") from None
            raise
        took = time.monotonic() - at
        text, errors = ((part or b"").decode(errors="replace") for part in (said, wrong))
        return self._checked(Done(process.returncode, text, errors, began, took), expected)

    def in_lab(
        self, lab: Lab, words: Sequence[str], env: Mapping[str, str] | None = None, expected: int | None = 0
    ) -> Done:
        """Run a command on the head of the lab."""
        began, at = time.time(), time.monotonic()
        try:
            done = lab.run("head", words, env={**self.lab_env(lab), **(env or {})}, cwd="/", timeout=self.left())
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {time.monotonic() - at:.0f} s") from None
        found = Done(done.returncode, done.stdout, done.stderr, began, time.monotonic() - at)
        return self._checked(found, expected)

    def _checked(self, done: Done, expected: int | None) -> Done:
        if expected is not None and done.status != expected:
            raise Failed(f"exit status {done.status}: {last(done.err or done.out)}")
        return done

    # the lab

    def lab(self, nodes: int = 3) -> Lab:
        """Return a lab with so many nodes, which is up. Another one is taken down first."""
        if self._lab is None or len(self._lab.nodes) != nodes:
            self._stack.close()
            if self.no_lab:
                raise Missing("the lab needs root, and is not wanted with --no-lab")
            python = os.environ.get(TORCHRUNX, "")
            shared = [ROOT, self.folder, *([Path(python).parents[1]] if python else [])]
            self._lab = self._stack.enter_context(Lab(nodes=nodes, shared=shared))
        return self._lab

    def lab_env(self, lab: Lab) -> dict[str, str]:
        """Return the environment of commands in the lab."""
        path = f"{BIN}:/usr/local/bin:/usr/bin:/bin"
        return {**self.env, **lab.environment(), "PATH": path, "SLURM_CONF": lab.folder.slurm_conf}

    def close(self) -> None:
        """Take the lab down."""
        self._stack.close()
        self._lab = None

    # records

    def record(self, case: str, program: str, quantity: str, value: float) -> None:
        """Keep one number."""
        load = round(os.getloadavg()[0], 2)
        self.results.measurements.append(
            Measurement(self.row, case, program, quantity, round(value, 5), load, self.origin)
        )

    def skip(self, case: str, program: str, reason: str) -> None:
        """Keep why a program was not measured."""
        self.results.skipped.append(Skipped(self.row, case, program, reason, self.origin))
        print(f"  {case}: {program}: {reason}", file=sys.stderr, flush=True)

    def turns(self, case: str, contenders: Mapping[str, Contender], repeat: int = 0) -> None:
        """Measure the programs in turn, `repeat` rounds, so that a busy moment is as busy for all of them.

        A program that is not here, fails, or has used its `patience` takes part no more; what it took is kept. If
        muster itself fails, so does this run of the bench.
        """
        if self.cases and case not in self.cases:
            return
        used = dict.fromkeys(contenders, 0.0)
        out: set[str] = set()
        for number in range(repeat or self.repeat):
            for name, contender in contenders.items():
                other = not name.startswith(MUSTER)
                if name in out or (other and self.only and name not in self.only):
                    continue
                if number and other and used[name] * (1 + 1 / number) > self.patience:
                    continue
                if time.monotonic() > self.until:
                    if not number:
                        self.skip(case, name, NO_TIME)
                    continue
                at = time.monotonic()
                try:
                    for quantity, value in contender().items():
                        self.record(case, name, quantity, value)
                except (Missing, Failed) as error:
                    out.add(name)
                    self.skip(case, name, str(error))
                    if not other and isinstance(error, Failed):
                        self.failures.append(f"{self.row}: {case}: {name}: {error}")
                used[name] += time.monotonic() - at


def cpu_of_children() -> float:
    """Return the user and system time in seconds of all processes below this one that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:  # what their parents have left
            pass
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
