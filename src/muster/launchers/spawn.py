"""`torch.multiprocessing.spawn`, one parent process per node.

`module:function` is called in each process as `function(rank, *arguments)`; an argument that is a Python literal (`2`,
`0.1`, `None`) is passed as that value, any other as a string. A script is run in each process as `__main__`. A script
that calls spawn by itself is started once per node, with NODE_RANK, NNODES, NPROC_PER_NODE, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT set; to muster it is one rank per node.
"""

from __future__ import annotations

from muster.core.layout import layout
from muster.core.model import Command, Job, Late, Node, Plan
from muster.core.rank_env import of_parents
from muster.errors import InvalidRequest
from muster.launchers._external import own_file, per_node, rank_command, shim_argv
from muster.launchers._python import python_argv

_DRIVER = """import sys
import torch.multiprocessing as mp

def rank(index, shim, run, first, world, here, node):
    sys.path.insert(0, shim)
    from muster.agent.rank_info import Identity
    from muster.agent.rank_shim import inside
    del sys.path[0]
    inside(Identity("torch.multiprocessing.spawn", first + index, world, index, here, node), run)

if __name__ == "__main__":
    shim, run, *numbers = sys.argv[1:]
    first, world, here, node = map(int, numbers)
    mp.spawn(rank, args=(shim, run, first, world, here, node), nprocs=here)
"""


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one parent per node, which spawns the ranks or is a script that spawns them by itself."""
    if job.program.kind == "command":
        raise InvalidRequest("--launcher spawn requires a Python function or script", "use `--launcher exec`")
    if job.script_spawns:
        return _parents(job, nodes, run_id)
    driver = own_file("spawn.py", _DRIVER)
    words = {
        node.number: (
            *(Late.PYTHON, driver.path, *shim_argv(run_id), str(node.ranks[0].rank)),
            *(str(node.ranks[0].world_size), str(len(node.ranks)), str(node.number)),
        )
        for node in nodes
    }
    return per_node(job, nodes, run_id, words, [driver], external_rendezvous=False)


def _parents(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    rank_command(job)  # raises for options that need ranks started by muster
    parents = layout((node.host, 1) for node in nodes)
    commands = tuple(
        Command(
            node=node.number,
            argv=python_argv(job),
            ranks=parents[node.number].ranks,
            cwd=job.cwd,
            signal_group=True,
        )
        for node in nodes
    )
    environments = of_parents(job, nodes, parents, run_id)
    return Plan(job, parents, commands, environments, external_rendezvous=True)
