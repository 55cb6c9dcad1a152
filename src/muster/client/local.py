"""What this machine knows by itself of a run: whose it is, and whether its processes are here."""

from __future__ import annotations

import os
import socket
from functools import partial

from muster.linux import procfs
from muster.protocol import local_sockets
from muster.rundir.run import Run

PATIENCE = 5.0
"""Seconds in which an agent must answer."""


def is_anothers(run: Run) -> bool:
    """The run is another user's, and this is root.

    That user can write anything into the directory at any moment, links too. So root reads it field by field,
    writes nothing there, asks no host and no scheduler in that user's name, and believes no socket but that user's.
    """
    return run.uid != os.getuid()


def answers(run: Run) -> bool:
    """Its agent, or its supervisor, is here: whatever its files say, it runs."""
    return agent_listens(run) or local_sockets.listens(
        partial(local_sockets.find, str(run.path), local_sockets.SUPERVISOR)
    )


def agent_listens(run: Run) -> bool:
    """Its agent is here, even if it takes no connection."""
    return local_sockets.listens(partial(local_sockets.find, str(run.path), local_sockets.AGENT))


def starter_lives(run: Run) -> bool:
    """The process that job.json names lives, and is not stopped (Ctrl-Z) while its agent has ended the ranks."""
    job = run.job
    lives = procfs.still_lives(job.get("pid", 0), job.get("pid_started", ""))
    return lives and (is_anothers(run) or not _stopped_after_its_ranks(run, job["pid"]))


def _stopped_after_its_ranks(run: Run, pid: int) -> bool:
    """The agent has ended the ranks, and muster is stopped (Ctrl-Z), so it does not take note of that."""
    found = procfs.stat(pid)
    return found is not None and found.state in ("T", "t") and any(run.path.glob("node_*/ended.json"))


def agent_of(run: Run) -> socket.socket | None:
    """A connection to the agent of a run here; raises TimeoutError when there is one that takes none."""
    link = local_sockets.find(str(run.path), local_sockets.AGENT)
    if link is not None:
        link.settimeout(PATIENCE)
    return link
