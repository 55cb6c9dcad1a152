"""Slurm's formats of node lists, numbers, GPUs and points in time."""

from __future__ import annotations

import re
from datetime import datetime

from muster.core.hostlist import parse_nodelist

SEPARATOR = "|"
"""Field separator requested from squeue and sinfo."""


def unfold_nodes(text: str) -> list[str]:
    """Return the nodes in one of Slurm's node lists. Raises `InvalidRequest`."""
    return parse_nodelist(text, "Slurm's list of nodes")


def time_of(text: str) -> float | None:
    """Return a local time such as `2026-11-27T00:05:09` in seconds since 1970; None for `Unknown` and the like."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp()
    except (ValueError, OverflowError):
        return None


def number_of(text: str) -> int:
    """Return the number at the start of a field, `8` from `8+`; 0 for `N/A` or an empty field."""
    found = re.match(r"[0-9]{1,18}", text.strip())
    return int(found[0]) if found else 0


def gpus_of(gres: str) -> dict[str, int]:
    """Return the number of GPUs by type: `gpu:3090:4(S:0-1),gpu:2`."""
    found: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *fields = item.strip().split(":")
        if name != "gpu":
            continue
        count = number_of(fields.pop()) if fields and fields[-1][:1].isdigit() else 1
        kind = ":".join(fields)
        found[kind] = found.get(kind, 0) + count
    return found
