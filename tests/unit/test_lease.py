"""The time without a controller: it is as long as the lease, however often the connection breaks."""

from __future__ import annotations

import socket

from manual_loop import ManualLoop

from muster.agent.agent import Agent
from muster.agent.dialer import ControllerDialer, Met
from muster.protocol.frames import FrameDecoder
from muster.protocol.handshake import Terms


class Alone(Agent):
    """An agent that notes that it would exit."""

    ended = False

    def quit(self) -> None:
        self.ended = True


class Unanswered(ControllerDialer):
    """A controller that is not reached: the test makes the connections."""

    def dial(self) -> None:
        pass


def test_a_connection_that_broke_several_times_leaves_the_whole_lease() -> None:
    with ManualLoop() as loop:
        agent = Alone(loop, {})
        agent.lease = 10.0
        agent.dialer = Unanswered(loop, "127.0.0.1", 1, Terms("", ""), 1, lambda: 0, agent.connected, print)
        for _ in range(5):
            ours, theirs = socket.socketpair()
            agent.connected(Met(ours.detach(), FrameDecoder(), 0, None), True)
            theirs.close()
            loop.until(lambda: not agent.wire.connected, "the end of the connection is seen")
            loop.advance(0.2)
        loop.advance(9.0)
        assert not agent.ended
        loop.advance(2.0)
        assert agent.ended
