"""What is said of the pace of ranks."""

from __future__ import annotations

import pytest

from muster.core.pace import Cause, CauseKind, NothingSaid, Pace, Slow
from muster.ui.pace_text import milliseconds, pace_in_words

HOSTS = ("n1", "n2", "n3", "n4")
SIX = Slow((6,), 2, 0.93, 0.0412)
PACE = Pace("0", 1990, 8, 0.098, 0.29, (SIX,), 0.0415)


def test_a_slow_rank_with_its_causes() -> None:
    causes = {(6,): (Cause(CauseKind.WAITED, 0.38), Cause(CauseKind.STOLEN, 0.12), Cause(CauseKind.FAULTS, 41.0))}
    assert pace_in_words(PACE, HOSTS, causes).splitlines() == [
        "rank 6 (n3) arrived last in 93% of 1990 collectives, median 41 ms behind",
        "    it waited for a core 38% of the time: other processes run on its cores",
        "    the hypervisor gave 12% of the CPU time of its host to others (steal)",
        "    41 page faults per second waited for a disk",
        "the other ranks wait for 29% of the time (98 ms per collective)",
    ]


def test_several_ranks_of_a_group_on_one_host() -> None:
    pace = PACE._replace(group="3", slow=(Slow((4, 5), 0, 1.0, 1.25),))
    causes = {(4, 5): (Cause(CauseKind.THROTTLED, 0.5),)}
    assert pace_in_words(pace, ("n1",), causes).splitlines()[:2] == [
        "ranks 4-5 arrived last in 100% of 1990 collectives of process group 3, median 1.2 s behind",
        "    the CPU limit of their cgroup stopped them 50% of the time",
    ]


def test_many_slow_nodes_are_counted() -> None:
    slow = tuple(Slow((rank,), rank, 0.1, 0.05) for rank in range(9))
    assert "… and ranks on 4 other nodes" in pace_in_words(PACE._replace(slow=slow)).splitlines()


@pytest.mark.parametrize(
    "pace, words",
    [
        (
            PACE._replace(slow=(), spread=0.0011),
            "no slow rank among 8 ranks (1990 collectives, 98 ms apart; the last rank is 1.1 ms behind)",
        ),
        (
            Pace("0", 12, 4, nothing=NothingSaid.FEW),
            "too few collectives to compare the ranks: 12 that all ranks have called",
        ),
    ],
)
def test_no_slow_rank(pace: Pace, words: str) -> None:
    assert words == pace_in_words(pace, HOSTS)


def test_durations() -> None:
    assert ["0.4 ms", "9.9 ms", "10 ms", "41 ms", "999 ms", "1.0 s", "12.3 s"] == list(
        map(milliseconds, (0.0004, 0.0099, 0.00999, 0.0412, 0.9991, 0.9996, 12.34))
    )
