"""The parent of an agent: what the agent leaves when it is killed falls to it, and it ends that.

What ranks have started outlives them, and perhaps nothing but this descent tells whose it is. So somebody has to be a
subreaper above the agent. That is not the process that starts a run: it may be any program, whose own children must
neither be taken from init nor be ended.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from muster.linux import processes


def guard_from_here() -> None:
    """Go on in a child, whose parent guards it until it ends. Where there can be no more processes, go on unguarded:
    then no rank can start either, and that is told."""
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
    """Wait for the end of the agent, a child of this process; end what it has left, and end as it has ended.

    Processes with `spared` on their command line live on. Without `after_success` all do, unless the agent has failed.
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
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _end_by(number: int) -> None:
    """End of the same signal: whoever waits for this process is told how the agent ended."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
