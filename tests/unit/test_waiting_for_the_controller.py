"""How long an agent waits for a controller that it has never met: as long as that may be starting. In one process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from manual_loop import ManualLoop

from muster.agent.agent import Agent
from muster.protocol.handshake import Terms

TERMS = Terms("5ec2e7" * 8, "20261127-000000-abcdef-train")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    made = Agent(ManualLoop(), {})
    # it would end the process of the tests, with status 0
    monkeypatch.setattr(made, "quit", lambda: None)
    yield made
    if made.dialer is not None and made.dialer._sock is not None:
        made.dialer._sock.close()
    made.loop.close()


def loop_of(agent: Agent) -> ManualLoop:
    assert isinstance(agent.loop, ManualLoop)
    return agent.loop


def dialled(agent: Agent, port: int) -> ManualLoop:
    agent.dial("127.0.0.1", port, TERMS, 1)
    return loop_of(agent)


def test_a_controller_that_is_starting_is_waited_for_on_one_connection(agent: Agent) -> None:
    """On a busy host it may take longer than the 10 s after which an agent gives up an address without a listener."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as port:
        loop = dialled(agent, port.getsockname()[1])
        loop.until(lambda: agent.dialer is not None and agent.dialer.reached, "the port is reached")
        loop.advance(25)
        assert not agent.is_lost
        first, _ = port.accept()
        port.setblocking(False)
        with first, pytest.raises(BlockingIOError):
            port.accept()


def test_a_controller_that_never_answers_is_given_up(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as port:
        loop = dialled(agent, port.getsockname()[1])
        loop.advance(200)
        assert agent.is_lost


def test_a_closed_port_is_given_up_after_ten_seconds(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port:
        number = port.getsockname()[1]
    loop = dialled(agent, number)
    loop.advance(9)
    assert not agent.is_lost
    loop.advance(3)
    assert agent.is_lost
