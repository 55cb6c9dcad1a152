"""`muster export sbatch`: a batch script with torchrun as the only task of each node."""

from __future__ import annotations

from muster.export import _slurm
from muster.export._node import TORCHRUN
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _slurm.per_node(wanted, TORCHRUN)
