"""Roles on hosts: each has hosts of its own, or shares one, and they reach each other over the network."""

from __future__ import annotations

import json

import pytest
from lab_cluster import LabCluster
from waiting import until

MEETS = """
import json, os, socket, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
roles = json.loads(os.environ["MUSTER_ROLES"])
other = roles["rollout"]
if dist.get_rank() == 0 and os.environ["ROLE_NAME"] == "rollout":
    server = socket.create_server(("", other["port"]))
    server.accept()
elif dist.get_rank() == 0:
    for _ in range(2400):
        try:
            socket.create_connection((other["addresses"][0], other["port"]), 1)
            break
        except OSError:
            time.sleep(0.05)
    else:
        sys.exit("nobody listens")
dist.barrier()
names = ("RANK", "ROLE_NAME", "LOCAL_RANK", "GROUP_RANK", "MINE", "MASTER_ADDR")
found = {name: os.environ.get(name) for name in names}
print(json.dumps({"host": socket.gethostname(), "sum": total.item(), **found}), flush=True)
if sys.argv[1:]:
    time.sleep(1000)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_hosts_are_divided_between_roles(there: LabCluster, launcher: str) -> None:
    """The launcher of one role has its two hosts, and knows nothing of the third."""
    script = there.script(MEETS)
    how = ("--env", "MINE=1", "--launcher", launcher)
    first = ("-H", "n1,n2,n3", "--role", "trainer", "-N", "2", "-g", "1", *how, script)
    done = there.muster("run", *first, ":", "--role", "rollout", "-N", "1", "-g", "2", script)
    assert 0 == done.returncode, done.stderr
    found = [json.loads(there.log(rank)) for rank in range(4)]
    assert ["n1", "n2", "n3", "n3"] == [one["host"] for one in found]
    assert [2, 2, 2, 2] == [one["sum"] for one in found]
    assert ["0", "1", "0", "1"] == [one["RANK"] for one in found]
    assert ["0", "1", "0", "0"] == [one["GROUP_RANK"] for one in found]
    assert ["1", "1", None, None] == [one["MINE"] for one in found]
    assert found[0]["MASTER_ADDR"] == found[1]["MASTER_ADDR"] != found[2]["MASTER_ADDR"]
    assert "rollout:1] {" in done.stdout
    there.nothing_left()


def test_roles_that_share_a_host_and_one_of_which_is_killed(there: LabCluster) -> None:
    """The failure of one role ends the other, wherever it is."""
    script = there.script(MEETS)
    first = ("-H", "n1", "--lease", "3s", "--grace", "1", "--role", "trainer", "-g", "1", script, "on")
    process = there.start("run", *first, ":", "--role", "rollout", "-H", "n1,n2", "-g", "1", script, "on")
    until(lambda: there.said().count('"host"') == 3, "the ranks run")
    there.lab.fault("crash", "n2")
    assert 125 == process.wait(timeout=120), there.said()
    assert "lost n2" in there.said()
    there.nothing_left()
