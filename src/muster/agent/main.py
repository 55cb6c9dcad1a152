"""The program of an agent that was sent to its node."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import BinaryIO

from muster.agent.agent import Agent
from muster.linux import processes, run_mark
from muster.linux.descriptors import open_standard_descriptors
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import read_call


def main(stdin: BinaryIO, hook: Mapping[str, str | bytes]) -> None:
    """Run the agent of this node, with the arguments of the message `call`; `hook` is the source of the site hook."""
    open_standard_descriptors()
    # the program that started this may ignore SIGCHLD, or block signals in its threads
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    processes.hear_signals()
    run_mark.put(0)  # that of another run, whose rank has started this one
    _, args = read_call(stdin)
    if args.get("guarded"):
        from muster.agent.guard import guard_from_here

        guard_from_here()
    agent = Agent(EventLoop(), hook)
    try:
        agent.begin()
        agent.hello()
        agent.run()
        if agent.move is not None:
            from muster.agent.detach import move

            agent = move(agent)
            agent.run()
    except BaseException:
        agent.fail()
    os._exit(0)
