"""Agents relay connections of ranks to a store on another node: real sockets, and a controller that the test plays."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from waiting import until

from muster.agent import store_relay
from muster.agent.store_relay import StoreRelay
from muster.linux.eventloop import EventLoop
from muster.protocol.streams import WINDOW

STORE, RANKS = 0, 1
"""The nodes."""


class Run:
    """Two agents, the messages between them, and a store that the test plays."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.store = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.store.settimeout(120)
        self.messages: list[tuple[int, str, bytes, dict[str, Any]]] = []
        self.notes: list[str] = []
        self.agents = [StoreRelay(loop, self._emits(node), self.notes.append) for node in (STORE, RANKS)]
        self.agents[STORE].serve(0, self.store.getsockname()[1])
        self.port = self.agents[RANKS].listen(0, STORE, 0)
        self.most = 0
        """The most bytes that were ever between the agents."""

    def _emits(self, node: int) -> Callable[..., None]:
        def emit(kind: str, payload: bytes = b"", **fields: Any) -> None:
            self.messages.append((node, kind, payload, fields))

        return emit

    def turn(self) -> None:
        """Let the agents work, and forward what they say, as the controller does."""
        self.loop.run_once(0.005)
        self.most = max(self.most, sum(len(payload) for _, _, payload, _ in self.messages))
        messages, self.messages = self.messages, []
        for sender, kind, payload, fields in messages:
            if kind == "note":
                self.notes.append(fields["text"])
                continue
            receiver, known = self.agents[fields.pop("node")], {"node": sender, **fields}
            if kind == "relay":
                receiver.relayed(**known, data=payload)
            elif kind == "relay_taken":
                receiver.taken(**known)
            else:
                receiver.ended(**known)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def met() -> Any:
            self.turn()
            return condition()

        return until(met, what, 150)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection from a rank to the store."""
        rank = socket.create_connection(("127.0.0.1", self.port))
        self.store.setblocking(False)
        found: list[socket.socket] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                found.append(self.store.accept()[0])
            return bool(found)

        self.until(came, "the store is called")
        for sock in (rank, found[0]):
            sock.setblocking(False)
        return rank, found[0]

    def read(self, sock: socket.socket, count: int) -> bytes:
        """Return so many bytes, or all up to the end."""
        data = bytearray()

        def enough() -> bool:
            with suppress(BlockingIOError):
                piece = sock.recv(1 << 16)
                data.extend(piece)
                return not piece or len(data) >= count
            return False

        self.until(enough, f"{count} bytes have come")
        return bytes(data)

    def send(self, sock: socket.socket, data: bytes) -> int:
        """Send what is accepted until nothing moves; return how much that was."""
        sent = idle = 0
        while idle < 20 and sent < len(data):
            try:
                count = sock.send(data[sent : sent + (1 << 16)])
            except BlockingIOError:
                count = 0
            sent, idle = sent + count, 0 if count else idle + 1
            self.turn()
        return sent

    def close(self) -> None:
        for agent in self.agents:
            agent.end()
        self.store.close()


@pytest.fixture
def run() -> Iterator[Run]:
    with EventLoop() as loop:
        made = Run(loop)
        yield made
        made.close()
        assert 1 == len(loop._watched), "nothing is watched but the loop's own pipe"


def test_many_ranks_talk_with_the_store_at_once(run: Run) -> None:
    ends = [run.connect() for _ in range(16)]
    for number, (rank, store) in enumerate(ends):
        rank.sendall(b"ask %d" % number)
        store.sendall(b"answer %d" % number)
    for number, (rank, store) in enumerate(ends):
        assert b"ask %d" % number == run.read(store, len(b"ask %d" % number))
        assert b"answer %d" % number == run.read(rank, len(b"answer %d" % number))
    for rank, store in ends:
        rank.close()
        assert b"" == run.read(store, 1), "the end of a rank is the end of its connection there"
        store.close()
    run.until(lambda: not any(agent._known for agent in run.agents), "nothing is left of the connections")


def test_one_direction_may_end_before_the_other(run: Run) -> None:
    rank, store = run.connect()
    rank.sendall(b"last words")
    rank.shutdown(socket.SHUT_WR)
    assert b"last words" == run.read(store, 1 << 20)
    store.sendall(b"understood")
    store.close()
    assert b"understood" == run.read(rank, 1 << 20)
    rank.close()


def test_a_store_that_does_not_read_holds_up_its_rank_and_nothing_else(run: Run) -> None:
    data = Random(1).randbytes(40 << 20)
    slow, store = run.connect()
    sent = run.send(slow, data)
    assert sent < len(data), "back-pressure reaches the rank"
    assert run.most <= WINDOW, "at most a window of it is anywhere between"
    other, its_store = run.connect()
    other.sendall(b"me too")
    assert b"me too" == run.read(its_store, 6)
    assert data[:sent] == run.read(store, sent), "and nothing is lost"
    for sock in (slow, store, other, its_store):
        sock.close()


def test_connections_survive_a_controller_that_dies_with_messages(run: Run) -> None:
    rank, store = run.connect()
    random, data = Random(2), Random(3).randbytes(1 << 20)
    rest, got = data, bytearray()

    def moved() -> bool:
        nonlocal rest
        with suppress(BlockingIOError):
            if rest:
                rest = rest[rank.send(rest[: 1 << 15]) :]
        with suppress(BlockingIOError):
            got.extend(store.recv(1 << 16))
        if random.random() < 0.05:
            run.loop.run_once(0)
            run.messages.clear()
            for agent in run.agents:
                agent.again()
        return len(got) == len(data)

    run.until(moved, "all of it has come")
    assert data == got
    for sock in (rank, store):
        sock.close()


def test_a_connection_that_was_lost_with_its_end_is_not_made_a_second_time(run: Run) -> None:
    """It would repeat what the rank had asked of the store."""
    rank, store = run.connect()
    rank.sendall(b"add 1")
    assert b"add 1" == run.read(store, 5)
    store.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    store.close()  # a reset

    def noticed() -> bool:
        run.loop.run_once(0.01)
        return not run.agents[STORE]._known

    until(noticed, "the agent of the store has noticed")
    run.messages.clear()  # the controller dies with this news
    run.agents[RANKS].again()
    assert b"" == run.read(rank, 1), "the rank learns of it"
    with pytest.raises(BlockingIOError):
        run.store.accept()
    rank.close()


def test_a_rank_learns_of_the_end_of_the_store(run: Run) -> None:
    rank, store = run.connect()
    run.store.close()
    late = socket.create_connection(("127.0.0.1", run.port))
    late.setblocking(False)
    assert b"" == run.read(late, 1), "nobody listens there"
    store.close()
    assert b"" == run.read(rank, 1)
    rank.close()
    late.close()


def test_a_taken_port_is_replaced_and_the_end_of_an_attempt_closes_everything(run: Run) -> None:
    rank, store = run.connect()
    again = StoreRelay(run.loop, run._emits(RANKS), run.notes.append)
    assert run.port != again.listen(0, STORE, run.port)
    again.end()
    run.agents[RANKS].end()
    assert b"" == run.read(rank, 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", run.port), timeout=5)
    run.agents[STORE].relayed(1, RANKS, 9, 0, b"of another attempt", False)
    assert not run.messages
    rank.close()
    store.close()


def test_connections_beyond_the_limit_wait_at_the_rank_and_are_refused_at_the_store(loop_limit: int, run: Run) -> None:
    ends = [run.connect() for _ in range(loop_limit)]
    more = socket.create_connection(("127.0.0.1", run.port))
    for _ in range(20):
        run.turn()
    assert [loop_limit, loop_limit] == [len(agent._known) for agent in run.agents], "it waits in the kernel's queue"
    run.agents[STORE].relayed(0, RANKS, 99, 0, b"", False)
    run.turn()
    assert ["refused a connection to the store"] == [note.partition(":")[0] for note in run.notes]
    ends[0][0].close()
    ends[0][1].close()
    run.until(lambda: len(run.agents[RANKS]._known) == loop_limit, "the next one is accepted")
    more.close()
    for rank, store in ends:
        rank.close()
        store.close()


@pytest.fixture
def loop_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(store_relay, "limit", lambda: 3)
    return 3


@pytest.mark.parametrize("piece", [(5, b"x"), (0, b"x" * (WINDOW + 1))], ids=["a gap", "too much"])
def test_what_an_agent_cannot_have_sent_ends_that_connection(run: Run, piece: tuple[int, bytes]) -> None:
    rank, store = run.connect()
    run.agents[STORE].relayed(0, RANKS, 1, *piece, False)
    assert b"" == run.read(store, 1) and b"" == run.read(rank, 1)
    assert 1 == len(run.notes) and "closed a connection to the store" in run.notes[0]
    rank.close()
    store.close()
