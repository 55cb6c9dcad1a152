"""What sacct says of a job, as Slurm 22.05 printed it on the lab, and what a run's numbers become with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_status import made

from muster.client.accounting import used as used_by
from muster.core.accounting import NodeUse, Recorded, RunUse, as_recorded
from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import Final
from muster.schedulers.slurm_accounting import _bytes, _gpus, _seconds, recorded, used
from muster.ui.accounting_text import use_in_words

MIB, GIB = 1 << 20, 1 << 30

ENDED = """\
3|COMPLETED|2026-11-28T02:19:44|10|2||00:05.434|||billing=2,cpu=2,gres/gpu=2,mem=8G,node=2|n[1-2]
3.batch|COMPLETED|2026-11-28T02:19:44|10|1|1|00:00.661|842029056|n1|cpu=1,gres/gpu=1,mem=0,node=1|n1
3.extern|COMPLETED|2026-11-28T02:19:44|10|2|2|00:00.000|942029056|n1|cpu=1,mem=0,node=1|n[1-2]
3.0|COMPLETED|2026-11-28T02:19:43|8|2|2|00:04.725|315637760|n2|cpu=2,gres/gpu=2,mem=0,node=2|n[1-2]
3.1|COMPLETED|2026-11-28T02:19:43|8|1|1|00:00.047|16986112|n1|cpu=1,mem=0,node=1|n1
"""

REQUEUED = """\
5|REQUEUED|2026-11-28T02:21:53|20|2||00:04.000|||billing=2,cpu=2,node=2|n[1-2]
5.batch|CANCELLED|2026-11-28T02:21:54|20|1|1|00:00.001|1273856|n1|cpu=1,mem=0,node=1|n1
5.0|CANCELLED|2026-11-28T02:21:55|20|2|2|00:00.003|933888|n1|cpu=2,mem=0,node=2|n[1-2]
"""


def test_what_sacct_says_of_a_job() -> None:
    """The peak is not that of the controller or of Slurm's own step; it is unknown with several tasks per node."""
    expected = Recorded(10.0, ("n1", "n2"), 2, 5.434, 8 * GIB, 315637760, "n2", 2)
    assert expected == recorded(ENDED)
    tasks = "3.2|COMPLETED|2026-11-28T02:19:43|8|2|4|00:00.047|716986112|n1|cpu=4,mem=0,node=2|n[1-2]\n"
    assert expected._replace(peak=0, peak_host="") == recorded(ENDED + tasks)


def test_the_starts_of_a_requeued_job_are_added() -> None:
    again = REQUEUED + "5|COMPLETED|2026-11-28T02:25:00|30|2||01:00.500|||billing=2,cpu=2,node=2|n[3-4]\n"
    found = recorded(again)
    assert found is not None
    assert (50.0, 64.5, 933888, ("n3", "n4")) == (found.seconds, found.core_seconds, found.peak, found.hosts)
    cancelled = recorded(REQUEUED + "5|CANCELLED by 0|2026-11-28T02:22:00|0|2||00:00:00|||None|None assigned\n")
    assert cancelled is not None
    assert 20.0 == cancelled.seconds


@pytest.mark.parametrize(
    "out", ["", "nonsense\n", ENDED.replace("3|COMPLETED|2026-11-28T02:19:44", "3|RUNNING|Unknown")]
)
def test_a_job_that_has_not_ended_or_is_unknown(out: str) -> None:
    assert recorded(out) is None
    assert recorded(REQUEUED + "5|PENDING|Unknown|0|2||00:00:00||||None assigned\n") is None


def test_the_question_is_for_one_job_and_not_for_an_earlier_one_with_its_id() -> None:
    since = time.mktime((2026, 11, 28, 2, 0, 0, 0, 0, -1))
    argv = used("12_3", since)
    assert "--jobs=12_3" in argv and "--duplicates" in argv
    assert "--starttime=2026-11-27T02:00:00" in argv
    for damaged in (-1e300, 1e300):
        assert "--starttime=" in " ".join(used("3", damaged))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:05.434", 5.434), ("01:02:03", 3723.0), ("2-01:02:03", 176523.0), ("", 0.0), ("INVALID", 0.0)],
)
def test_times(text: str, seconds: float) -> None:
    assert pytest.approx(seconds) == _seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("315637760", 315637760), ("2K", 2048), ("64000M", 64000 * MIB), ("1.5G", 3 * GIB // 2), ("", 0)]
)
def test_sizes(text: str, size: int) -> None:
    assert size == _bytes(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("cpu=1,gres/gpu=4,gres/gpu:a100=4", 4), ("gres/gpu:a100=2,gres/gpu:h100=1", 3), ("cpu=1", 0), ("", 0)],
)
def test_gpus(text: str, count: int) -> None:
    assert count == _gpus(text)


OWN = RunUse(
    8.0,
    (
        NodeUse("n1", 1, 1.0, 4 * GIB, 100 * MIB, 1, 0.5, allocated=True),
        NodeUse("n2", 1, 3.0, 4 * GIB, 350 * MIB, 1, 0.7, allocated=True),
    ),
)
JOB = Recorded(10.0, ("n1", "n2"), 2, 8.0, 8 * GIB, 300 * MIB, "n1", 2)


def test_accounting_replaces_what_was_measured() -> None:
    """The CPU time is distributed as muster measured it; what accounting does not have stays."""
    found = as_recorded(OWN, JOB, "Slurm accounting")
    assert found is not None
    assert (10.0, "Slurm accounting") == (found.seconds, found.source)
    assert [2.0, 6.0] == [node.core_seconds for node in found.nodes]
    assert [100 * MIB, 300 * MIB] == [node.peak for node in found.nodes], "on the node where muster saw most"
    assert [0.5, 0.7] == [node.gpu_use for node in found.nodes]
    (line,) = use_in_words(found)
    assert line.startswith("used     0.6 of 1 core on n2; memory peak 300 MiB of 4.0 GiB on n2; 8.0s of CPU time")
    assert line.endswith(" (Slurm accounting)")


def test_a_run_that_muster_did_not_measure() -> None:
    found = as_recorded(None, JOB, "Slurm accounting")
    assert found is not None
    first, second = found.nodes
    assert NodeUse("n1", 1, 4.0, 4 * GIB, 300 * MIB, 1, None, allocated=True) == first
    assert first._replace(host="n2", peak=0) == second


def test_what_either_does_not_have_comes_from_the_other() -> None:
    assert as_recorded(OWN, JOB._replace(core_seconds=0.0, peak=0), "Slurm accounting") is OWN
    assert as_recorded(None, JOB._replace(core_seconds=0.0, peak=0), "") is None
    idle = RunUse(8.0, tuple(node._replace(core_seconds=0.0, peak=0) for node in OWN.nodes))
    found = as_recorded(idle, JOB, "Slurm accounting")
    assert found is not None
    assert [(4.0, 300 * MIB), (4.0, 0)] == [(node.core_seconds, node.peak) for node in found.nodes]
    only_memory = as_recorded(OWN, JOB._replace(core_seconds=0.0), "Slurm accounting")
    assert only_memory is not None
    assert [1.0, 3.0] == [node.core_seconds for node in only_memory.nodes]


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], list[str]]]:
    """Return a function that puts a sacct of these shell lines first in PATH, and returns one that reads its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(lines: str) -> Callable[[], list[str]]:
        (folder / "answer").write_text(ENDED)
        (folder / "sacct").write_text(f'#!/bin/sh\necho "$*" >>{folder}/asked\n{lines}\n')
        (folder / "sacct").chmod(0o755)
        return lambda: (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []

    return make


def test_accounting_is_asked_once_for_a_run_with_a_job_of_its_own(
    tmp_path: Path, sacct: Callable[[str], Callable[[], list[str]]]
) -> None:
    asked = sacct(f"cat {tmp_path}/bin/answer")
    for number, scheduler in enumerate((None, {"name": "slurm", "job": "3", "allocated": True})):
        run = made(tmp_path / f"{number}", **({} if scheduler is None else {"scheduler": scheduler}))
        assert used_by(run, OWN) is OWN
    assert [] == asked()
    found = used_by(made(tmp_path / "own", scheduler={"name": "slurm", "job": "3"}), OWN)
    assert found is not None
    assert ("Slurm accounting", 10.0) == (found.source, found.seconds)
    assert 1 == len(asked())
    assert "--jobs=3" in asked()[0]


def test_without_accounting_it_is_not_asked_again_for_some_seconds(
    sacct: Callable[[str], Callable[[], list[str]]],
) -> None:
    asked = sacct("echo Slurm accounting storage is disabled >&2; exit 1")
    client = SchedulerClient("slurm")
    assert client.recorded("3", 1000.0) is None
    assert client.recorded("3", 1000.0) is None
    assert Final() == client.final("3")
    assert 1 == len(asked())
