"""Scripts that fail or hang on three hosts with two ranks each: the rank is named with its host, and the cause."""

from __future__ import annotations

import shutil

import pytest
from lab_cluster import LabCluster
from waiting import until
from zoo_cases import CASES, HANGS, ZOO, Case, Hang, first_rank, lacks, report

FAIL = (
    *("handled_then_segfault", "error_in_cleanup", "wrapped_by_all", "logged_to_stdout", "leaves_early"),
    *("own_server_refused", "killed_from_outside", "all_alike"),
)
HANG = ("asleep", "reads_fifo", "never_joins", "different_calls", "one_call_too_many", "stopped")


def start(there: LabCluster, name: str) -> list[str]:
    """Return the words of a run of this script on six ranks."""
    for path in (f"{name}.py", "loop.py"):
        shutil.copy(ZOO / path, there.folder)
    return ["run", "--grace", "5", "-H", "n1,n2,n3", "-g", "2", str(there.folder / f"{name}.py")]


@pytest.mark.parametrize("case", [case for case in CASES if case.name in FAIL], ids=lambda case: case.name)
def test_a_failure_on_three_hosts(there: LabCluster, case: Case) -> None:
    done = there.muster(*start(there, case.name))
    told = report(done.stderr)
    assert case.rank == first_rank(told), told
    assert case.rank is None or f"rank {case.rank} on n{case.rank // 2 + 1} failed first" in told
    assert [] == lacks(case.words, told), told
    assert [] == [words for words in case.misleads if words in told], told
    assert done.returncode in case.status, told
    assert len(told.splitlines()) < 25
    there.nothing_left()


@pytest.mark.parametrize("hang", [hang for hang in HANGS if hang.name in HANG], ids=lambda hang: hang.name)
def test_a_hang_on_three_hosts(there: LabCluster, hang: Hang) -> None:
    process = there.start(*start(there, hang.name))

    def verdict() -> str:
        first: str = there.muster("why", "last").stdout.partition("\n")[0]
        return first if lacks(hang.words, first) == [] else ""

    until(lambda: list((there.home / "runs").glob("*/attempt_0/rank_00005.out")), "it runs")
    told = until(verdict, "the verdict", 150)
    assert " on n" in told
    assert 0 == there.muster("kill", "last").returncode
    process.wait(120)
    there.nothing_left()
