"""A controller lives as long as its run: it may be of an earlier version of muster than the command that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.protocol.frames import OLDEST, VERSION
from muster.protocol.messages import FORMER, Message

RENAMED_IN = 5
"""The version in which kinds of messages got the names that they have now."""

UNTOLD = 3
"""The version of a controller or an agent that tells of none: they do since version 4."""

HINT = "use the version of muster that started the run"


def version_of(answer: Mapping[str, Any]) -> int:
    """The version of the protocol that who gave this answer to `state` speaks; 0 for what is none."""
    version = answer.get("version", UNTOLD)
    return version if type(version) is int else 0


def lacks(version: int, message: Message | None = None) -> str:
    """Why one that speaks this version cannot be talked to, or not be sent this message; empty when it can."""
    if version < OLDEST:
        return f"it speaks version {version} of the protocol, and this muster speaks versions {OLDEST} to {VERSION}"
    if message is not None and message.since > version and message.kind not in FORMER:
        return f"it speaks version {version} of the protocol, which has no `{message.kind}`"
    return ""


def sent_as(version: int, kind: str) -> str:
    """The name under which a peer that speaks this version knows a kind of message."""
    return FORMER.get(kind, kind) if version < RENAMED_IN else kind


def known_as(version: int, kind: str) -> str:
    """The present name of a kind of message that a peer of this version has sent."""
    return _PRESENT.get(kind, kind) if version < RENAMED_IN else kind


_PRESENT = {former: kind for kind, former in FORMER.items()}
