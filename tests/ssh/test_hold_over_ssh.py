"""Sessions on hosts: `muster hold -H`, runs on it, a script that differs, a host that dies."""

from __future__ import annotations

import json
import os
import signal

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


WHERE = "import os, socket; print(socket.gethostname(), os.environ['RANK'])"


def _synced(there: LabCluster, word: str) -> set[str]:
    """Write a script into a directory that each host has for itself, run it on the session, and return what it says."""
    top = f"/var/tmp/held {there.folder.name}"
    text = f"import socket; print(socket.gethostname(), {word!r})"
    write = ["sh", "-ec", f"mkdir -p '{top}'; cat > '{top}/main.py'"]
    assert 0 == there.lab.run("head", write, input=text, cwd="/").returncode
    missing = there.muster("run", "--on", "far", "main.py", cwd=top)
    assert 2 == missing.returncode and "main.py" in missing.stderr, missing.stderr
    done = there.muster("run", "--on", "far", "--sync", "-g", "1", "--prefix", "", "main.py", cwd=top)
    assert 0 == done.returncode and "copying 1 file" in done.stderr, done.stderr
    return set(done.stdout.splitlines())


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
        for count, names in ((("-g", "1"), ["n1", "n2"]), (("-N", "1"), ["n1", "n1"]), (("-n", "1"), ["n1"])):
            fewer = there.muster("run", "--on", "far", *count, "--", "hostname")
            assert sorted(fewer.stdout.split()[1::2]) == names, fewer.stderr
        for launcher in ("mpirun", "torchrun"):
            done = there.muster("run", "--on", "far", "--launcher", launcher, there.script(WHERE, "where.py"))
            assert 0 == done.returncode, done.stderr
            assert sorted(done.stdout.splitlines()) == ["[0] n1 0", "[1] n1 1", "[2] n2 2", "[3] n2 3"]
        for word in ("first", "second"):
            assert _synced(there, word) == {f"n1 {word}", f"n2 {word}"}
        written = b"".join(path.read_bytes() for path in there.run.parent.rglob("*.json*"))
        assert b"sesame" not in written
    finally:
        released = there.muster("release", "far", "--force")
    assert 0 == released.returncode, released.stderr
    listed = json.loads(there.muster("ps", "--json").stdout)
    assert {run["state"] for run in listed} == {"succeeded"}
    until(lambda: "muster.pyz" not in there.lab.run("n1", ["ps", "-eo", "args"]).stdout, "nothing is left on n1")


def test_a_host_of_a_session_that_is_lost_is_named(there: LabCluster) -> None:
    held = there.muster("hold", "-H", "n1,n2", "-g", "1", "--name", "far")
    assert 0 == held.returncode, held.stderr
    script = there.script("import time; print('up', flush=True); time.sleep(600)")
    run = there.muster("run", "-d", "--on", "far", script)
    assert 0 == run.returncode, run.stderr
    until(lambda: 2 == there.muster("logs", run.stdout.strip()).stdout.count("up"), "the run has begun")
    os.kill(there.agent("n2"), signal.SIGKILL)
    until(lambda: "held" not in there.muster("ps").stdout, "the session has ended")
    assert "lost n2" in there.muster("show", run.stdout.strip()).stdout
    gone = there.muster("run", "--on", "far", "--", "true")
    assert 2 == gone.returncode and "the session far has ended: lost n2" in gone.stderr, gone.stderr
    until(lambda: not there.ours(), "all processes have ended")
