"""A controller lives as long as its run: it may be of an earlier version of muster than the command that asks it."""

from __future__ import annotations

from muster.protocol.frames import OLDEST, VERSION
from muster.protocol.messages import Message

UNTOLD = 3
"""The version of a controller or an agent that tells of none: they do since version 4."""

HINT = "use the version of muster that started the run"


def lacks(version: int, message: Message | None = None) -> str:
    """Why one that speaks this version cannot be talked to, or not be sent this message; empty when it can."""
    if version < OLDEST:
        return f"it speaks version {version} of the protocol, and this muster speaks versions {OLDEST} to {VERSION}"
    if message is not None and message.since > version:
        return f"it speaks version {version} of the protocol, which has no `{message.kind}`"
    return ""
