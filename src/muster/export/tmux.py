"""`muster export tmux`: torchrun in a tmux session on each node."""

from __future__ import annotations

from muster.export import _ssh
from muster.export._node import TORCHRUN
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _ssh.in_tmux(wanted, TORCHRUN)
