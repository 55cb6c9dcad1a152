"""What the last run of a script imported is imported once on each host, on several hosts and on a session, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_cluster import LabCluster

NOTED = """
import os, socket
with open(os.environ["IMPORTED"], "a") as file:
    print(socket.gethostname(), os.readlink("/proc/self"), file=file)
"""

TRAIN = """
import noted
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
"""


@pytest.fixture
def imported(there: LabCluster) -> Path:
    """The file in which an installed package notes each process that imports it."""
    package = there.folder / "lib" / "site-packages" / "noted"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NOTED)
    return there.folder / "imported"


def test_each_host_imports_once(there: LabCluster, imported: Path) -> None:
    script = there.script(TRAIN)
    env = [f"--env=PYTHONPATH={there.folder}/lib/site-packages", f"--env=IMPORTED={imported}"]

    def hosts(*where: str) -> list[str]:
        imported.unlink(missing_ok=True)
        done = there.muster("run", *where, *env, script)
        assert 0 == done.returncode, done.stderr
        return sorted(line.split()[0] for line in set(imported.read_text().splitlines()))

    over_ssh = ("-H", "n1,n2", "-g", "2")
    assert ["n1", "n1", "n2", "n2"] == hosts(*over_ssh), "there is no last run"
    assert ["n1", "n2"] == hosts(*over_ssh)
    assert "preload  noted, torch, torch.distributed (imported by the last run" in there.muster("show", "last").stdout
    held = there.muster("hold", *over_ssh, "--name", "dev")
    assert 0 == held.returncode, held.stderr
    assert ["n1", "n2"] == hosts("--on", "dev")
    released = there.muster("release", "dev")
    assert 0 == released.returncode, released.stderr
