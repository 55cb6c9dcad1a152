"""What this machine knows about a run: its owner, and whether its processes are here."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from muster.linux import procfs
from muster.rundir.run import Run

if TYPE_CHECKING:
    import socket

PATIENCE = 5.0
"""Seconds for an agent to answer."""


def is_anothers(run: Run) -> bool:
    """Return whether the run belongs to another user, and this is root.

    That user can write anything into the directory at any moment, including links. So root reads it field by field,
    writes nothing there, contacts no host or scheduler on that user's behalf, and trusts no socket except that user's.
    """
    return run.uid != os.getuid()


def answers(run: Run) -> bool:
    """Return whether its agent or controller is here: then it runs, whatever its files say."""
    from muster.protocol import local_sockets  # imported late, also below: about most runs nothing has to be asked

    return agent_listens(run) or local_sockets.listens(
        partial(local_sockets.find, str(run.path), local_sockets.SUPERVISOR)
    )


def agent_listens(run: Run) -> bool:
    """Return whether its agent is here, even if it accepts no connection."""
    from muster.protocol import local_sockets

    return local_sockets.listens(partial(local_sockets.find, str(run.path), local_sockets.AGENT))


def starter_lives(run: Run) -> bool:
    """Return whether the starting process is alive, and not stopped (Ctrl-Z) after its agent killed the ranks."""
    job = run.job
    lives = procfs.still_lives(job.get("pid", 0), job.get("pid_started", ""))
    return lives and (is_anothers(run) or not _stopped_after_its_ranks(run, job["pid"]))


def may_start_its_agent(run: Run) -> bool:
    """Return whether the starting process is alive, and its agent has not ended: then it may not listen yet."""
    return starter_lives(run) and run.outcome is None and not any(run.path.glob("node_*/ended.json"))


def _stopped_after_its_ranks(run: Run, pid: int) -> bool:
    """Return whether muster is stopped (Ctrl-Z) and has therefore not noticed that the agent killed the ranks."""
    found = procfs.stat(pid)
    return found is not None and found.state in ("T", "t") and any(run.path.glob("node_*/ended.json"))


def agent_of(run: Run) -> socket.socket | None:
    """Return a connection to a run's local agent; None without one. Raises TimeoutError if it accepts no connection."""
    from muster.protocol import local_sockets

    link = local_sockets.find(str(run.path), local_sockets.AGENT)
    if link is not None:
        link.settimeout(PATIENCE)
    return link
