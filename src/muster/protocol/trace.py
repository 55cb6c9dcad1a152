"""Print the conversation of a run, for `MUSTER_TRACE=1`: one line per message.

    07:31:02.123 controller > agent n1: start attempt=0 late={3}

Each connection is traced at one of its ends: at the controller or client, and on a node at the agent. Lines go to
stderr if that is a terminal, otherwise to `trace.log` in the run directory, or on a node in that node's directory.
Tokens, secrets, arguments and values of environment variables are never printed (`message_types.Type.shown`); a `?`
marks what is not in the catalogue.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.protocol.frames import FrameDecoder

if TYPE_CHECKING:
    from muster.protocol.message_types import Message

VARIABLE = "MUSTER_TRACE"
FILE = "trace.log"

_STDERR = 2


def wanted(env: Mapping[str, str] = os.environ) -> bool:
    """Return whether the conversation should be printed."""
    return env.get(VARIABLE, "") not in ("", "0")


class Tracer:
    """Prints what one end of a connection sends and receives. `name` distinguishes peers of the same kind."""

    def __init__(self, folder: str, here: str, there: str, name: str = "") -> None:
        from muster.protocol.messages import CLIENT, PROXY, between  # imported late: most runs are not traced

        self._here, self._there, self._name = here, there, f" {name}" if name else ""
        self._sent, self._heard = between(here, there), between(there, here)
        if here == CLIENT:  # between it and a controller is the proxy
            self._heard.update(between(PROXY, CLIENT))
            self._sent.update(between(CLIENT, PROXY))
        self._fd = _STDERR
        if folder and not os.isatty(_STDERR):
            path = os.path.join(folder, FILE)
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError:
                pass  # the directory is gone, or belongs to someone else

    def __del__(self) -> None:
        if self._fd != _STDERR:
            os.close(self._fd)

    def sent(self, frames: bytes) -> None:
        """Print complete frames that were sent."""
        for fields, payload in FrameDecoder().feed(frames):
            self.says(fields, payload)

    def says(self, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Print a message that was sent."""
        message = self._sent.get(str(fields["kind"]))
        receiver = self._there if message is None else message.receiver
        self._print(f"{self._here} > {receiver}{self._name}", self._sent, fields, len(payload))

    def heard(self, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Print a message that was received."""
        message = self._heard.get(str(fields["kind"]))
        sender = self._there if message is None else message.sender
        self._print(f"{sender}{self._name} > {self._here}", self._heard, fields, len(payload))

    def _print(self, ends: str, known: Mapping[str, Message], fields: Mapping[str, Any], payload: int) -> None:
        now = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        line = f"{clock} {ends}: {in_words(known, fields)}" + (f" +{payload} bytes" if payload else "")
        try:
            os.write(self._fd, line.encode("utf-8", "replace") + b"\n")
        except OSError:
            pass  # the disk is full: the run continues


def in_words(known: Mapping[str, Message], fields: Mapping[str, Any]) -> str:
    """Return a message without what may be secret; fields not in the catalogue are marked."""
    kind = str(fields["kind"])
    message = known.get(kind)
    if message is None:
        return f"?{ascii(kind[:40])[1:-1]}"
    words = [kind]
    for name, type_ in message.fields.items():
        if name == "t":
            continue  # the send time by the agent's clock
        if name in fields:
            value = fields[name]
            words.append(f"{name}={type_.shown(value) if type_.right(value) else '?'}")
        elif type_.required:
            words.append(f"?{name}")
    words += [f"?{ascii(name[:40])[1:-1]}" for name in fields if name not in message.fields and name != "kind"]
    return " ".join(words)


def tracer(folder: str, here: str, there: str, name: str = "") -> Tracer | None:
    """Return a tracer for a connection, if tracing is enabled; otherwise None."""
    return Tracer(folder, here, there, name) if wanted() else None
