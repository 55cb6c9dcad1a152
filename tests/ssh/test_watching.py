"""`muster top` and `muster logs --fold` for a run on several hosts, over ssh."""

from __future__ import annotations

import time
from pathlib import Path

from lab_cluster import LabCluster, Logins, on_terminal
from waiting import until

HOLD = """
import os, time
rank = int(os.environ["RANK"])
print(f"rank {rank} is up", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
raise SystemExit(5 if rank == 3 else 0)
"""


def test_a_run_on_hosts_is_watched_over_one_connection(there: LabCluster) -> None:
    """The state of ranks on all hosts, their last lines, and the end; a host that does not answer is named."""
    logins = Logins(there.folder)
    script = there.script(HOLD)
    words = ["run", "-d", "--name", "far", "-H", "n1,n2", "-g", "2", "--ssh", logins.ssh, script]
    done = there.muster(*words)
    assert 0 == done.returncode, done.stderr
    until(lambda: len(list(there.run.glob("attempt_0/rank_*.out"))) == 4, "the ranks are started")
    until(lambda: all(there.log(rank) for rank in range(4)), "all ranks are up")
    before = logins.count()
    with on_terminal(there, "top", "far") as terminal:
        terminal.shows("4 ranks on 2 hosts", "(far)", "n1", "n2")
        terminal.press("\x1bOB")  # the down arrow: another host
        terminal.shows("rank 2 is up")
        began = time.monotonic()
        there.lab.fault("freeze", "n2")
        try:
            terminal.shows("no answer from n2")
            terminal.shows("4 ranks on 2 hosts", "n1")
        finally:
            there.lab.clear("freeze", "n2")
        until(lambda: "no answer from n2" not in terminal.shows("4 ranks on 2 hosts"), "n2 answers again")
        assert time.monotonic() - began > 1
        assert logins.count() == before + 1
        terminal.press("s")
        terminal.shows("most recent call first", "ranks 0-3 on n[1-2]")
        terminal.press("\x1b")
        (Path(there.folder) / "go").touch()
        status, shown = terminal.end()
    assert 5 == status and "rank 3 on n2 failed first" in shown


def test_top_goes_on_when_the_connection_breaks(there: LabCluster) -> None:
    done = there.muster("run", "-d", "-H", "n1,n2", "-g", "1", there.script(HOLD))
    assert 0 == done.returncode, done.stderr
    with on_terminal(there, "top") as terminal:
        terminal.shows("2 ranks on 2 hosts")
        there.lab.fault("drop-ssh", "n1")
        try:
            terminal.shows("trying again")
        finally:
            there.lab.clear("drop-ssh", "n1")
        until(lambda: "trying again" not in terminal.shows("2 ranks on 2 hosts"), "it is connected again")
        terminal.press("q")
        terminal.end()
    assert 0 == there.muster("kill", "last").returncode


def test_fold_names_the_hosts(there: LabCluster) -> None:
    text = "import os, socket\nprint('hello from', socket.gethostname())\nprint('as', os.environ['RANK'])\n1 / 0"
    assert 1 == there.muster("run", "-q", "-H", "n1,n2", "-g", "2", there.script(text)).returncode
    shown = there.muster("logs", "last", "--fold", "--stdout").stdout
    assert "ranks 0-3 on n[1-2]:\n  hello from n1…\n  as 0…\n" == shown
    done = there.muster("logs", "last", "--fold", "--stderr")
    assert "ranks 0-3 on n[1-2]:" in done.stdout and 1 == done.stdout.count("ZeroDivisionError"), done.stdout
