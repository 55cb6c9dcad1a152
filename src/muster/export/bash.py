"""`muster export bash`: torchrun on each node, over ssh at the same time."""

from __future__ import annotations

from muster.export import _ssh
from muster.export._node import TORCHRUN
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the script."""
    return _ssh.script(wanted, TORCHRUN)
