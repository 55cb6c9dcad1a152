"""Fixtures of the tests on Slurm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_queue import nodes_are_free, queue
from lab_cluster import LabCluster, there
from waiting import until

from muster.lab.spec import SETTLING

__all__ = ["there"]


@pytest.fixture(autouse=True)
def quiet(there: LabCluster) -> Iterator[None]:
    """Begin with all nodes free, which other tests may just have used, and leave no job of this test in the queue."""
    until(lambda: not queue(there) and nodes_are_free(there), "the jobs of other tests have ended", SETTLING)
    yield
    there.lab.clear()
    there.lab.run("head", ["scancel", "--user=root"])
    # a restarted slurmctld checks only occasionally whether a job has ended on its nodes
    until(lambda: not queue(there), "the queue is empty", SETTLING)
