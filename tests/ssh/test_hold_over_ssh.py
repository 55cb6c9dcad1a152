"""Sessions on hosts: `muster hold -H`, runs on it, a script that differs, a host that dies."""

from __future__ import annotations

import json

from lab_cluster import LabCluster
from waiting import until

TRAIN = """
import os, socket
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(socket.gethostname(), total.item(), os.environ.get("TOLD"), os.environ.get("SECRET_TOKEN"), flush=True)
"""


def test_runs_on_hosts_that_are_held(there: LabCluster) -> None:
    held = there.muster("hold", "-H", "n1,n2", "-g", "2", "--name", "far")
    assert 0 == held.returncode, held.stderr
    script = there.script(TRAIN)
    try:
        for told in ("first", "second"):
            done = there.muster("run", "--on", "far", "--env", f"TOLD={told}", "--env", "SECRET_TOKEN=sesame", script)
            assert 0 == done.returncode, done.stderr
            assert done.stdout.count(f"n1 4.0 {told} sesame") == done.stdout.count(f"n2 4.0 {told} sesame") == 2
            assert "preloaded interpreter" not in done.stderr
        unset = there.muster("run", "--on", "far", script)
        assert 0 == unset.returncode and "n2 4.0 None None" in unset.stdout, "not what an earlier run had"
        hosts = there.muster("run", "--on", "far", "--", "hostname")
        assert sorted(hosts.stdout.split()[1::2]) == ["n1", "n1", "n2", "n2"]
        written = b"".join(path.read_bytes() for path in there.run.parent.rglob("*.json*"))
        assert b"sesame" not in written
    finally:
        released = there.muster("release", "far", "--force")
    assert 0 == released.returncode, released.stderr
    listed = json.loads(there.muster("ps", "--json").stdout)
    assert {run["state"] for run in listed} == {"succeeded"}
    until(lambda: "muster.pyz" not in there.lab.run("n1", ["ps", "-eo", "args"]).stdout, "nothing is left on n1")
