"""The program of an agent that was sent to its node."""

from __future__ import annotations

import os
from typing import BinaryIO

from muster.agent.agent import Agent
from muster.agent.descriptors import open_standard_descriptors
from muster.agent.eventloop import EventLoop
from muster.agent.protocol import read_call


def main(stdin: BinaryIO, hook: str) -> None:
    """Run the agent of this node, with what the message `call` says; `hook` is the source of the hook."""
    open_standard_descriptors()
    read_call(stdin)
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
