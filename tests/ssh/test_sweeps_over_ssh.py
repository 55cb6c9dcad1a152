"""Sweeps on hosts: each point is a run there, started by one process on the head."""

from __future__ import annotations

import json

from lab_cluster import LabCluster
from waiting import until


def states(there: LabCluster) -> list[str]:
    return [point["state"] for point in json.loads(there.muster("show", "lrs", "--json").stdout)["points"]]


def test_points_run_on_hosts_and_are_ended_together(there: LabCluster) -> None:
    """Two at a time, detached; the third one never starts."""
    text = 'echo "point {index} on $(hostname)"; while test ! -e go; do sleep 0.1; done'
    line = ["run", "-d", "--hosts", "n1,n2", "-g", "1", "--launcher", "exec", "--name", "lrs", "--max-parallel", "2"]
    assert 0 == there.muster(*line, "--array", "0-3", "--", "sh", "-c", text).returncode
    until(lambda: states(there) == ["running", "running", "pending", "pending"], "two points run")
    until(lambda: "point 1 on n2" in there.muster("logs", "lrs.1", "--rank", "1").stdout, "a rank has written")
    assert 0 == there.muster("kill", "lrs").returncode
    assert ["killed", "killed", "not started", "not started"] == states(there)
    there.nothing_left()
    (there.folder / "go").touch()
    done = there.muster("run", "--resubmit", "failed", "lrs", "--max-parallel", "2")
    assert 2 == done.returncode and "--resubmit" in done.stderr, "options stand before the sweep"
    done = there.muster("run", "--resubmit", "failed", "--max-parallel", "2", "lrs")
    assert 0 == done.returncode, done.stderr
    assert ["succeeded"] * 4 == states(there)
    assert "point 3 on n1" in there.muster("logs", "lrs.3").stdout
    there.nothing_left()
