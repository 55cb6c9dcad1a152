"""What ranks on several hosts are doing is put together, and a hang across hosts is recognized."""

from __future__ import annotations

from lab_cluster import LabCluster

from muster.core.inspection import SnapshotReason
from muster.rundir.run import Run
from muster.rundir.snapshots import snapshots

HANGS = """
import time, torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
if dist.get_rank() == 1:
    print("ready", flush=True)
    time.sleep(1000)
dist.all_reduce(torch.zeros(8))
"""


def test_a_hang_across_hosts(there: LabCluster) -> None:
    words = ("--hang-timeout", "4", "--on-hang", "kill", "-H", "n1,n2", "-g", "1")
    done = there.muster("run", *words, there.script(HANGS))
    assert 124 == done.returncode, done.stderr
    assert "rank 1 on n2 has not entered all_reduce" in done.stderr
    found, _ = snapshots(Run(there.run), 0)  # the other one is of the end
    assert (SnapshotReason.HANG, ()) == (found.reason, found.silent)
    assert [(0, 0), (1, 1)] == [(one.rank, one.node) for one in found.inspections]
    assert [False, True] == [one.collectives[-1].done for one in found.inspections]
    assert 2 == len(found.clock_offsets) and 0.0 == found.clock_offsets[0] and abs(found.clock_offsets[1]) < 0.5
    there.nothing_left()
