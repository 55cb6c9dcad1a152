"""What `muster show` says of a scheduler's job."""

from __future__ import annotations

import re

from muster.core.job_facts import JobFacts
from muster.core.layout import layout
from muster.core.model import Host
from muster.ui.job_text import job_in_words, ranks_in_words


def test_a_pending_job_says_since_when_and_until_when_it_waits() -> None:
    facts = JobFacts("Slurm", "12", True, submitted=1000.0, start=1600.0, partition="gpu", priority="77")
    first, waits, start = job_in_words(facts, 1065.0)
    assert "job      Slurm job 12, partition gpu, priority 77" == first
    assert re.fullmatch(r"waiting  1m 5s, since 1970-01-0.*", waits)
    assert start.startswith("start    expected in 8m 55s, at 1970-01-0")
    assert [first, waits] == [*job_in_words(facts, 1600.0)[:1], waits], "an expected start in the past says nothing"
    assert 2 == len(job_in_words(facts, 1600.0))


def test_a_running_job_says_where_it_runs_and_how_long() -> None:
    facts = JobFacts("Slurm", "12", False, end=2000.0, priority="77", hosts=("n1", "n2"), attempt=1)
    first, left = job_in_words(facts, 1000.0)
    assert "job      Slurm job 12, on n[1-2], attempt 1" == first
    assert left.startswith("left     16m 40s until its time limit, at 1970-01-0")
    assert ["job      Slurm job 12"] == job_in_words(JobFacts("Slurm", "12", False), 1.0)


def test_the_hosts_of_the_ranks() -> None:
    assert ["hosts    n1: ranks 0-1, n2: rank 2"] == ranks_in_words(layout([(Host("n1"), 2), (Host("n2"), 1)]))
    assert [] == ranks_in_words(layout([(Host("n1"), 2)]))
