"""What ranks have used, as a table."""

from __future__ import annotations

import random

from muster.core.results import RankExit, RankUsage
from muster.ui.usage_text import usage_in_words

GIB = 1 << 30


def exit_of(rank: int, **used: float) -> RankExit:
    return RankExit(rank, 0, 5.0, 0, usage=RankUsage(**used))  # type: ignore[arg-type]


def test_few_ranks_have_a_row_each() -> None:
    ends = [
        exit_of(0, peak_memory=3 * GIB, user=61.0, system=2.0, voluntary_switches=1200, involuntary_switches=34),
        exit_of(1, peak_memory=5 * GIB, user=60.0, system=1.0, children_cpu=75.0, major_faults=2, core_wait=0.4),
        RankExit(2, 0, 5.0, 0),
    ]
    assert usage_in_words(ends).splitlines() == [
        "RANK  PEAK RSS  CPU TIME  SYSTEM TIME  CHILDREN CPU  CPU WAIT  MAJOR FAULTS  CONTEXT SWITCHES",
        "0     3.0 GiB   1m 3s     2.0s         0.00s                   0             1,234",
        "1     5.0 GiB   1m 1s     1.0s         1m 15s        0.40s     2             0",
    ]


def test_many_ranks_are_folded() -> None:
    """Into least, median and most: the one that has most is named, of equal ones the first."""
    ends = [exit_of(rank, peak_memory=GIB + rank, user=2.0) for rank in range(511)]
    ends.append(exit_of(511, peak_memory=4 * GIB, user=1.0, read=3 << 20))
    random.Random(3).shuffle(ends)
    assert usage_in_words(ends).splitlines() == [
        "512 RANKS         MIN      MEDIAN   MAX      RANK OF MAX",
        "peak RSS          1.0 GiB  1.0 GiB  4.0 GiB  511",
        "CPU time          1.0s     2.0s     2.0s     0",
        "system time       0.00s    0.00s    0.00s    0",
        "read              0 bytes  0 bytes  3.0 MiB  511",
        "context switches  0        0        0        0",
    ]


def test_an_older_run_has_none() -> None:
    assert "" == usage_in_words([RankExit(0, 0, 5.0, 0)]) == usage_in_words([])
