"""What keeps a rank from running, read from /proc of real processes and from recorded cgroup files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from waiting import until

from muster.agent.pressure import Moment, between, moment, throttled_time

BUSY = [sys.executable, "-c", "while True: pass"]


def test_a_process_that_shares_its_core_waits_for_it() -> None:
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(BUSY) as one, subprocess.Popen(BUSY) as other:
        try:
            for process in (one, other):
                os.sched_setaffinity(process.pid, {core})

            def shares() -> dict[str, float]:
                before = moment(one.pid)
                time.sleep(0.6)  # the window that is measured
                return between(before, moment(one.pid))

            found = until(lambda: (seen := shares())["waited"] > 0.2 and seen, "both have started")
        finally:
            one.kill()
            other.kill()
    assert 0.2 < found["waited"] <= 1.0
    assert 0.0 <= found["stolen"] <= 1.0


def test_a_process_that_sleeps_waits_for_no_core() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().startswith("230 "), "it sleeps")
        before = moment(process.pid)
        time.sleep(0.3)  # the window that is measured
        found = between(before, moment(process.pid))
        process.kill()
    assert (0.0, 0.0) == (found["waited"], found["faults"])


def test_a_process_that_has_gone_has_no_pressure() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    gone = moment(process.pid)
    assert ({}, 0, 0) == (gone.waited, gone.faults, gone.throttled)


def test_shares_of_the_window() -> None:
    before = Moment(10.0, {7: 1_000_000_000}, 5, 1_000_000, 100, 10_000)
    after = Moment(12.0, {7: 1_500_000_000, 8: 900_000_000}, 45, 1_500_000, 120, 10_200)
    assert {"waited": 0.45, "throttled": 0.25, "stolen": 0.1, "faults": 20.0} == between(before, after)


def cgroup(root: Path, name: str, text: str) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "cpu.stat").write_text(text)


def test_throttling_in_version_2(tmp_path: Path) -> None:
    """The limit may be that of a cgroup above."""
    cgroup(tmp_path, "job", "usage_usec 500\nnr_periods 10\nnr_throttled 4\nthrottled_usec 25000\n")
    cgroup(tmp_path, "job/step", "usage_usec 500\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n")
    assert 25_000 == throttled_time(1, str(tmp_path), "0::/job/step\n")


def test_throttling_in_version_1(tmp_path: Path) -> None:
    cgroup(tmp_path, "cpu,cpuacct/job", "nr_periods 10\nnr_throttled 4\nthrottled_time 25000000\n")
    assert 25_000 == throttled_time(1, str(tmp_path), "4:memory:/job\n3:cpu,cpuacct:/job\n0::/job\n")


def test_no_cgroups_no_throttling(tmp_path: Path) -> None:
    assert 0 == throttled_time(1, str(tmp_path), "0::/../../job\n")
