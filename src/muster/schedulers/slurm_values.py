"""Slurm's formats of node lists, numbers, GPUs and times."""

from __future__ import annotations

import re
from datetime import datetime

from muster.core.hostlist import parse_nodelist

SEPARATOR = "|"
"""Field separator requested from squeue and sinfo."""


def unfold_nodes(text: str) -> list[str]:
    """Return the nodes in one of Slurm's node lists. Raises `InvalidRequest`."""
    return parse_nodelist(text, "Slurm's list of nodes")


def seconds_of(limit: str) -> float | None:
    """Return a time limit in seconds: `90` (minutes), `5:30`, `4:00:00`, `2-12`, `2-12:30:00`; otherwise None."""
    found = re.fullmatch("(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", limit.strip())
    if found is None:
        return None
    days, numbers = found[1], [int(number) for number in found.groups()[1:] if number is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return int(days) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
    return hours * 3600.0 + minutes * 60 + seconds


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
