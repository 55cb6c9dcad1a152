"""Parser for the messages of a run as `MUSTER_TRACE=1` prints them."""

from __future__ import annotations

import re
from pathlib import Path


def traced(run: Path) -> str:
    """Return all trace lines of a run, from its controller, commands and agents."""
    return "".join(path.read_text() for path in (*run.glob("trace.log"), *run.glob("node_*/trace.log")))


def kinds(text: str) -> set[tuple[str, str]]:
    """Return (sender and receiver, kind) of each line."""
    end = "(controller|agent|client|proxy|shim|fork server)(?: [a-z0-9]+)?"
    found = re.findall(rf"^\d\d:\d\d:\d\d\.\d{{3}} {end} > {end}: (\S+)", text, re.MULTILINE)
    assert len(found) == len(text.splitlines()), text
    return {(f"{sender} > {receiver}", kind) for sender, receiver, kind in found}


def unknown(text: str) -> list[str]:
    """Return lines with anything that is not in the catalogue, or has another type."""
    return [line for line in text.splitlines() if re.search(r" \?\w|=\?", line)]
