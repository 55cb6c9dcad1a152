"""The parent of an agent, which ends and removes what the agent leaves when it is killed.

Processes that ranks started outlive them, and often only their ancestry shows whose they are. So there must be a
subreaper above the agent. It cannot be the process that starts a run: that may be any program, whose own children must
neither be taken from init nor be killed.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from muster.linux import private_tmp, processes


def guard_from_here() -> None:
    """Continue in a child, which its parent guards until it exits.

    If no process can be created, continue unguarded: no rank can start either then, and that is reported.
    """
    try:
        agent = processes.fork()
    except OSError:
        return
    if agent:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)  # the connection is the agent's
        guard(agent)


def guard(agent: int, spared: str = "", after_success: bool = True) -> NoReturn:
    """Wait for the agent, a child of this process, to exit; remove what it left, and exit the same way.

    Processes with `spared` on their command line survive. Without `after_success` all do, unless the agent failed.
    """
    os.closerange(3, 1 << 16)
    signal.set_wakeup_fd(-1)
    for number in processes.CATCHABLE:
        signal.signal(number, signal.SIG_IGN)  # nothing is started here that would inherit it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    processes.become_subreaper()
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == agent:
            break
    if status or after_success:
        family = processes.descendants(os.getpid())
        processes.kill_descendants(
            os.getpid(), [pid for pid in family if spared and os.fsencode(spared) in processes.words_of(pid)]
        )
    if status:
        private_tmp.sweep(os.environ)  # a process that was killed has removed nothing
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _end_by(number: int) -> None:
    """Exit by the same signal, so that the parent of this process sees how the agent ended."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
