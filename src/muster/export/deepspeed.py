"""`muster export deepspeed`: a launcher on each node, over ssh or as the only task of each node of a job of Slurm."""

from __future__ import annotations

from muster.export import _slurm, _ssh
from muster.export._node import DEEPSPEED
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _slurm.per_node(wanted, DEEPSPEED) if wanted.slurm else _ssh.script(wanted, DEEPSPEED)
