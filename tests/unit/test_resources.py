"""Samples of resources over time, of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from muster.agent import resources
from muster.agent.resources import MOST, Sampler, gpu_command
from muster.linux import procfs
from muster.rundir.resources import resources_of
from muster.rundir.run import Run

BUSY = "import os\nif not os.fork():\n    kept = b'x' * (40 << 20)\n    input()\nprint(flush=True)\nwhile True: pass"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that uses CPU time, with a child that uses memory; both end with their stdin."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def sampler(ranks: int = 1) -> Sampler:
    return Sampler(2, 1, ranks, lambda: 1000.0)


def written(taken: Sampler) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(taken.as_json())
    return found


def test_a_rank_and_its_descendants(busy: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_SCANS", 1)
    taken, me = sampler(), os.getpid()
    taken.take({0: busy.pid})

    def enough() -> bool:
        taken.take({0: busy.pid, 1: me})
        of = written(taken)["ranks"]["0"]
        return bool(of["children_memory"][-1] > 40 << 20 and of["cpu"][-1] and of["cpu"][-1] > 20)

    until(enough, "its CPU time and the memory of its child are seen")
    busy.kill()
    until(lambda: not procfs.lives(busy.pid), "it is killed")
    taken.take({0: busy.pid, 1: me})
    found = written(taken)
    assert (2, 1, 1000.0, 1.0) == tuple(found[name] for name in ("node", "attempt", "began", "interval"))
    times, (first, other) = found["times"], (found["ranks"]["0"], found["ranks"]["1"])
    assert sorted(times) == times and 0 <= times[0] < 60
    assert {len(times)} == {len(values) for of in (first, other) for values in of.values()}
    assert first["memory"][0] > 1 << 20 and first["memory"][-1] is None, "it has exited"
    assert other["memory"][0] is None and other["memory"][-1] > 1 << 20, "it came later"
    assert first["cpu"][0] is None, "nothing to compare with"
    assert 40 << 20 < max(filter(None, first["children_memory"])) == taken.children_peak[0]
    assert {len(times)} == {len(found["machine"][name]) for name in ("memory", "cpu")}
    assert 0 < found["machine"]["memory"][-1] < found["machine"]["total"]
    assert os.cpu_count() == found["machine"]["cores"]


def test_the_number_of_samples_is_bounded() -> None:
    """Then each two neighbours become one, with the higher memory, and samples are taken half as often."""
    taken, me = sampler(), os.getpid()
    assert {1.0} == {taken.take({0: me}) for _ in range(MOST)}
    before = written(taken)
    assert 2.0 == taken.take({0: me})
    after = written(taken)
    assert MOST == len(before["times"]) and MOST // 2 + 1 == len(after["times"])
    assert before["times"][1::2] == after["times"][:-1]
    old, new = before["ranks"]["0"]["memory"], after["ranks"]["0"]["memory"]
    assert [max(pair) for pair in zip(old[::2], old[1::2])] == new[:-1]
    assert before["ranks"]["0"]["cpu"][1] == after["ranks"]["0"]["cpu"][0], "there was none in the first sample"


def test_many_ranks_are_sampled_less_often() -> None:
    assert (1.0, 8.0) == (sampler(8).interval, sampler(128).interval)


def test_gpus() -> None:
    """As nvidia-smi writes them; a part of a GPU (MIG) reports no utilization."""
    taken = sampler()
    taken.take({0: os.getpid()})
    for line in ("0, 1024, 81559, 97", "1, 3, 81559, [N/A]", "No devices were found", ""):
        taken.gpus_are(line)
    taken.take({0: os.getpid()})
    assert written(taken)["gpus"] == {
        "0": {"memory": [None, 1024.0 * (1 << 20)], "utilization": [None, 97.0], "total": 81559 << 20},
        "1": {"memory": [None, 3.0 * (1 << 20)], "utilization": [None, None], "total": 81559 << 20},
    }


def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert [] == gpu_command()


def test_they_are_read_from_the_run_directory(tmp_path: Path) -> None:
    """By node, in seconds since the start of the run; damaged files are left out."""
    run = Run(tmp_path / "20261127-120000-abcd-train")
    folder = run.path / "attempt_1"
    folder.mkdir(parents=True)
    run.write("job.json", {"id": run.id, "time": 990.0})
    taken = sampler()
    taken.take({0: os.getpid()})
    taken.gpus_are("0, 1024, 81559, 97")
    taken.take({0: os.getpid()})
    (folder / "resources_2.json").write_bytes(taken.as_json())
    (folder / "resources_0.json").write_bytes(b'{"start":2.5,' + taken.as_json()[1:])
    data = written(taken)
    for name, damaged in (("3", {**data, "times": [1.0]}), ("4", {**data, "machine": []}), ("5", [])):
        (folder / f"resources_{name}.json").write_text(json.dumps(damaged))
    (folder / "resources_6.json").mkdir()
    first, second = resources_of(run, 1)
    assert [round(10 + time, 2) for time in data["times"]] == list(first.times), "by the clock, without a controller"
    assert [round(2.5 + time, 2) for time in data["times"]] == list(second.times)
    (rank,), (gpu,) = first.ranks, first.gpus
    assert (0, 0, 81559 << 20) == (rank.rank, gpu.number, gpu.total) and rank.memory == tuple(
        data["ranks"]["0"]["memory"]
    )
    assert (None, 97.0) == gpu.utilization and first.cores == os.cpu_count()
    assert () == resources_of(run, 0)
