"""A run in containers of podman in a Slurm job: ranks on two nodes find each other, and nothing is left."""

from __future__ import annotations

import shutil
import sys

import pytest
from lab_cluster import LabCluster
from podman_image import configured_for_hosts, image, places
from waiting import until

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")

SCRIPT = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(dist.get_rank(), os.environ["SLURMD_NODENAME"], total.item(), os.path.exists("/etc/passwd"), flush=True)
dist.destroy_process_group()
"""


def test_ranks_of_two_nodes(there: LabCluster) -> None:
    there.env.update(configured_for_hosts(there.folder))
    with image(there.folder) as name:
        line = ["--container", name, "--container-runtime", "podman", "--python", sys.executable]
        line += [word for place in places() for word in ("--mount", f"{place}:{place}:ro")]
        done = there.muster("run", "--slurm", "-N", "2", "-g", "1", "--prefix", "", *line, there.script(SCRIPT))
        assert 0 == done.returncode, done.stderr
        assert ["0 n1 2.0 False", "1 n2 2.0 False"] == sorted(done.stdout.splitlines())
        argv = ["podman", "ps", "--quiet", "--filter", f"ancestor={name}"]

        def running() -> str:
            env = {**there.lab.environment(), **there.env}
            return str(there.lab.run("n1", argv, env=env).stdout)

        until(lambda: not running(), "no container is left")
