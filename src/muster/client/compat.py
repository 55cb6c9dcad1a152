"""Protocol compatibility: the controller of a run may be of an older muster version than the command that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.protocol.frames import OLDEST, VERSION
from muster.protocol.message_types import Message
from muster.protocol.messages import FORMER

RENAMED_IN = 5
"""The version in which kinds of messages got the names that they have now."""

UNTOLD = 3
"""Version assumed for controllers and agents that report none; all do since version 4."""

HINT = "use the version of muster that started the run"


def version_of(answer: Mapping[str, Any]) -> int:
    """Return the protocol version in a reply to `state`; 0 if it is invalid."""
    version = answer.get("version", UNTOLD)
    return version if type(version) is int else 0


def lacks(version: int, message: Message | None = None) -> str:
    """Return why a peer of this version cannot be used, or not be sent this message; empty if it can."""
    if version < OLDEST:
        return f"its protocol version is {version}, this muster supports {OLDEST} to {VERSION}"
    if message is not None and message.since > version and message.kind not in FORMER:
        return f"its protocol version is {version}, which has no `{message.kind}`"
    return ""


def sent_as(version: int, kind: str) -> str:
    """The name under which a peer that speaks this version knows a kind of message."""
    return FORMER.get(kind, kind) if version < RENAMED_IN else kind


def known_as(version: int, kind: str) -> str:
    """The present name of a kind of message that a peer of this version has sent."""
    return _PRESENT.get(kind, kind) if version < RENAMED_IN else kind


_PRESENT = {former: kind for kind, former in FORMER.items()}
