"""`muster export srun`: a batch script whose srun starts one task per rank."""

from __future__ import annotations

from muster.export import _slurm
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _slurm.per_rank(wanted)
