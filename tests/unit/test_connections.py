"""The connection to an agent: how its end is explained."""

from __future__ import annotations

import os
import signal

from pids import with_pid
from waiting import until

from muster.controller.connections import ProcessConnection
from muster.linux import procfs


def test_the_parent_of_an_agent_may_take_a_while_to_end_what_is_left() -> None:
    """The connection has ended with the agent; its parent exits like it, once that is done."""
    ends = ProcessConnection(0, "here", ["sh", "-c", "exec >&- 2>&-; sleep 2.5; exit 9"], os.environ, "/")
    ends.guarded = True
    assert (9, "exit status 9") == ends.status()
    for file in (ends.stdin, ends.stdout, ends.stderr):
        file.close()


def test_a_process_that_has_got_the_pid_of_an_ended_one_is_not_killed() -> None:
    """An ssh that ended at once is collected long before the others are given up."""
    ended = ProcessConnection(0, "here", ["true"], os.environ, "/")
    assert (0, "exit status 0") == ended.status()
    other = with_pid(ended.process.pid)
    ended.kill()
    if other is not None:
        os.kill(other, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(other, os.WUNTRACED)[1])
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    for file in (ended.stdin, ended.stdout, ended.stderr):
        file.close()


def test_what_an_ended_one_has_left_in_its_group_is_killed() -> None:
    ended = ProcessConnection(0, "here", ["sh", "-c", "sleep 1000 >&- 2>&- & echo $!"], os.environ, "/")
    assert (0, "exit status 0") == ended.status()
    left = int(ended.stdout.read())
    assert procfs.lives(left)
    ended.kill()
    until(lambda: not procfs.lives(left), "it is killed")
    for file in (ended.stdin, ended.stdout, ended.stderr):
        file.close()
