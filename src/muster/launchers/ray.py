"""Ray Train's TorchTrainer, on a Ray cluster that is started on the nodes for this run and stopped after it."""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan
from muster.launchers._external import on_head_node, own_file, shim_argv

_DRIVER = """import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import traceback

address, gpus, ranks, temp, *words = sys.argv[1:]
shares = [word.rpartition(":") for word in words[: words.index("--")]]
words = words[words.index("--") + 1 :]
_, shim, run = words
sys.path.insert(0, shim)
from muster.agent.rank_shim import remote_exec

del sys.path[0]
over = []
# a token of this run's own: else Ray writes one into the home, and other nodes need a copy
own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
os.environ.update(own, RAY_TRAIN_V2_ENABLED="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")


def free_port():
    \"\"\"Its workers take those below, and the kernel gives those above to connections.\"\"\"
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as trial:
            try:
                trial.bind((address, port))
                return str(port)
            except OSError:
                continue


def ray_start(count, *more):
    quiet = ["--disable-usage-stats", "--dashboard-agent-listen-port", "0"]
    gpu = ["--num-gpus", count if int(gpus) else "0"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", count, *gpu, *quiet, *more]


def rank():
    \"\"\"What each worker does; the shim writes down how it ends.\"\"\"
    ended = subprocess.run(words)
    if ended.returncode:
        raise RuntimeError(f"exit status {ended.returncode}")


def join(host, line):
    if remote_exec(run, [host, line], own) and not over:
        print(f"ray could not be started on {host}; see launcher.log of that node", file=sys.stderr, flush=True)
        os._exit(1)


def main():
    (_, _, count), *others = shares
    port = free_port()
    at = f"{address}:{port}"
    head = ["--head", "--node-ip-address", address, "--port", port, "--include-dashboard=false"]
    head += ["--temp-dir", temp + "/r"]  # Ray lets every user write there
    subprocess.run(ray_start(count, *head), check=True)
    try:
        for host, _, count in others:
            line = " ".join(["exec", *ray_start(count, "--address", at, "--block")])
            threading.Thread(target=join, args=(host, line), daemon=True).start()
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        ray.init(address=at, log_to_driver=False)
        scaling = ScalingConfig(num_workers=int(ranks), use_gpu=bool(int(gpus)))
        TorchTrainer(rank, scaling_config=scaling, run_config=RunConfig(storage_path=temp + "/results")).fit()
    except BaseException:
        traceback.print_exc()
        return 1
    # `ray stop` would look for processes by name, and end those of others: the agents end what descends from them
    over.append(True)
    return 0


code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command, on node 0. A Ray node gets as many cores as ranks, to place ranks as planned."""
    shares = [f"{node.host.name}:{len(node.ranks)}" for node in nodes]
    ranks = sum(len(node.ranks) for node in nodes)
    driver = own_file("train.py", _DRIVER)
    numbers = (Late.MASTER_ADDR, "0", str(ranks), Late.SCRATCH)
    words = (Late.PYTHON, driver.path, *numbers, *shares, "--", Late.PYTHON, *shim_argv(run_id))
    # Ray Train makes its workers rendezvous too, on its own port; the ranks they start use muster's store
    return on_head_node(job, nodes, run_id, words, [driver])
