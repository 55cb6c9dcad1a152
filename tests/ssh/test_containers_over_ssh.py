"""A run in containers of podman over ssh: ranks on two hosts find each other, and nothing is left."""

from __future__ import annotations

import shutil
import sys

import pytest
from lab_cluster import LabCluster
from podman_image import configured_for_hosts, image, places
from waiting import until

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")

SCRIPT = """
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(dist.get_rank(), socket.gethostname(), total.item(), os.path.exists("/etc/passwd"), flush=True)
dist.destroy_process_group()
"""


def test_ranks_of_two_hosts(there: LabCluster) -> None:
    podman = configured_for_hosts(there.folder)
    with image(there.folder) as name:
        line = ["--container", name, "--container-runtime", "podman", "--python", sys.executable]
        line += [word for place in places() for word in ("--mount", f"{place}:{place}:ro")]
        line += ["--setup", "export " + " ".join(f"{name}={value}" for name, value in podman.items())]
        done = there.muster("run", "-H", "n1,n2", "-g", "1", "--prefix", "", *line, there.script(SCRIPT))
        assert 0 == done.returncode, done.stderr
        assert ["0 n1 2.0 False", "1 n2 2.0 False"] == sorted(done.stdout.splitlines())
        argv = ["podman", "ps", "--quiet", "--filter", f"ancestor={name}"]
        env = {**there.lab.environment(), **podman}
        for host in ("n1", "n2"):
            until(lambda host=host: not there.lab.run(host, argv, env=env).stdout, "no container is left")
