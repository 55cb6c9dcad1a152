"""Runs that outlive the terminal: `-d`, here and on hosts; attaching, several at once; deaths."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable

import pytest
from canaries import Canaries
from conversation import kinds, traced, unknown
from lab_cluster import TICK, LabCluster, Logins, in_step
from waiting import until

from muster.core.layout import unfold

TALKS = "number=0; until [ -e go ]; do number=$((number + 1)); echo line $number; sleep 0.05; done"
"""Numbered lines, until there is a file `go`."""

ON = {"here": ("-g", "2"), "hosts": ("-H", "n1,n2", "-g", "1")}
"""Two ranks: on the head itself, or on two hosts."""

SUPERVISOR = {"here": "head", "hosts": "n1"}


@pytest.mark.parametrize("where", ON)
def test_a_detached_run_continues_and_is_reported(there: LabCluster, where: str, canaries: Canaries) -> None:
    there.env["MUSTER_TRACE"] = "1"
    done = there.muster("run", "-d", *ON[where], there.script(TICK), "300", "0.05")
    assert 0 == done.returncode, done.stderr
    assert there.run.name == done.stdout.strip(), "its id, for scripts"
    there.steps(2, 5)
    assert "running" in there.muster("ps").stdout
    shown = json.loads(there.muster("show", "last", "--json").stdout)
    assert ("running", [0, 1], []) == (
        shown["state"],
        [rank["rank"] for rank in shown["now"]["ranks"]],
        shown["now"]["silent"],
    )
    assert all(rank["memory"] > 1 << 20 for rank in shown["now"]["ranks"])
    assert {"executable", "python", "torch", "fork"} == set(shown["python"])
    stacks = there.muster("stacks", "last").stdout
    heads = re.findall(r"^ranks? ([0-9,-]+)\b.*:$", stacks, re.M)
    assert [0, 1] == sorted(rank for head in heads for rank in unfold(head)), stacks
    assert "script.py" in stacks
    assert 124 == there.muster("wait", "last", "--timeout", "0.1").returncode
    followed = there.muster("logs", "-f", "last")
    for rank in range(2):
        assert 300 == followed.stdout.count(f"rank {rank} step"), followed.stdout
    in_step(there, hosts=where == "hosts")
    assert 0 == there.muster("wait", "last").returncode
    assert "succeeded" in there.muster("ps").stdout
    said = traced(there.run)
    assert [] == unknown(said)
    assert {
        ("client > controller", "inspect"),
        ("controller > agent", "get_usage"),
        ("agent > controller", "rank_usage"),
    } <= kinds(said)
    there.nothing_left()


@pytest.mark.parametrize("where", ON)
def test_several_attach_and_leave_and_no_line_is_lost_or_doubled(there: LabCluster, where: str) -> None:
    assert 0 == there.muster("run", "-d", *ON[where], "--", "sh", "-c", TALKS).returncode
    there.steps(2, 5)
    one = there.start("attach", "last", "--all")
    leaver = there.start("attach", "last")
    # from another machine too, where only the run directory is known
    other = there.start("attach", "last", "--all", host="n3")
    until(lambda: all("] line" in there.said(which) for which in range(3)), "they show lines")
    for pid in there.pids("head", "muster attach last$"):
        os.kill(pid, signal.SIGTERM)
    assert 0 == leaver.wait(timeout=120), there.said(1)
    assert "keeps running" in there.said(1)
    assert "muster kill" in there.said(1)
    (there.folder / "go").touch()
    assert [0, 0] == [process.wait(timeout=120) for process in (one, other)]
    for which in (0, 2):
        for rank in range(2):
            lines = [line for line in there.said(which).splitlines() if line.startswith(f"[{rank}] ")]
            assert lines == [f"[{rank}] {line}" for line in there.log(rank).splitlines()]
    there.nothing_left()


@pytest.mark.parametrize("where", ON)
def test_the_death_of_its_controller_does_not_end_it(there: LabCluster, where: str) -> None:
    assert 0 == there.muster("run", "-d", *ON[where], there.script(TICK), "120", "0.05").returncode
    there.steps(2, 5)
    for _ in range(2):
        before = there.pids(SUPERVISOR[where], "muster.pyz serve")
        there.kill(SUPERVISOR[where], "muster.pyz serve")
        until(lambda before=before: set(there.pids(SUPERVISOR[where], "muster.pyz serve")) - set(before), "it is back")
    assert 0 == there.muster("wait", "last").returncode
    assert [120, 120] == [there.log(rank).count("\n") for rank in range(2)]
    there.nothing_left()


@pytest.mark.parametrize("where", ON)
def test_kill_checks_that_all_have_exited(there: LabCluster, where: str) -> None:
    assert 0 == there.muster("run", "-d", *ON[where], there.script(TICK), "10000", "0.05").returncode
    there.steps(2, 5)
    done = there.muster("kill", "last")
    assert 0 == done.returncode, done.stderr
    assert "terminated" in done.stdout
    assert "killed" == there.outcome()["state"]
    assert 137 == there.muster("wait", "last").returncode
    there.nothing_left()


def test_a_machine_that_knows_nothing_of_it_attaches_by_the_host(
    there: LabCluster, bashrc: Callable[[str, str], None]
) -> None:
    """It sees no run directory; afterwards its own one has the run. n1 finds the run in its login's home."""
    assert 0 == there.muster("run", "-d", "-H", "n1,n2", "-g", "1", there.script(TICK), "100", "0.05").returncode
    there.steps(2, 5)
    bashrc("n1", f"export MUSTER_HOME='{there.home}'")
    stranger = {"MUSTER_HOME": str(there.folder / "elsewhere")}
    seen = there.muster("attach", "n1:last", "--all", host="n3", env=stranger)
    assert 0 == seen.returncode, seen.stderr
    for rank in range(2):
        assert 100 == seen.stdout.count(f"[{rank}] rank {rank} step")
    assert 0 == there.muster("wait", "last", host="n3", env=stranger).returncode
    unknown = there.muster("attach", "n1:no-such-run", host="n3", env=stranger)
    assert 2 == unknown.returncode
    assert "run not found on n1: `no-such-run`" in unknown.stderr
    nowhere = there.muster("attach", "nosuchhost:last", host="n3", env=stranger)
    assert 3 == nowhere.returncode
    assert "no answer from nosuchhost: ssh: Could not resolve hostname" in nowhere.stderr
    there.nothing_left()


def test_the_head_may_crash(there: LabCluster) -> None:
    """It crashes; the ranks continue, and a later client gets everything."""
    assert 0 == there.muster("run", "-d", "-H", "n1,n2", "-g", "1", there.script(TICK), "150", "0.1").returncode
    there.steps(2, 3)
    there.lab.fault("drop-ssh", "head")
    there.lab.fault("partition", "head")
    there.steps(2, 60)
    there.lab.clear()
    assert 0 == there.muster("wait", "last").returncode
    assert [150, 150] == [there.log(rank).count("\n") for rank in range(2)]
    there.nothing_left()


def test_a_run_on_a_host_that_does_not_answer_is_unknown(there: LabCluster) -> None:
    assert 0 == there.muster("run", "-d", "-H", "n1", "-g", "1", there.script(TICK), "10000", "0.05").returncode
    there.steps(1, 3)
    there.lab.fault("partition", "n1")
    listed = there.muster("ps", timeout=240).stdout
    assert "unknown" in listed and "no answer: no answer from its controller on n1" in listed
    for command in ("kill last", "kill --all", "stacks last", "rm last"):
        there.start(*command.split())
    for number, process in enumerate(there.started):
        assert 3 == process.wait(timeout=120), there.said(number)
        said = there.said(number)
        assert re.search(r"(the state of \S+ is unknown|unknown state): no answer from its controller on n1", said), (
            said
        )
    there.lab.clear()
    assert "running" in there.muster("ps").stdout
    assert 0 == there.muster("kill", "last").returncode
    there.nothing_left()


def test_waiting_for_a_run_asks_a_silent_host_again(there: LabCluster) -> None:
    assert 0 == there.muster("run", "-d", "-H", "n1", "-g", "1", there.script(TICK), "10000", "0.05").returncode
    there.steps(1, 3)
    there.lab.fault("drop-ssh", "n1")
    waits = there.start("wait", "last")
    until(lambda: "no answer" in there.said() and "retrying" in there.said(), "it waits for the host, too")
    there.lab.clear()
    assert 0 == there.muster("kill", "last").returncode
    assert 137 == waits.wait(timeout=120), there.said()
    there.nothing_left()


def test_following_a_run_logs_in_once_and_again_after_a_broken_connection(there: LabCluster) -> None:
    """A killed controller ends all connections to it; another one starts."""
    logins = Logins(there.folder)
    words = ("run", "-d", "-H", "n1,n2", "-g", "1", "--ssh", logins.ssh, "--", "sh", "-c", TALKS)
    assert 0 == there.muster(*words).returncode
    there.steps(2, 3)
    for line in ("stacks last", "show last", "wait last --timeout 0.1", "ps"):
        before = logins.count()
        there.muster(*line.split())
        assert 1 == logins.count() - before, line
    before = logins.count()
    there.env["MUSTER_TRACE"] = "1"
    logs, waits = there.start("logs", "-f", "last"), there.start("wait", "last")

    def subscribed() -> int:
        return traced(there.run).count(": attach want=")

    until(lambda: 2 == subscribed(), "each is told of the end")
    lines = there.log(1).count("\n")
    until(lambda: f"[1] line {lines + 20}\n" in there.said(0), "it shows lines as they come")
    assert 2 == logins.count() - before
    killed = time.monotonic()
    there.kill("n1", "muster.pyz serve")
    until(lambda: 4 == subscribed(), "they are back")
    away = time.monotonic() - killed
    (there.folder / "go").touch()
    assert [0, 0] == [process.wait(timeout=120) for process in (logs, waits)], there.said(0)
    assert 4 <= logins.count() - before <= 8 + 2 * away, "each tries once a second until there is a controller"
    for rank in range(2):
        shown = [line for line in there.said(0).splitlines(keepends=True) if line.startswith(f"[{rank}] ")]
        assert [f"[{rank}] {line}" for line in there.log(rank).splitlines(keepends=True)] == shown
    assert "succeeded" in there.said(1)
    there.nothing_left()


FAILS_TWICE = """
import os, time
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
print(count)
open(f"here {os.environ['RANK']} {count}", "w").close()
while not all(os.path.exists(f"here {rank} {count}") for rank in (0, 1)):  # the first to fail ends both
    time.sleep(0.02)
assert count == "2"
"""


def test_a_detached_run_restarts_by_itself(there: LabCluster) -> None:
    restarts = ("--max-restarts", "3", "--always-restart", "--restart-delay", "0.2")
    done = there.muster("run", "-d", "-H", "n1,n2", "-g", "1", *restarts, there.script(FAILS_TWICE))
    assert 0 == done.returncode, done.stderr
    assert 0 == there.muster("wait", "last").returncode
    assert ["0\n", "1\n", "2\n"] == [there.log(1, attempt=attempt) for attempt in range(3)]
    there.nothing_left()


def test_an_agent_that_died_together_with_the_controller_is_missed_by_the_next_one(there: LabCluster) -> None:
    done = there.muster("run", "-d", "-H", "n1,n2", "-g", "1", "--lease", "5s", there.script(TICK), "10000", "0.05")
    assert 0 == done.returncode, done.stderr
    there.steps(2, 3)
    there.kill("n1", "muster.pyz serve", signal.SIGSTOP)  # so that it does not see the end of the agent
    os.kill(there.agent("n2"), signal.SIGKILL)
    there.kill("n1", "muster.pyz serve")
    assert "n2" in there.ended()["reason"]
    there.nothing_left()
