"""Proof of why a rank died, from real deaths: the OOM killer in a cgroup, resource limits, signals, lost pages."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from running import RunProcesses, outcome
from waiting import until

from muster.linux import cgroups, procfs

Script = Callable[..., Path]

# one after the other: without the kernel log, the OOM killer's count of the whole machine is the proof that it has not
# killed a rank
pytestmark = pytest.mark.xdist_group("oom")

EAT = """
import os, sys, time
rank = int(os.environ["RANK"])
def eat():
    open("/proc/self/oom_score_adj", "w").write("1000")  # none of muster's own processes in the cgroup
    kept = []
    while True:
        kept.append(bytearray(b"x" * (8 << 20)))
"""


class Box(NamedTuple):
    """A memory cgroup with a limit, as a container or a job of Slurm has one."""

    folder: Path
    procs: str
    """The file by which a process enters it."""

    def holding(self, argv: list[str]) -> list[str]:
        """Return the command that runs another one inside it."""
        return ["sh", "-c", f'echo $$ > "{self.procs}" && exec "$@"', "sh", *argv]


@pytest.fixture
def box() -> Iterator[Box]:
    """A cgroup below that of the tests, with 192 MiB."""
    found = cgroups.find_hierarchy()
    if found is None:
        pytest.skip("there is no memory controller")
    own = cgroups.chain(found, cgroups.path_in(found, procfs.cgroups(os.getpid())))[0][1]
    folder = Path(own, f"job_{os.getpid()}")
    try:
        folder.mkdir()
        limit = "memory.limit_in_bytes" if found.version == 1 else "memory.max"
        (folder / limit).write_text(str(192 << 20))
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    yield Box(folder, str(folder / "cgroup.procs"))
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    until(lambda: not (folder / "cgroup.procs").read_text(), "all processes have left the cgroup")
    folder.rmdir()


def sampled(muster: Any, times: int = 1) -> None:
    """Let so many samples of the ranks, and looks at their cgroups, be taken: there is one each second.

    The agent measures for half a second before it answers, and calls all timers in order: at least one of each kind is
    due between the first of two answers and the second.
    """
    for _ in range(2 * times + 1):
        done = muster("show", "last", "--json")
        assert 0 == done.returncode and json.loads(done.stdout)["now"]["ranks"], done


def boxed(muster: Any, box: Box, *words: str) -> str:
    """Run muster with ranks of this Python in the cgroup, and return its report.

    Programs start no store: it imports torch, which takes most of the memory.
    """
    muster.argv = lambda *words: box.holding([sys.executable, "-m", "muster", *words])
    done = muster("run", "-g", "2", "--", sys.executable, *words)
    del muster.argv
    return str(done.stderr)


def test_the_oom_killer_of_the_jobs_cgroup(muster: Any, script: Script, box: Box) -> None:
    report = boxed(muster, box, str(script(EAT + "eat() if rank == 1 else time.sleep(600)\n")))
    assert "rank 1 failed first" in report
    assert (
        "killed by the kernel's OOM killer (SIGKILL): the job's cgroup reached 192.0 of 192.0 MiB of memory, "
        "the process had 1" in report
    )
    end = outcome(muster)["root_cause"]
    assert 9 == end["signal"] and 100 << 20 < end["usage"]["peak_memory"] < 192 << 20
    assert end["facts"]["cgroups"][0]["path"].endswith(box.folder.name)
    assert "192.0 of 192.0 MiB" in muster("show").stdout


ENTERS = """
if rank == 1:
    open({procs!r}, "w").write(str(os.getpid()))
    print("inside", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.05)
    eat()
time.sleep(600)
"""
"""A rank enters a cgroup by itself, and eats once there is a file `go`: the agent must have seen it there before."""


def enters(muster: Any, tmp_path: Path, *words: str) -> str:
    """Run a script with ENTERS, and return muster's report."""
    with RunProcesses(muster, "run", "-g", "2", *words) as run:
        run.wrote("inside", [1])
        sampled(muster)
        (tmp_path / "go").touch()
        return run.end()[2]


def test_a_rank_that_has_entered_a_cgroup_by_itself(muster: Any, script: Script, box: Box, tmp_path: Path) -> None:
    path = str(script(EAT + ENTERS.format(procs=box.procs)))
    assert "the job's cgroup reached 192.0 of 192.0 MiB of memory" in enters(
        muster, tmp_path, "--launcher", "exec", path
    )


def test_a_child_that_the_oom_killer_has_killed(muster: Any, script: Script, box: Box) -> None:
    """As a worker of a DataLoader: the rank raises, and the report says what became of the child."""
    text = EAT + (
        "if rank == 1:\n    child = os.fork()\n    if not child:\n        eat()\n    os.waitpid(child, 0)\n"
        "    raise RuntimeError('a worker is gone')\ntime.sleep(600)\n"
    )
    report = boxed(muster, box, str(script(text)))
    assert "RuntimeError, exit status 1" in report
    assert "the kernel's OOM killer had killed " in report
    assert "the job's cgroup reached 192.0 of 192.0 MiB of memory" in report


def test_a_signal_that_somebody_sent(muster: Any, script: Script) -> None:
    text = script("import time\nprint('there', flush=True)\ntime.sleep(600)\n")
    with RunProcesses(muster, "run", "--launcher", "exec", "-g", "2", str(text)) as run:
        run.wrote("there", (0, 1))
        os.kill(run.ranks()[1], signal.SIGKILL)
        _, _, err = run.end()
    assert "rank 1 failed first" in err
    assert "killed by SIGKILL: a process sent it, as `kill -9` does; the kernel's OOM killer did not" in err


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("(1, 5)", "killed by SIGXCPU: it reached its CPU time limit of 1.0s (`ulimit -t`)"),
        ("(1, 1)", "killed by SIGKILL: it reached its CPU time limit of 1.0s (`ulimit -t`)"),
    ],
)
def test_the_cpu_time_limit(muster: Any, script: Script, limits: str, words: str) -> None:
    text = EAT + (
        "import resource, signal\n"
        f"if rank == 1:\n    resource.setrlimit(resource.RLIMIT_CPU, {limits})\n    while True:\n        pass\n"
        "time.sleep(600)\n"
    )
    done = muster("run", "--launcher", "exec", "-g", "2", str(script(text)))
    assert words in done.stderr
    used = outcome(muster)["root_cause"]["usage"]
    assert 0.4 <= used["user"] + used["system"] < 2


def test_the_file_size_limit(muster: Any, script: Script) -> None:
    """Python ignores SIGXFSZ, and raises; other programs are killed."""
    text = EAT + (
        "import resource, signal\n"
        "if rank == 1:\n    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_DFL) if sys.argv[1] == 'die' else None\n"
        "    open('big', 'wb').write(b'x' * (2 << 20))\ntime.sleep(600)\n"
    )
    path = str(script(text))
    done = muster("run", "--launcher", "exec", "-g", "2", path, "die")
    assert "killed by SIGXFSZ: a file reached the size limit of 1.0 MiB (`ulimit -f`)" in done.stderr
    done = muster("run", "--launcher", "exec", "-g", "2", path, "raise")
    assert "limit of rank 1: 1.0 MiB (`ulimit -f`)" in done.stderr


MAPPED = EAT + (
    "import mmap\n"
    "with open(sys.argv[1], 'w+b') as file:\n"
    "    file.truncate(8 << 20)\n"
    "    there = mmap.mmap(file.fileno(), 8 << 20)\n"
    "    file.truncate(0) if sys.argv[2] == 'short' else None\n"
    "there[:] = b'x' * (8 << 20)\n"
)


def test_a_mapped_file_that_was_truncated(muster: Any, script: Script, tmp_path: Path) -> None:
    done = muster("run", "--launcher", "exec", "-g", "1", str(script(MAPPED)), str(tmp_path / "data"), "short")
    assert (
        "killed by SIGBUS: a mapped file was truncated, or could not be read (no local file system is full)"
        in done.stderr
    )
    assert "shm-size" not in done.stderr, "the hint for a full /dev/shm"


def test_a_full_tmpfs(muster: Any, script: Script, tmp_path: Path) -> None:
    """In a mount namespace of its own, as a container has a /dev/shm of 64 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    enter = f'mount -t tmpfs -o size=4m none "{small}" && exec "$@"'
    muster.argv = lambda *words: [
        *("unshare", "--mount", "sh", "-c", enter, "sh"),
        *(sys.executable, "-m", "muster", *words),
    ]
    done = muster("run", "--launcher", "exec", "-g", "1", str(script(MAPPED)), str(small / "data"), "long")
    if "Operation not permitted" in done.stderr:
        pytest.skip("no file system can be mounted")
    assert f"killed by SIGBUS: no space left for a mapped file in {small} (4.0 MiB)" in done.stderr


def test_usage_of_each_rank_is_recorded(muster: Any, script: Script) -> None:
    """Also of ranks that succeed: memory and CPU time of the process, and CPU time of its children."""
    text = EAT + (
        "kept = b'x' * ((1 + rank) * (64 << 20))\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end:\n    pass\n"
        "if not os.fork():\n    end = time.process_time() + 0.2\n"
        "    while time.process_time() < end:\n        pass\n    os._exit(0)\nos.wait()\n"
    )
    done = muster("run", "--launcher", "exec", "-g", "2", str(script(text)))
    assert 0 == done.returncode, done.stderr
    exits, duration = outcome(muster)["exits"], outcome(muster)["duration"]
    for rank, end in enumerate(exits):
        usage = end["usage"]
        assert (1 + rank) * 64 < usage["peak_memory"] / (1 << 20) < (1 + rank) * 64 + 60
        # one thread in each process
        assert 0.25 < usage["user"] + usage["system"] < duration and 0.15 < usage["children_cpu"] < duration
        assert usage["minor_faults"] > 1000 and end["facts"] is None
    lines = (muster.newest() / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [end["usage"] for end in exits] == [
        event["usage"]
        for event in sorted((one for one in events if one["event"] == "ended"), key=lambda one: one["rank"])
    ]


def test_resources_over_time_are_kept(muster: Any, script: Script, tmp_path: Path) -> None:
    """Also GPUs, by nvidia-smi; its process ends with the run."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text('#!/bin/sh\necho "0, 512, 81559, 43"\necho $$ > "$(dirname "$0")/pid"\nexec sleep 600\n')
    smi.chmod(0o755)
    muster.env["PATH"] = f"{smi.parent}:{muster.env['PATH']}"
    text = EAT + f"kept = b'x' * (32 << 20)\nwhile not os.path.exists({str(tmp_path / 'go')!r}):\n    time.sleep(0.1)\n"
    with RunProcesses(muster, "run", "--launcher", "exec", "-g", "2", str(script(text))) as run:
        until(lambda: (smi.parent / "pid").exists(), "nvidia-smi is started")
        sampled(muster, 4)
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]
        found = json.loads((run.path / "attempt_0" / "resources_0.json").read_text())
    assert ["0", "1"] == sorted(found["ranks"]) and len(found["times"]) >= 5
    assert all(max(filter(None, of["memory"])) > 32 << 20 for of in found["ranks"].values())
    assert abs(found["began"] + found["times"][-1] - time.time()) < 60
    assert [512.0 * (1 << 20), 43.0] == [found["gpus"]["0"][name][-1] for name in ("memory", "utilization")]
    assert not procfs.lives(int((smi.parent / "pid").read_text()))


def test_resources_are_kept_when_the_controller_is_killed(muster: Any, script: Script) -> None:
    with RunProcesses(
        muster, "run", "--launcher", "exec", "-g", "1", str(script("import time\ntime.sleep(600)\n"))
    ) as run:
        until(lambda: run.events("pids"), "it has started")
        agent = run.agent()
        sampled(muster)
        run.process.kill()
        until(lambda: not procfs.lives(agent), "the agent has ended")
        found = json.loads((run.path / "attempt_0" / "resources_0.json").read_text())
    assert found["ranks"]["0"]["memory"][0] > 1 << 20


def test_ranks_of_a_launcher(muster: Any, script: Script, box: Box, tmp_path: Path) -> None:
    """The shim waits for the rank: it sends what it used and its limits, and the agent adds the facts of the cgroup."""
    text = EAT + "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))\n"
    path = str(script(text + ENTERS.format(procs=box.procs)))
    told = enters(muster, tmp_path, "--launcher", "torchrun", path)
    assert "the job's cgroup reached 192.0 of 192.0 MiB of memory" in told
    end = outcome(muster)["root_cause"]
    assert (1, 9) == (end["rank"], end["signal"]) and 100 << 20 < end["usage"]["peak_memory"] < 300 << 20
    assert {"name": "fsize", "soft": 1 << 30, "hard": 1 << 30} in end["facts"]["limits"]
