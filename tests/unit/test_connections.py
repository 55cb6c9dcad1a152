"""The connection to an agent: how its end is explained."""

from __future__ import annotations

import os

from muster.controller.connections import ProcessConnection


def test_the_parent_of_an_agent_may_take_a_while_to_end_what_is_left() -> None:
    """The connection has ended with the agent; its parent exits like it, once that is done."""
    ends = ProcessConnection(0, "here", ["sh", "-c", "exec >&- 2>&-; sleep 2.5; exit 9"], os.environ, "/")
    ends.guarded = True
    assert (9, "exit status 9") == ends.status()
    for file in (ends.stdin, ends.stdout, ends.stderr):
        file.close()
