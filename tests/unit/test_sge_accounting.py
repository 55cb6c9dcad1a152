"""What qacct says of a job, as Grid Engine 8.1.9 printed it on the lab."""

from __future__ import annotations

from pathlib import Path

from muster.core.accounting import NodeUse, Recorded, RunUse, as_recorded
from muster.schedulers.sge_accounting import recorded

ENDED = (Path(__file__).parent / "recorded" / "sge" / "accounting.txt").read_text()


def test_what_a_job_on_two_nodes_used() -> None:
    found = recorded(ENDED)
    assert found == Recorded(6.0, (), 2, 3.448, 0, 0, "", 0), "a summary does not say which hosts it had"
    own = RunUse(5.0, (NodeUse("n1", 8, 1.0, 0, 100), NodeUse("n2", 8, 3.0, 0, 200)))
    used = as_recorded(own, found, "Grid Engine accounting")
    assert used is not None and used.source == "Grid Engine accounting" and used.seconds == 6.0
    assert [0.862, 2.586] == [round(node.core_seconds, 3) for node in used.nodes]
    assert [100, 200] == [node.peak for node in used.nodes], "measured by muster"


def test_records_of_tasks_are_added_and_those_of_an_older_job_are_not() -> None:
    other = ENDED.replace("n2   ", "n1   ").replace("cpu          3.448s", "cpu          1")
    older = ENDED.replace("qsub_time    Sat", "qsub_time    Fri").replace("3.448", "99")
    assert recorded(older + ENDED + other) == Recorded(6.0, ("n2", "n1"), 2, 4.448, 0, 0, "", 0)


def test_without_a_record_nothing_is_known() -> None:
    assert recorded("") is None
    assert recorded("error: job id 7 not found\n") is None
