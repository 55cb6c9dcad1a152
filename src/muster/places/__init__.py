"""Where the ranks run: how an agent gets onto a node. One file, one row each."""

from __future__ import annotations

from typing import Callable, NamedTuple

from muster.model import Job
from muster.places import local


class Place(NamedTuple):
    """A row of the table."""

    start: Callable[[Job, str], tuple[str, ...]]
    """`start(job, host)`: the argv, here, whose stdin and stdout are the connection to a new agent there."""
    lease: float
    """Seconds for which an agent keeps its ranks when the connection is lost."""


PLACES: dict[str, Place] = {
    "local": Place(local.start, lease=0.0),
}
