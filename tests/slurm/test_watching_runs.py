"""`muster top`, `report` and `diff` for runs on several nodes, from another terminal: over ssh and on Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_cluster import LabCluster, on_terminal
from waiting import until

PLACES = [pytest.param(("-H", "n1,n2"), id="ssh"), pytest.param(("--slurm", "-N", "2"), id="Slurm")]

BEHIND = """
import os, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
dist.all_reduce(torch.ones(1))
print(f"rank {rank} is up", flush=True)
while rank == 1 and not os.path.exists("go"):
    time.sleep(0.05)
dist.all_reduce(torch.ones(1))
dist.destroy_process_group()
"""

TRAIN = """
import os, sys
if float(sys.argv[1]) > 0.5 and os.environ["RANK"] == "1":
    raise ValueError("loss is NaN")
"""


@pytest.mark.parametrize("place", PLACES)
def test_top_and_its_keys_from_another_terminal(there: LabCluster, place: tuple[str, ...]) -> None:
    done = there.muster("run", "-d", "--name", "far", *place, "-g", "1", there.script(BEHIND, "behind.py"))
    assert 0 == done.returncode, done.stderr
    until(lambda: len(list(there.run.glob("attempt_0/rank_*.out"))) == 2, "the ranks are started")
    until(lambda: all(there.log(rank) for rank in range(2)), "all ranks are up")
    with on_terminal(there, "top", "far") as terminal:
        terminal.shows("rank 0 is up", "(far)", "2 ranks on 2 hosts")
        terminal.shows("behind by 1 collective")
        terminal.press("n")  # that rank
        terminal.shows("last lines of rank 1 on n2")
        terminal.press("s")
        terminal.shows("behind.py")
        terminal.press("q")
        terminal.shows("last lines of rank 1")
        terminal.press("w")
        terminal.shows("rank 1 on n2 has not entered all_reduce")
        terminal.press("q")
        terminal.press("l")
        terminal.shows("--rank 1")
        terminal.press("q")
        terminal.press("?")
        terminal.shows("select another rank")
        terminal.press("qk")
        terminal.shows("y/N")
        terminal.press("n")
        terminal.shows("q quit")
        (Path(there.folder) / "go").touch()
        status, shown = terminal.end()
    assert 0 == status and "all 2 ranks succeeded" in shown, shown


@pytest.mark.parametrize("place", PLACES)
def test_a_failed_run_tells_what_changed_and_has_a_report(there: LabCluster, place: tuple[str, ...]) -> None:
    line = ("run", *place, "-g", "1", there.script(TRAIN, "train.py"))
    done = there.muster(*line, "0.1")
    assert 0 == done.returncode, done.stderr
    good = there.run.name
    done = there.muster(*line, "0.9", env={"NEW_OPTION": "1"})
    bad = there.run.name
    assert 1 == done.returncode and good != bad, done.stderr
    assert "ValueError: loss is NaN" in done.stderr
    assert f"since the last successful run of this script ({good}, " in done.stderr, done.stderr
    until((there.run / "report.html").exists, "the report is written")
    shown = there.muster("diff", "last")
    assert 0 == shown.returncode, shown.stderr
    assert f"- {good}" in shown.stdout and f"+ {bad}" in shown.stdout and "0.9" in shown.stdout, shown.stdout
    assert shown.stdout == there.muster("diff", good, bad).stdout
    done = there.muster("report", bad, "--output", "page.html")
    assert 0 == done.returncode, done.stderr
    page = (there.folder / "page.html").read_text()
    assert "loss is NaN" in page and good in page and "n2" in page
    assert "Since the last successful run of this script" in page
