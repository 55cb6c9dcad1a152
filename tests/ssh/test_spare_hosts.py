"""Spare hosts over ssh: at the start, and in the place of a host that is lost."""

from __future__ import annotations

import os
import signal

import pytest
from lab_cluster import TICK, WHERE, LabCluster, where
from waiting import until

FOUR = ("--spare-nodes", "1", "-g", "2", "--lease", "3s", "--grace", "1")


def test_without_a_failure_a_spare_host_does_nothing(there: LabCluster) -> None:
    done = there.muster("run", "-H", "n1,n2,n3", *FOUR, there.script(WHERE))
    assert 0 == done.returncode, done.stderr
    assert ["n1 0 0 0 4 2 2 0", "n1 1 1 0 4 2 2 0", "n2 2 0 1 4 2 2 0", "n2 3 1 1 4 2 2 0"] == where(there, 4)
    there.nothing_left()


def test_a_host_that_is_down_is_left_out(there: LabCluster) -> None:
    """The first one, so that the controller is on the spare."""
    there.lab.fault("drop-ssh", "n1")
    done = there.muster("run", "-H", "n1,n2,n3", *FOUR, there.script(WHERE))
    assert 0 == done.returncode, done.stderr
    assert ["n3 0 0 0 4 2 2 0", "n3 1 1 0 4 2 2 0", "n2 2 0 1 4 2 2 0", "n2 3 1 1 4 2 2 0"] == where(there, 4)
    assert "warning: n1 left out: " in done.stderr
    assert "; n3 takes its place" in done.stderr
    assert "n3 replaced n1 at the start: " in done.stderr
    there.nothing_left()


def test_a_host_that_fails_its_check_is_left_out(there: LabCluster) -> None:
    """The working directory exists only on some hosts."""
    with there.folder_on("head", "n1", "n3") as folder:
        done = there.muster("run", "-H", "n1,n2,n3", *FOUR, "--cwd", folder, there.script(WHERE))
    assert 0 == done.returncode, done.stderr
    assert "warning: n2 left out: the working directory does not exist there; n3 takes its place" in done.stderr
    assert ["n1", "n3"] == [line.split()[0] for line in where(there, 4)[::2]]
    there.nothing_left()


def test_without_enough_hosts_the_error_names_all(there: LabCluster) -> None:
    for host in ("n2", "n3"):
        there.lab.fault("drop-ssh", host)
    done = there.muster("run", "-H", "n1,n2,n3", *FOUR, there.script(WHERE))
    assert 0 != done.returncode
    assert "cannot use all hosts: n[2-3]: " in done.stderr, done.stderr
    there.nothing_left()


@pytest.mark.slow
def test_a_spare_host_takes_the_place_of_one_that_crashes(there: LabCluster) -> None:
    process = there.start("run", "-H", "n1,n2,n3", *FOUR, "--prefix", "{host} {rank}: ", there.script(WHERE), "on")
    until(lambda: "n2 3: n2" in there.said(), "the ranks run")
    there.lab.fault("crash", "n2")
    assert 0 == process.wait(timeout=120), there.said()
    said = there.said()
    assert "n3 takes the place of n2; restarting all ranks" in said
    assert "n3 replaced n2 for attempt 1: lost n2: " in said
    assert "n3 3: n3 3 1 1 4 2 2 1\n" in said
    assert ["n1 0 0 0 4 2 2 1", "n1 1 1 0 4 2 2 1", "n3 2 0 1 4 2 2 1", "n3 3 1 1 4 2 2 1"] == where(there, 4, 1)
    shown = there.muster("show", "last").stdout
    assert "on n[1,3]" in shown
    assert "n3 replaced n2 for attempt 1" in shown
    there.nothing_left()


@pytest.mark.slow
def test_a_partition_and_a_controller_that_is_killed(there: LabCluster) -> None:
    """Detached; the controller is killed after the replacement, and the next one knows of it."""
    done = there.muster("run", "-d", "-H", "n1,n2,n3", *FOUR, there.script(TICK), "100", "0.1")
    assert 0 == done.returncode, done.stderr
    there.steps(4, 3)
    there.lab.fault("partition", "n2")
    until(lambda: len(list(there.run.glob("attempt_1/rank_*.out"))) == 4, "the second attempt")
    there.kill("n1", "muster.pyz serve")
    outcome = there.ended()
    assert (0, 1) == (outcome["code"], outcome["attempt"]), outcome["reason"]
    assert [(1, "n2", "n3", 1)] == [
        (one["node"], one["host"], one["by"], one["attempt"]) for one in outcome["replaced"]
    ]
    assert 100 == there.log(3, attempt=1).count("\n")
    until(lambda: not there.ours(["n2"]), "the host that was cut off ended its own ranks")
    there.lab.clear()
    there.nothing_left()


@pytest.mark.slow
def test_when_node_0_is_lost_the_run_ends(there: LabCluster) -> None:
    """Its controller is there; as without spares."""
    process = there.start("run", "-H", "n1,n2,n3", *FOUR, there.script(WHERE), "on")
    until(lambda: "n2 3 1" in there.said(), "the ranks run")
    os.kill(there.agent("n1"), signal.SIGKILL)
    assert 125 == process.wait(timeout=120), there.said()
    assert "lost n1: muster's agent on it exited" in there.said()
    there.nothing_left()
