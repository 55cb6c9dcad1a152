"""A run seen from another terminal: is it still there, and what to ask of it."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from muster.agent.protocol import Unpacker, pack, socket_name
from muster.errors import RunFailed
from muster.runs import Run
from muster.world.here import identity

PATIENCE = 5.0
"""Seconds in which an agent must answer."""


def state(run: Run) -> str:
    """`running`, how it ended, `lost` (it ended and nobody wrote how), or `unknown`. No answer is never `running`."""
    outcome = run.outcome
    if outcome is not None:
        return outcome.state
    job, here = run.job, identity()
    if job.get("host") != here["host"]:
        return "unknown"
    if job.get("boot") != here["boot"]:
        return "lost"
    link = _reach(run)
    if link is not None:
        link.close()
        return "running"
    if process_lives(job.get("pid", 0), job.get("pid_started", "")) and not _stopped_after_its_ranks(run, job["pid"]):
        return "running"
    # it may have ended since we looked
    outcome = run.outcome
    return "lost" if outcome is None else outcome.state


def _stopped_after_its_ranks(run: Run, pid: int) -> bool:
    """The agent has ended the ranks, and muster is stopped (Ctrl-Z), so it does not take note of that."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state in (b"T", b"t") and any(run.path.glob("node_*/ended.json"))


def why(run: Run, state: str) -> str:
    """What is behind `lost` and `unknown`."""
    if state == "unknown":
        return f"it was started on {run.job.get('host')}; ask there"
    if state != "lost":
        return ""
    if run.job.get("boot") != identity()["boot"]:
        return "the machine was restarted while it ran"
    for path in run.path.glob("node_*/ended.json"):
        ended = run.read(str(path.relative_to(run.path)))
        if ended:
            return f"{ended['why']}, and its agent ended the ranks"
    return "muster and its agent were killed, or the disk was full"


def process_lives(pid: int, started: str) -> bool:
    """The process of this number is still the one that started at this time (field 22 of its stat)."""
    return bool(started) and process_started(pid) == started


def process_started(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in b"ZX" else fields[19].decode()


def _reach(run: Run) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(PATIENCE)
    try:
        link.connect(socket_name(os.getuid(), run.id, 0))
    except OSError:
        link.close()
        return None
    return link


def ask(run: Run, kind: str, **fields: Any) -> dict[str, Any]:
    """Ask the agent of a run for something, and give its answer. Raises `RunFailed` when none comes."""
    link = _reach(run)
    if link is None:
        raise RunFailed(f"{run.id} does not answer: it is not running here", "`muster ps` tells")
    with link:
        link.sendall(pack(kind, **fields))
        frames = Unpacker()
        while True:
            try:
                data = link.recv(1 << 16)
            except OSError:
                raise RunFailed(f"the agent of {run.id} does not answer", "look at agent.log in its folder") from None
            if not data:
                return {}
            for answer, _ in frames.feed(data):
                return answer


def wait(run: Run, timeout: float | None = None) -> str:
    """Wait until a run has ended, for at most `timeout` seconds; gives its state then."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.01
    while True:
        now = state(run)
        if now != "running" or (deadline is not None and time.monotonic() >= deadline):
            return now
        time.sleep(pause)
        pause = min(0.25, pause * 1.5)
