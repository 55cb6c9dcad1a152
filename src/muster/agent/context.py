"""State that the parts of an agent share: the run, as seen by this node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from muster.agent.links import RankLinks
from muster.agent.log_streaming import LogStreamer
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit


class NodeRun(NamedTuple):
    """The run on this node, once the agent is configured."""

    loop: EventLoop
    emit: Emit
    complain: Callable[[str], object]
    """Writes a message to agent.log."""
    trace: bool
    """True if messages are traced (`protocol/trace.py`)."""
    run_id: str
    node: int
    """Node number."""
    folder: str
    """Directory for the files of this agent."""
    logs: LogStreamer
    links: RankLinks
