"""The program that a command sends to a host for one call: it reads the name of the call, runs it, and exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from muster.agent import proxy
from muster.protocol.frames import MAGIC, read_call


def _clean(dry: bool, environments: Sequence[str] | None = None) -> None:
    from muster.agent.orphans import clean  # imported late: the other calls do not need it

    clean(dry, environments)


CALLS: Mapping[str, Callable[..., None]] = {
    "visit": proxy.visit,
    "introduce": proxy.introduce,
    "clean": _clean,
}


def main(stdin: BinaryIO) -> None:
    """Run the call that the message `call` after the text of this program names."""
    name, args = read_call(stdin)
    proxy.survive()
    proxy.write_all(1, MAGIC)
    CALLS[name](**args)
