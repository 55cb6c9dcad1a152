"""The whole list of what another user of a host can try against a run, while it goes on: `attempts.py`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import TICK, LabCluster

import muster
from muster.lab.spec import SECOND_USER

ATTEMPTS = Path(__file__).with_name("attempts.py").read_text()

LISTS = {
    *("read_files", "write_files", "temporary_files", "signals", "memory", "limits", "local_sockets"),
    *("ports_of_the_run", "commands"),
}


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that other users may enter, so that it is not that which protects a run."""
    folder = Path(tempfile.mkdtemp(prefix="open-", dir="/var/lib"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_nothing_is_gained_and_the_run_goes_on(there: LabCluster, open_place: Path) -> None:
    there.home = open_place / "home"
    there.env["MUSTER_HOME"] = str(there.home)
    (open_place / "program").mkdir()
    shutil.copytree(Path(muster.__file__).parent, open_place / "program" / "muster")
    words = ("-H", "n1,n2", "-g", "1", "--rendezvous", "authenticated")
    assert 0 == there.muster("run", "-d", *words, there.script(TICK), "200", "0.05").returncode
    there.steps(2, 3)
    find = "ss -Hltnp | grep \"pid=$(pgrep -o -f '[m]uster.pyz serve'),\" | grep -o ':[0-9]* '"
    port = there.lab.run("n1", ["sh", "-c", find], cwd="/", check=True).stdout.strip(": \n")
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    where = (there.run.name, str(there.home), port, python, "-m", "muster")
    env = {"PYTHONPATH": str(open_place / "program")}

    def tried(user: str, lists: str) -> dict[str, Any]:
        line = [python, "-c", ATTEMPTS, lists, *where]
        done = there.lab.run("n1", line, env=env, cwd="/", user=user, timeout=240)
        assert 0 == done.returncode, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    assert len(tried("root", "read_files")["gained"]) > 5, "there is something to gain"
    told = tried(SECOND_USER, "all")
    assert LISTS == set(told["attempts"]), told["attempts"]
    assert [] == told["gained"]
    assert 0 == there.muster("wait", "last").returncode
    assert [200, 200] == [there.log(rank).count("\n") for rank in range(2)]
    assert not os.path.exists("/tmp/harm")
    there.nothing_left()
