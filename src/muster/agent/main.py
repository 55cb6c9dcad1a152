"""The program of an agent that was sent to its node."""

from __future__ import annotations

import os

from muster.agent.agent import Agent
from muster.agent.descriptors import open_standard_descriptors
from muster.agent.eventloop import EventLoop


def main(hook: str) -> None:
    """Run the agent of this node; `hook` is the source of the hook."""
    open_standard_descriptors()
    agent = Agent(EventLoop(), hook)
    try:
        agent.begin()
        agent.greet()
        agent.run()
        if agent.move is not None:
            from muster.agent.move import move

            agent = move(agent)
            agent.run()
    except BaseException:
        agent.fail()
    os._exit(0)
