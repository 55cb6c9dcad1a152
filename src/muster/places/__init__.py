"""Where the ranks run: how an agent gets onto a node. One file, one row each."""

from __future__ import annotations

from typing import Callable, NamedTuple

from muster.places import local, slurm, ssh
from muster.places.target import Target


class Place(NamedTuple):
    """A row of the table."""

    start: Callable[[Target], tuple[str, ...]]
    """The argv, here, whose stdin and stdout are the connection to a new agent there."""
    text: Callable[[Target], bytes]
    """What that command reads before the text of the agent."""


PLACES: dict[str, Place] = {
    "local": Place(local.start, local.text),
    "ssh": Place(ssh.start, ssh.text),
    "slurm": Place(slurm.start, slurm.text),
}
