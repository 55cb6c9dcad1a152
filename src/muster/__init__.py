"""muster: run an unchanged distributed training script on any hosts, with any launcher."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Provide `muster.detect_rank`, which returns this process's rank under any launcher, without importing torch."""
    if name == "detect_rank":
        from muster.agent.rank_info import detect

        return detect
    raise AttributeError(f"module 'muster' has no attribute {name!r}")
