"""`accelerate launch` on each node, with a configuration file of the run: the machine's default file is not read."""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan, Text
from muster.core.rank_env import of_launcher_of_one_rank
from muster.launchers._external import own_file, per_node, require_uniform, shim_argv

# MULTI_GPU goes through torchrun's code, which starts all ranks with or without GPUs; with MULTI_CPU or `--cpu`
# accelerate 1.15 starts a single one, and exits with status 0
_CONFIGURATION = """compute_environment: LOCAL_MACHINE
distributed_type: {kind}
num_machines: {machines}
num_processes: {processes}
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
rdzv_backend: static
same_network: true
use_cpu: false
debug: false
"""


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per node."""
    processes = require_uniform(job, nodes) * len(nodes)
    several = processes > 1
    kind = "MULTI_GPU" if several else "NO"
    text = _CONFIGURATION.format(kind=kind, machines=len(nodes), processes=processes)
    configuration = own_file("accelerate.yaml", text)
    configured: Text = "--config_file=" + configuration.path
    words: dict[int, tuple[Text, ...]] = {
        node.number: (
            *(Late.PYTHON, "-m", "accelerate.commands.launch", configured),
            *(["--multi_gpu"] if several else []),
            *(f"--num_machines={len(nodes)}", f"--num_processes={processes}", f"--machine_rank={node.number}"),
            *("--main_process_ip=" + Late.MASTER_ADDR, "--main_process_port=" + Late.MASTER_PORT),
            *(*job.launcher_args, *shim_argv(run_id)),
        )
        for node in nodes
    }
    env = {} if several else of_launcher_of_one_rank(job, nodes[0].ranks[0], run_id)
    return per_node(job, nodes, run_id, words, [configuration], env=env)
