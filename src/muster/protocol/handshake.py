"""Mutual authentication of an agent and its controller over TCP, and the MACs of the frames that follow.

    controller            agent
    challenge   ──►       version, nonce of the controller
                ◄──       response: node, nonce of the agent, the controller it knew, frames heard, MAC
    welcome     ──►       which controller this is, frames heard, MAC

Each MAC is HMAC-SHA256 with the run's secret over a label, the sender's role, the protocol version, the run id, the
node, both nonces and the fields that the message carries, each with its length before it. So no message of one
connection, role, run or node is ever valid for another. The secret itself is never sent. Each side answers one message
in its turn, once; anything else ends the connection.

From then on each frame ends with a MAC over its number and its bytes, with a key for its direction that depends on both
messages. Nothing is encrypted. (TLS with a pre-shared key would do both, but Python has it since 3.13 only.)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from muster.protocol.frames import TAG, VERSION, Refused, encode_frame

AGENT, CONTROLLER = "agent", "controller"

_NUMBER = struct.Struct("!Q")
_NONCE = 32


def new_nonce() -> str:
    """Return a new random nonce."""
    return os.urandom(_NONCE).hex()


class Terms(NamedTuple):
    """The data that both ends know before they connect."""

    secret: str
    run_id: str


class Response(NamedTuple):
    """An agent's message."""

    node: int
    nonce: str
    incarnation: str
    """The controller it was last connected to; empty for none."""
    heard: int
    """Number of frames it has received from that controller."""


class Welcome(NamedTuple):
    """A controller's message."""

    incarnation: str
    heard: int


class Seal:
    """Makes and checks the MACs of the frames in one direction, in order."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)
        self._next = 0

    def tag(self, frame: bytes | memoryview) -> bytes:
        """Return the MAC of the next frame."""
        mac = self._keyed.copy()
        mac.update(_NUMBER.pack(self._next))
        mac.update(frame)
        self._next += 1
        return mac.digest()[:TAG]

    def check(self, frame: bytes | memoryview, tag: bytes) -> None:
        """Raise `Refused` unless `tag` is the MAC of the next frame."""
        if not hmac.compare_digest(self.tag(frame), tag):
            raise Refused("wrong MAC")


class Seals(NamedTuple):
    """The seals of one end of a connection."""

    out: Seal
    into: Seal


class ControllerSide:
    """The controller's side of one connection."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self._nonce = terms, new_nonce()
        self._response: tuple[Response, bytes] | None = None

    def challenge(self) -> bytes:
        """Return the first frame."""
        return encode_frame("challenge", version=VERSION, nonce=self._nonce)

    def hear(self, fields: Mapping[str, Any]) -> Response:
        """Check the agent's message and return it. Raises `Refused`."""
        if self._response is not None:
            raise Refused("unexpected second response")
        _expect(fields, "response")
        response = Response(
            _number(fields, "node"), _nonce(fields), _text(fields, "incarnation"), _number(fields, "heard")
        )
        mac = _response_mac(self.terms, response, self._nonce)
        if not hmac.compare_digest(_mac(fields), mac):
            raise Refused("authentication failed: wrong secret")
        self._response = response, mac
        return response

    def welcome(self, incarnation: str, heard: int) -> tuple[bytes, Seals]:
        """Return the answer to a successful `hear`, and the seals of the following frames."""
        assert self._response is not None
        response, response_mac = self._response
        mac = _welcome_mac(self.terms, response, self._nonce, response_mac, Welcome(incarnation, heard))
        keys = _keys(self.terms, response_mac, mac)
        return encode_frame("welcome", incarnation=incarnation, heard=heard, mac=mac.hex()), Seals(
            keys[CONTROLLER], keys[AGENT]
        )


class AgentSide:
    """The agent's side of one connection."""

    def __init__(self, terms: Terms, node: int, incarnation: str, heard: int) -> None:
        self.terms, self._response = terms, Response(node, new_nonce(), incarnation, heard)
        self._said: tuple[str, bytes] | None = None

    def answer(self, fields: Mapping[str, Any]) -> bytes:
        """Return the proof of the secret, for the sender of the challenge, once. Raises `Refused`."""
        if self._said is not None:
            raise Refused("unexpected second challenge")
        _expect(fields, "challenge")
        if fields.get("version") != VERSION:
            raise Refused(f"unsupported protocol version {fields.get('version')!r}")
        nonce = _nonce(fields)
        mac = _response_mac(self.terms, self._response, nonce)
        self._said = nonce, mac
        return encode_frame("response", **self._response._asdict(), mac=mac.hex())

    def hear(self, fields: Mapping[str, Any]) -> tuple[Welcome, Seals]:
        """Check the controller's answer; return it with the seals of the following frames. Raises `Refused`."""
        if self._said is None:
            raise Refused("welcome before the challenge")
        _expect(fields, "welcome")
        nonce, response_mac = self._said
        welcome = Welcome(_text(fields, "incarnation"), _number(fields, "heard"))
        mac = _welcome_mac(self.terms, self._response, nonce, response_mac, welcome)
        if not hmac.compare_digest(_mac(fields), mac):
            raise Refused("authentication failed: wrong secret")
        keys = _keys(self.terms, response_mac, mac)
        return welcome, Seals(keys[AGENT], keys[CONTROLLER])


# ---- the MACs -------------------------------------------------------------------------------------------------------


def _digest(terms: Terms, label: str, role: str, *fields: str | int | bytes) -> bytes:
    mac = hmac.new(terms.secret.encode(), digestmod=hashlib.sha256)
    for field in (label, role, VERSION, terms.run_id, *fields):
        data = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogatepass")
        mac.update(_NUMBER.pack(len(data)))
        mac.update(data)
    return mac.digest()


def _response_mac(terms: Terms, response: Response, nonce: str) -> bytes:
    return _digest(
        terms, "muster response", AGENT, response.node, nonce, response.nonce, response.incarnation, response.heard
    )


def _welcome_mac(terms: Terms, response: Response, nonce: str, response_mac: bytes, welcome: Welcome) -> bytes:
    both = (response.node, nonce, response.nonce, response_mac)
    return _digest(terms, "muster welcome", CONTROLLER, *both, welcome.incarnation, welcome.heard)


def _keys(terms: Terms, response_mac: bytes, welcome_mac: bytes) -> dict[str, Seal]:
    """Return the seals by sender."""
    return {
        role: Seal(_digest(terms, "muster frames", role, response_mac, welcome_mac)) for role in (AGENT, CONTROLLER)
    }


# ---- fields of messages from untrusted senders ----------------------------------------------------------------------


def _expect(fields: Mapping[str, Any], kind: str) -> None:
    if fields["kind"] != kind:
        raise Refused(f"expected {kind}")


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise Refused(f"`{name}` is not a number")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > 2 * _NONCE:
        raise Refused(f"`{name}` is not a string")
    return value


def _bytes(fields: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(fields, name))
    except ValueError:
        raise Refused(f"`{name}` is not hexadecimal") from None


def _nonce(fields: Mapping[str, Any]) -> str:
    found = _bytes(fields, "nonce")
    if len(found) != _NONCE:
        raise Refused("invalid nonce")
    return found.hex()


def _mac(fields: Mapping[str, Any]) -> bytes:
    return _bytes(fields, "mac")
