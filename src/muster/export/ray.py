"""`muster export ray`: a driver for `ray job submit`. Ray gives the nodes; torchrun starts the ranks of each.

Ray Train is not used: it sets up the process group by itself, which an unchanged script does as well.
"""

from __future__ import annotations

from muster.export._node import TORCHRUN, Place
from muster.export._shell import header, joined
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the driver."""
    job, each = wanted.job, wanted.each("torchrun")
    gpus = wanted.batch.get("gpus-per-node").rpartition(":")[2]
    cpus = wanted.batch.get("cpus-per-task")
    two = wanted._replace(address=wanted.address or "MASTER", port=wanted.port or 1)
    place = Place("NODE", "MASTER", "PORT", "python")
    words = [word for group in TORCHRUN.words(two, place) for word in group]
    shown = [_LATE.get(word, repr(str(word))) for word in words]
    lines = ["#!/usr/bin/env python3", *header(wanted, "one torchrun on each node of a Ray cluster")]
    lines += [f"# Start it on the cluster: ray job submit --working-dir . -- python {wanted.name}.ray.py", ""]
    lines += [*_IMPORTS.splitlines(), ""]
    lines += [f"NODES, RANKS_PER_NODE, GPUS_PER_NODE = {len(wanted.nodes)}, {each}, {int(gpus) if gpus else 0}"]
    lines += [f"CPUS_PER_NODE = {int(cpus) if cpus.isdigit() else each}"]
    lines += [f"DIRECTORY = {job.cwd!r}"]
    lines += ["ENVIRONMENT = {", *(f"    {name!r}: {value!r}," for name, value in wanted.open_env.items()), "}"]
    lines += ["# secrets are not written into this file: set them where the driver starts"] if wanted.secrets else []
    lines += [f"SECRETS = {list(wanted.secrets)!r}", "", ""]
    lines += ["def torchrun(node, master, port):", '    """Return the command line for one node."""', "    return ["]
    lines += [f"        {word}," for word in shown]
    lines += ["    ]", "", ""]
    lines += _BODY.splitlines()
    return joined(lines)


_LATE = {
    "python": "sys.executable",
    "--node-rank=NODE": 'f"--node-rank={node}"',
    "--master-addr=MASTER": 'f"--master-addr={master}"',
    "--master-port=PORT": 'f"--master-port={port}"',
}

_IMPORTS = """import os
import random
import signal
import socket
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
"""

_BODY = '''@ray.remote(max_restarts=0)
class Node:
    """The part of the run on one node; an actor, so that the ranks are ended with it."""

    def __init__(self, secrets):
        # a share of the cores for each rank; without this torchrun gives it one thread
        threads = max(1, len(os.sched_getaffinity(0)) // RANKS_PER_NODE)
        self.env = {"OMP_NUM_THREADS": str(threads), **os.environ, **ENVIRONMENT, **secrets}

    def meeting(self):
        """Return an address and a free port of this node, below those that the kernel gives to connections."""
        while True:
            port = random.randrange(20000, 32000)
            with socket.socket() as trial:
                if trial.connect_ex(("localhost", port)):
                    return ray.util.get_node_ip_address(), port

    def run(self, node, master, port):
        """Run the ranks of this node, and return the exit status of torchrun."""
        command = torchrun(node, master, port)
        # if this actor is killed, the kernel ends torchrun, and that its ranks
        parent = ["setpriv", "--pdeathsig", "TERM"]
        return subprocess.run([*parent, *command], env=self.env, cwd=DIRECTORY).returncode


def main():
    missing = [name for name in SECRETS if name not in os.environ]
    if missing:
        sys.exit(f"set {', '.join(missing)} before you start this program")
    secrets = {name: os.environ[name] for name in SECRETS}
    ray.init()
    # a bundle for each node, each on another one
    bundle = {"CPU": CPUS_PER_NODE, **({"GPU": GPUS_PER_NODE} if GPUS_PER_NODE else {})}
    group = placement_group([bundle] * NODES, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    nodes = []
    for number in range(NODES):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        options = {"num_cpus": CPUS_PER_NODE, "num_gpus": GPUS_PER_NODE, "scheduling_strategy": place}
        nodes.append(Node.options(**options).remote(secrets))
    master, port = ray.get(nodes[0].meeting.remote())
    waiting = [node.run.remote(number, master, port) for number, node in enumerate(nodes)]
    while waiting:
        done, waiting = ray.wait(waiting)
        status = ray.get(done[0])
        if status:
            # the first node that fails decides; the others end with the driver
            sys.exit(status if status > 0 else 128 - status)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()'''
