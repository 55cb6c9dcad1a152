"""A practice cluster on one machine: network namespaces as hosts, running the real sshd, Slurm and MPI.

    with Lab(nodes=3, gpus=4, cpus=8) as lab:
        lab.run("head", ["srun", "-N3", "hostname"], check=True)
        lab.fault("partition", "n2")

Nothing is written outside the lab's own directory, and nothing in the lab is reachable from outside its namespaces.
"""

from muster.lab.lab import Lab
from muster.lab.spec import Shape

__all__ = ["Lab", "Shape"]
