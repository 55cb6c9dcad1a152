"""The program that a command sends to a host to have one thing done there: it reads which, does that, and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO

from muster.agent import proxy
from muster.protocol.frames import MAGIC, read_call


def _clean(dry: bool) -> None:
    from muster.agent.orphans import clean  # only now: what else is called has no need of it

    clean(dry)


CALLS: Mapping[str, Callable[..., None]] = {
    "visit": proxy.visit,
    "introduce": proxy.introduce,
    "clean": _clean,
}


def main(stdin: BinaryIO) -> None:
    """Do what the message `call` says that comes after the text of this program."""
    name, args = read_call(stdin)
    proxy.survive()
    proxy.write_all(1, MAGIC)
    CALLS[name](**args)
