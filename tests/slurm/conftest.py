"""Fixtures of the tests on Slurm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_queue import queue
from lab_cluster import LabCluster, there
from waiting import until

from muster.lab.spec import SETTLING

__all__ = ["there"]


@pytest.fixture(autouse=True)
def quiet(there: LabCluster) -> Iterator[None]:
    """No job of this test is left in the queue."""
    yield
    there.lab.clear()
    there.lab.run("head", ["scancel", "--user=root"])
    # slurmctld that was away asks again only now and then whether a job has ended on its nodes
    until(lambda: not queue(there), "the queue is empty", SETTLING)
