"""What the parts of an agent share: the run, as far as it concerns this node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from muster.agent.links import RankLinks
from muster.agent.log_streaming import LogStreamer
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit


class NodeRun(NamedTuple):
    """The run on this node, once the agent has been told of it."""

    loop: EventLoop
    emit: Emit
    complain: Callable[[str], object]
    """Writes something into agent.log."""
    trace: bool
    """What is said here is printed (`protocol/trace.py`)."""
    run_id: str
    node: int
    """Its number."""
    folder: str
    """What the agent writes lies here."""
    logs: LogStreamer
    links: RankLinks
