"""`accelerate launch` on each node, with a configuration of the run's own: the machine's default file is not read."""

from __future__ import annotations

from muster.launchers.foreign import ADDRESS, FOLDER, PORT, PYTHON, each_node, equal_shares, shim
from muster.model import Job, Node, Plan
from muster.ranks import environment, shared_environment

# MULTI_GPU goes through torchrun's code, which starts all ranks with or without GPUs; with MULTI_CPU or `--cpu`
# accelerate 1.15 starts one, and ends with status 0
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
    """One command a node."""
    processes = equal_shares(job, nodes) * len(nodes)
    several = processes > 1
    kind = "MULTI_GPU" if several else "NO"
    text = _CONFIGURATION.format(kind=kind, machines=len(nodes), processes=processes)
    words = {
        node.number: (
            *(PYTHON, "-m", "accelerate.commands.launch", f"--config_file={FOLDER}/accelerate.yaml"),
            *(["--multi_gpu"] if several else []),
            *(f"--num_machines={len(nodes)}", f"--num_processes={processes}", f"--machine_rank={node.number}"),
            *(f"--main_process_ip={ADDRESS}", f"--main_process_port={PORT}", *job.launcher_args),
            *shim(run_id),
        )
        for node in nodes
    }
    made = each_node(job, nodes, run_id, words, {"accelerate.yaml": text})
    if several:
        return made
    # one process is started without a word of ranks
    rank = nodes[0].ranks[0]
    names = {**environment(rank), **shared_environment(rank, run_id, job.max_restarts, job.role, job.signals_to_handle)}
    names.update(MASTER_ADDR=ADDRESS, MASTER_PORT=PORT, TORCHELASTIC_USE_AGENT_STORE="False")
    return made._replace(commands=tuple(command._replace(env={**command.env, **names}) for command in made.commands))
