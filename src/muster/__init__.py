"""muster: one unchanged training script, on any machines, by any launcher."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`muster.detect_rank()` tells who a process is under any launcher, and imports no torch."""
    if name == "detect_rank":
        from muster.agent.rank_info import detect

        return detect
    raise AttributeError(f"module 'muster' has no attribute {name!r}")
