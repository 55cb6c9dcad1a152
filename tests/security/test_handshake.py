"""Mutual authentication of agents and controllers by the secret, and the MACs of all frames after that."""

from __future__ import annotations

import random
from typing import Any

import pytest

from muster.protocol import frames
from muster.protocol.channel import Channel
from muster.protocol.frames import FrameDecoder, Refused, encode_frame
from muster.protocol.handshake import AgentSide, ControllerSide, Seals, Terms, Welcome

TERMS = Terms("5ec2e7" * 8, "20261127-000000-abcdef-train")


def fields(frame: bytes) -> dict[str, Any]:
    ((found, _),) = FrameDecoder().feed(frame)
    return found


def agree(agent: Terms = TERMS, controller: Terms = TERMS) -> tuple[Seals, Seals, Welcome]:
    """Run a whole handshake; return (the agent's seals, the controller's, the message to the agent)."""
    one, other = AgentSide(agent, 3, "life before", 17), ControllerSide(controller)
    hello = other.hear(fields(one.answer(fields(other.challenge()))))
    assert (3, "life before", 17) == (hello.node, hello.incarnation, hello.heard)
    frame, theirs = other.welcome("this life", 5)
    welcome, ours = one.hear(fields(frame))
    return ours, theirs, welcome


def test_agents_with_the_secret_are_accepted_and_learn_the_controllers_identity() -> None:
    ours, theirs, welcome = agree()
    assert Welcome("this life", 5) == welcome
    theirs.into.check(b"from the agent", ours.out.tag(b"from the agent"))
    ours.into.check(b"to the agent", theirs.out.tag(b"to the agent"))


@pytest.mark.parametrize(
    "controller", [TERMS._replace(secret="another"), TERMS._replace(run_id="another run")], ids=["secret", "run"]
)
def test_another_secret_or_another_run_is_refused(controller: Terms) -> None:
    with pytest.raises(Refused):
        agree(controller=controller)


def test_another_version_is_refused() -> None:
    challenge = fields(ControllerSide(TERMS).challenge())
    with pytest.raises(Refused):
        AgentSide(TERMS, 0, "", 0).answer({**challenge, "version": frames.VERSION - 1})


def test_an_agents_own_messages_do_not_authenticate_to_it() -> None:
    """Reflection: a peer without the secret lets the agent prove things, and sends them back."""
    agent = AgentSide(TERMS, 1, "", 0)
    hello = fields(agent.answer({"kind": "challenge", "version": frames.VERSION, "nonce": "ab" * 32}))
    for sent in (hello, {**hello, "kind": "welcome"}):
        with pytest.raises(Refused):
            agent.hear(sent)
    with pytest.raises(Refused):  # nor a second proof for the attacker, of a nonce of the agent's own
        agent.answer({"kind": "challenge", "version": frames.VERSION, "nonce": hello["nonce"]})
    # a second connection of the same agent is of no use for the first
    other = fields(
        AgentSide(TERMS, 1, "", 0).answer({"kind": "challenge", "version": frames.VERSION, "nonce": hello["nonce"]})
    )
    with pytest.raises(Refused):
        agent.hear({**hello, "kind": "welcome", "mac": other["mac"]})


def test_nothing_that_was_said_on_one_connection_is_good_on_another() -> None:
    first, second = ControllerSide(TERMS), ControllerSide(TERMS)
    agent = AgentSide(TERMS, 1, "", 0)
    hello = fields(agent.answer(fields(first.challenge())))
    second.challenge()
    with pytest.raises(Refused):
        second.hear(hello)
    first.hear(hello)
    with pytest.raises(Refused):
        first.hear(hello)
    welcome = fields(first.welcome("incarnation", 0)[0])
    later = AgentSide(TERMS, 1, "", 0)
    later.answer(fields(second.challenge()))
    with pytest.raises(Refused):
        later.hear(welcome)
    with pytest.raises(Refused):
        AgentSide(TERMS, 1, "", 0).hear(welcome)  # before there was a challenge


CHANGES = [
    ("node", 2),
    ("heard", 18),
    ("incarnation", "other"),
    ("nonce", "cd" * 32),
    ("mac", "0" * 64),
    ("mac", "ü" * 64),
    ("mac", "٣" * 64),
    ("mac", ""),
    ("mac", None),
    ("mac", ["a"]),
    ("node", True),
    ("node", "3"),
    ("node", -1),
    ("node", 1 << 70),
    ("node", 3.0),
    ("heard", None),
    ("incarnation", {}),
    ("incarnation", "\ud800"),
    ("incarnation", "x" * 65),
    ("nonce", "zz"),
    ("nonce", ""),
    ("kind", "welcome"),
]


@pytest.mark.parametrize("name, value", CHANGES, ids=[f"{name}={str(value)[:6]!a}" for name, value in CHANGES])
def test_a_changed_field_is_refused_and_nothing_worse(name: str, value: Any) -> None:
    controller = ControllerSide(TERMS)
    hello = fields(AgentSide(TERMS, 3, "life", 17).answer(fields(controller.challenge())))
    with pytest.raises(Refused):
        controller.hear({**hello, name: value})
    without = {key: kept for key, kept in hello.items() if key != name or key == "kind"}
    if name != "kind":
        with pytest.raises(Refused):
            controller.hear(without)
    controller.hear(hello)  # and this one still works


class Ends:
    """Two channels with sealed frames; the test carries the bytes between them."""

    def __init__(self) -> None:
        ours, theirs, _ = agree()
        self.one, self.other = Channel(keeps=True), Channel(keeps=True)
        # no descriptor is used: outgoing bytes are taken from the channel
        self.one.connect(0, 0, seal=ours.out)
        self.other.connect(0, 0, FrameDecoder(seal=theirs.into), seal=theirs.out)

    def sent(self, *frames: bytes) -> bytes:
        """Return the bytes on the network for these frames."""
        for frame in frames:
            self.one.send(frame)
        data = bytes(self.one.out)
        self.one.out.clear()
        return data

    def hear(self, data: bytes) -> Any:
        return self.other.feed(data)


FRAMES = [encode_frame("say", b"x" * size, number=number) for number, size in enumerate((0, 10, 70000))]


def test_sealed_frames_come_as_they_were_sent_however_they_are_cut() -> None:
    ends = Ends()
    data = ends.sent(*FRAMES)
    assert len(data) == sum(map(len, FRAMES)) + len(FRAMES) * frames.TAG
    found = []
    for at in range(0, len(data), 4999):
        found += ends.hear(data[at : at + 4999])
    assert [0, 1, 2] == [said["number"] for said, _ in found]
    assert [0, 10, 70000] == [len(payload) for _, payload in found]


def test_a_bit_that_flips_anywhere_ends_the_connection() -> None:
    chance = random.Random(1)
    sample = Ends().sent(*FRAMES[:2])
    for at in {*range(12), *(chance.randrange(len(sample)) for _ in range(60))}:
        ends = Ends()
        data = bytearray(ends.sent(*FRAMES[:2]))
        data[at] ^= 1 << chance.randrange(8)
        found = ends.hear(bytes(data))
        # a length that was increased is waited for, and rejected as soon as there are that many bytes
        if found is not None:
            found = ends.hear(b"\0" * 70000 if at in (2, 3, 6, 7) else b"\0" * frames.LARGEST)
        assert found is None, at
        assert ends.other.refused, at


def test_frames_that_are_repeated_left_out_or_swapped_end_the_connection() -> None:
    for order in ([0, 0], [1], [1, 0], [0, 2]):
        ends = Ends()
        pieces = [ends.sent(frame) for frame in FRAMES]
        assert ends.hear(b"".join(pieces[number] for number in order)) is None, order
    ends = Ends()
    (first,) = ends.hear(ends.sent(FRAMES[0]))
    assert 0 == first[0]["number"]


def test_a_frame_is_valid_in_one_direction_of_one_connection_only() -> None:
    ends, others = Ends(), Ends()
    assert ends.hear(others.sent(FRAMES[0])) is None
    ends = Ends()
    ends.other.send(FRAMES[0])
    assert ends.hear(bytes(ends.other.out)) is None
    ends = Ends()
    assert ends.hear(FRAMES[0] + b"\0" * frames.TAG) is None


def test_half_a_frame_is_not_returned() -> None:
    ends = Ends()
    data = ends.sent(FRAMES[1])
    assert [] == ends.hear(data[:-1])
    assert 1 == len(ends.hear(data[-1:]))


NO_FRAMES = {
    "text": b"Last login: Mon Nov 21 09:00:00 on pts/0\n",
    "huge": b"\xff" * 8,
    "no JSON": b"\0\0\0\x04\0\0\0\0oops",
    "no UTF-8": b"\0\0\0\x04\0\0\0\0\xff\xfe\xfd\xfc",
    "a list": b"\0\0\0\x02\0\0\0\0[]",
    "no kind": b"\0\0\0\x02\0\0\0\0{}",
    "kind of no word": b'\0\0\0\x0a\0\0\0\0{"kind":1}',
    "deep": b"\0\1\x86\xa0\0\0\0\0" + b"[" * 100000,
    "acknowledges what was never said": encode_frame("ack", heard=1 << 40),
    "acknowledges no number": encode_frame("ack", heard="x"),
}


@pytest.mark.parametrize("data", NO_FRAMES.values(), ids=NO_FRAMES.keys())
def test_invalid_frames_end_the_connection_and_nothing_else(data: bytes) -> None:
    """As on the socket of another terminal, where nothing is sealed."""
    wire = Channel(keeps=True)
    assert wire.feed(data) is None
    assert wire.refused


def test_after_a_new_handshake_what_was_lost_is_sent_again_with_the_new_key() -> None:
    ends = Ends()
    ends.sent(FRAMES[0])
    lost = bytes(ends.one.out)
    ours, theirs, _ = agree()
    ends.one.connect(0, 0, seal=ours.out)
    ends.other.connect(0, 0, FrameDecoder(seal=theirs.into))
    assert ends.one.out != lost
    ((said, _),) = ends.hear(bytes(ends.one.out)) or []
    assert 0 == said["number"]
