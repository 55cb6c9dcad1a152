"""Why a scheduler ends the job: its answer may take a while, and ranks save a checkpoint if they are told in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from test_detached_controller import Controller, controller
from waiting import until

from muster.controller.job_end import JobEnd
from muster.controller.job_time import BatchJob
from muster.schedulers import get_scheduler
from muster.schedulers.scheduler import JobRecord, JobTerms

__all__ = ["controller"]


class Busy:
    """A scheduler whose answer about the job comes when the test says so."""

    scheduler, title = get_scheduler("slurm"), "Slurm"

    def __init__(self) -> None:
        self.free = threading.Event()

    def kill_wait(self) -> float:
        return 30.0

    def record(self, job: str) -> JobRecord:
        self.free.wait(120)
        return JobRecord("PREEMPTED", "", None, None, True)


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.free.set()


def ended(controller: Controller, busy: Any) -> BatchJob:
    """Have the scheduler announce the end of the job of a run."""
    controller.running()
    batch = BatchJob(busy, "7", JobTerms(before=60.0), False, [])
    controller.served.job_end = JobEnd(controller.served, batch)
    controller.served.job_end.terminated()
    return batch


def test_the_answer_of_a_busy_scheduler_is_awaited(controller: Controller, busy: Busy) -> None:
    batch = ended(controller, busy)
    controller.loop.advance(8.0)
    assert [] == controller.events("jobends")
    busy.free.set()
    until(lambda: batch.answered, "it answers")
    controller.loop.advance(1.0)
    controller.says("Slurm terminates this job")
    controller.hears((0, "warn_preemption", {"cause": "preempted"}))


def test_without_an_answer_the_job_counts_as_cancelled(controller: Controller, busy: Busy) -> None:
    ended(controller, busy)
    controller.loop.advance(11.0)
    (event,) = controller.events("jobends")
    assert "cancelled" == event["cause"] and 15 < event["within"] < 20
