"""`muster export mpirun`: mpirun of Open MPI, on hosts, on this machine, or with `--slurm` in a batch script."""

from __future__ import annotations

from muster.export import _mpi
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _mpi.script(wanted, "openmpi")
