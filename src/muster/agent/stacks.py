"""Python stacks of ranks: requested by a signal, and read from the file to which `faulthandler` writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from muster.linux import processes
from muster.protocol.paths import rank_file

WITHIN = 2.0
"""Seconds within which a rank must write its stacks."""

_PAUSE = 0.05
"""Seconds between checks of these files."""


def collect(
    pids: Mapping[int, int],
    folder: str,
    after: Callable[[float, Callable[[], object]], object],
    tell: Callable[[dict[int, str], dict[int, int]], object],
) -> None:
    """Request stacks from ranks, `pids` by rank, and call `tell` once they are complete, or after `WITHIN` seconds.

    `tell` gets the texts by rank, and the pids of ranks that cannot answer. `folder` is the attempt's directory;
    `after` is a loop's.
    """
    asked, mute = _ask(pids, folder)
    before: dict[int, str] = {}
    deadline = time.monotonic() + WITHIN

    def look() -> None:
        texts = {rank: _text_from(path, size) for rank, (path, size) in asked.items()}
        if (all(texts.values()) and texts == before) or time.monotonic() > deadline:
            tell(texts, mute)
            return
        before.clear()
        before.update(texts)
        after(_PAUSE, look)

    look()


def _ask(pids: Mapping[int, int], folder: str) -> tuple[dict[int, tuple[str, int]], dict[int, int]]:
    """Return ({rank: its file, and the file's size before}, {rank: pid} of ranks that cannot answer)."""
    asked: dict[int, tuple[str, int]] = {}
    mute: dict[int, int] = {}
    for rank, pid in sorted(pids.items()):
        path = rank_file(folder, rank, "stack")
        try:
            size = os.stat(path).st_size if processes.has_handler(pid, processes.STACKS_SIGNAL) else None
        except OSError:  # it was deleted
            size = None
        if size is not None:
            asked[rank] = path, size
            processes.send_signal(pid, processes.STACKS_SIGNAL)
        else:
            mute[rank] = pid
    return asked, mute


def _text_from(path: str, offset: int) -> str:
    try:
        with open(path, errors="replace") as file:
            file.seek(offset)
            return file.read()
    except OSError:  # it was deleted
        return ""
