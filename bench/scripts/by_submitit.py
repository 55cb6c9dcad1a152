"""`by_submitit.py NODES RANKS_PER_NODE FOLDER FILE [WHAT]`: the ranks of first_sum.py as a job of submitit.

With one node the job is a local one, otherwise a job of Slurm.
"""

import sys
from pathlib import Path

import submitit


def rank(words: list[str]) -> None:
    """One of the ranks."""
    sys.path.insert(0, str(Path(__file__).parent))
    from first_sum import first_sum

    submitit.helpers.TorchDistributedEnvironment().export()
    first_sum(*words)


if __name__ == "__main__":
    nodes, each, folder, *words = sys.argv[1:]
    executor = submitit.AutoExecutor(folder=folder, cluster="local" if nodes == "1" else "slurm")
    executor.update_parameters(nodes=int(nodes), tasks_per_node=int(each), timeout_min=10)
    executor.submit(rank, words).results()
