"""Encryption of a message with a secret that both ends share, for what must not cross a network in plain text.

Frames between agents and a controller are authenticated and not encrypted. The environment of a run on a session is
the one thing that has to cross the network after the connections of ssh have ended.

The key stream is SHAKE-256 of a key and a random nonce, and the whole has an HMAC-SHA256 (encrypt, then authenticate).
The keys are derived from the secret under labels of their own. Python's standard library has no cipher.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from muster.protocol.frames import Refused

_NONCE, _TAG = 32, 32


def _key(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), f"muster sealed message: {purpose}".encode(), hashlib.sha256).digest()


def _combined(secret: str, nonce: bytes, data: bytes) -> bytes:
    """Return the data XORed with the key stream, which encrypts and decrypts."""
    stream = hashlib.shake_256(_key(secret, "encrypt") + nonce).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def _tag(secret: str, data: bytes) -> bytes:
    return hmac.new(_key(secret, "authenticate"), data, hashlib.sha256).digest()


def sealed(secret: str, data: bytes) -> bytes:
    """Return the data encrypted and authenticated."""
    nonce = os.urandom(_NONCE)
    body = nonce + _combined(secret, nonce, data)
    return body + _tag(secret, body)


def unsealed(secret: str, data: bytes) -> bytes:
    """Return what `sealed` was given. Raises `Refused` if it was changed, or sealed with another secret."""
    body, tag = data[:-_TAG], data[-_TAG:]
    if len(data) < _NONCE + _TAG or not hmac.compare_digest(tag, _tag(secret, body)):
        raise Refused("a sealed message was changed, or is of another run")
    return _combined(secret, body[:_NONCE], body[_NONCE:])
