"""What strangers send: any bytes give frames or `Refused`, and any fields of a handshake give keys or `Refused`."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzzing import any_json, bytes_near, spoilt
from hypothesis import assume, example, given
from hypothesis import strategies as st

from muster.protocol import frames as wire
from muster.protocol import sealing
from muster.protocol.channel import Channel
from muster.protocol.frames import FrameDecoder, Refused, encode_frame, read_call, whole_frames
from muster.protocol.handshake import AgentSide, ControllerSide, Seal, Terms
from muster.protocol.messages import between
from muster.protocol.paths import rank_file
from muster.protocol.progress_file import reported_step

TERMS = Terms("secret", "20261127-101112-0123456789ab-train")
FRAMES = (
    encode_frame("ack", heard=3),
    encode_frame("output", b"some text\n", rank=1, offset=0) + encode_frame("ack", heard=0),
    ControllerSide(TERMS).challenge(),
    encode_frame("call", name="f", args={"x": 1}),
)

_LENGTH = st.binary(min_size=4, max_size=4) | st.integers(0, 40).map(lambda length: length.to_bytes(4, "big"))
any_bytes = bytes_near(*FRAMES) | st.tuples(_LENGTH, _LENGTH, st.binary(max_size=60)).map(b"".join)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


_FIELDS = st.dictionaries(st.text(), json_values, max_size=4)


@given(any_bytes)
@example(encode_frame("call"))
@example(b"\0\0\0\2\0\0\0\0{}")
@example(b"\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\0\1\0\0\0\0\0\0" + b"[" * 65536)
@example(b"\0\0\x1b\x58\0\0\0\0" + b"9" * 7000)
def test_any_bytes_give_frames_or_are_refused(data: bytes) -> None:
    assert whole_frames(data) <= len(data)
    for decoder in (FrameDecoder(), FrameDecoder(seal=Seal(b"key"))):
        try:
            decoder.feed(data)
        except Refused:
            pass
    try:
        FrameDecoder().one()
        decoder = FrameDecoder()
        decoder.add(data)
        while decoder.one() is not None:
            pass
    except Refused:
        pass
    try:
        read_call(io.BytesIO(data))
    except Refused:
        pass


@given(any_bytes)
def test_a_channel_takes_any_bytes(data: bytes) -> None:
    channel = Channel(keeps=True)
    channel.send(encode_frame("say"))
    found = channel.feed(data)
    assert found is not None or channel.refused


@given(
    st.lists(
        st.tuples(st.text(), st.dictionaries(st.text(), json_values, max_size=4), st.binary(max_size=99)), max_size=4
    ),
    st.lists(st.integers(1, 40), max_size=40),
    st.booleans(),
)
def test_frames_arrive_as_they_were_sent_however_they_are_cut(
    sent: list[tuple[str, dict[str, Any], bytes]], cuts: list[int], sealed: bool
) -> None:
    assume(all(not {"kind", "payload"} & fields.keys() for _, fields, _ in sent))
    out, into = Seal(b"key"), Seal(b"key")
    data = b""
    for kind, fields, payload in sent:
        frame = encode_frame(kind, payload, **fields)
        data += frame + (out.tag(frame) if sealed else b"")
    decoder, found = FrameDecoder(seal=into if sealed else None), []
    for cut in cuts:
        found += decoder.feed(data[:cut])
        data = data[cut:]
    found += decoder.feed(data)
    assert [({**fields, "kind": kind}, payload) for kind, fields, payload in sent] == found
    assert decoder.empty


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_sealed_frame_with_a_changed_byte_is_refused(at: int, change: int) -> None:
    frame = encode_frame("output", b"x" * 50, rank=3)
    data = bytearray(frame + Seal(b"key").tag(frame))
    data[at % len(data)] ^= change
    decoder = FrameDecoder(seal=Seal(b"key"))
    with pytest.raises(Refused):  # or it waits for the rest of a longer frame, which never becomes a valid one
        assert not decoder.feed(bytes(data))
        decoder.feed(b"\0" * (wire.LARGEST if data[:8] != frame[:8] and max(data[:8]) < 4 else 0))
        raise Refused("incomplete")


def _fields(frame: bytes) -> dict[str, Any]:
    return FrameDecoder().feed(frame)[0][0]


@given(st.data())
def test_any_fields_of_a_handshake_give_keys_or_are_refused(data: st.DataObject) -> None:
    controller, agent = ControllerSide(TERMS), AgentSide(TERMS, 1, "", 0)
    known = _fields(controller.challenge())
    challenge = data.draw(spoilt(known) | st.just(known))
    try:
        if not isinstance(challenge, dict) or not isinstance(challenge.get("kind"), str):
            return  # `FrameDecoder` refuses it
        response = _fields(agent.answer(challenge))
        spoilt_response = data.draw(spoilt(response))
        if not isinstance(spoilt_response, dict) or not isinstance(spoilt_response.get("kind"), str):
            return
        heard = controller.hear(spoilt_response)
        assert spoilt_response.items() >= response.items() and heard.node == 1, "only the true response is accepted"
        frame, seals = controller.welcome("c1", 0)
        welcome = data.draw(spoilt(_fields(frame)))
        if not isinstance(welcome, dict) or not isinstance(welcome.get("kind"), str):
            return
        _, others = agent.hear(welcome)
        assert seals.out.tag(b"x") == others.into.tag(b"x")
    except Refused:
        pass


@given(any_json, st.sampled_from(("agent", "controller", "client", "rank")), st.sampled_from(("agent", "controller")))
def test_any_fields_of_any_message_are_right_or_refused(value: Any, sender: str, receiver: str) -> None:
    for message in between(sender, receiver).values():
        for fields in (value, {**dict.fromkeys(message.fields, value), "kind": message.kind}):
            if isinstance(fields, dict):
                try:
                    message.fitting(fields)
                except Refused:
                    pass


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20), st.integers(0, 400), st.integers(1, 255))
def test_sealed_data_is_unsealed_and_changed_data_is_refused(data: bytes, secret: str, at: int, change: int) -> None:
    sealed = sealing.sealed(secret, data)
    assert sealing.unsealed(secret, sealed) == data
    changed = bytearray(sealed)
    changed[at % len(changed)] ^= change
    with pytest.raises(ValueError):
        sealing.unsealed(secret, bytes(changed))
    with pytest.raises(ValueError):
        sealing.unsealed(secret, sealed[: at % len(sealed)])


@given(json_values)
def test_the_text_of_a_frame_is_ascii(value: Any) -> None:
    assert json.loads(encode_frame("say", value=value)[8:].decode("ascii"))["value"] == value


@given(st.binary(max_size=40) | st.sampled_from(("step ²\n".encode(), b"step " + b"9" * 5000, b"step 3\nsteps 9\n")))
@example("step=²\n".encode())
@example("step ²\nsteps ²\n".encode())
def test_any_progress_file_gives_numbers(data: bytes) -> None:
    """Ranks write it, with any bytes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(rank_file(folder, 0, "progress")).write_bytes(data)
        assert all(isinstance(value, int) for value in reported_step(folder, 0).values())
