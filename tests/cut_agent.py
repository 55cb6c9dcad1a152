"""`cut_agent.py NOTES CUT VICTIMS MUSTER_ARGUMENTS...`: muster, whose agent is killed at a message.

Each message of an agent is noted in the file NOTES, as `HOST DIRECTION KIND NUMBER`: `>` before it is sent, `<` before
it is handled, `=` after that; NUMBER counts those alike. At the one that is CUT, the agent gets SIGKILL, and before it
its guard if VICTIMS is `both`. The text of the agent is changed on its way, so muster itself knows nothing of this.
"""

from __future__ import annotations

import sys

_CUTTING = """
import os as _os
from muster.protocol import channel as _channel, frames as _frames

_counts = {}
HOST = _os.uname().nodename

def _at(direction, kind):
    name = direction + " " + kind
    number = _counts[name] = _counts.get(name, -1) + 1
    name = "%s %s %d" % (HOST, name, number)
    fd = _os.open(NOTES, _os.O_WRONLY | _os.O_CREAT | _os.O_APPEND, 0o600)
    _os.write(fd, (name + "\\n").encode())
    _os.close(fd)
    if name == CUT:
        if VICTIMS == "both":
            _os.kill(_os.getppid(), 9)
        _os.kill(_os.getpid(), 9)

def _send(self, frame, real=_channel.Channel.send):
    for fields, _ in _frames.FrameDecoder().feed(frame):
        _at(">", fields["kind"])
    real(self, frame)

def _handle(self, fields, *more, real=_frames.Dispatcher.__call__):
    _at("<", fields["kind"])
    done = real(self, fields, *more)
    _at("=", fields["kind"])
    return done

_channel.Channel.send = _send
_frames.Dispatcher.__call__ = _handle
"""


if __name__ == "__main__":
    from muster.agent import bootstrap
    from muster.cli import main

    notes, cut, victims, *words = sys.argv[1:]
    values = f"NOTES, CUT, VICTIMS = {notes!r}, {cut!r}, {victims!r}\n"
    bootstrap._AGENT_ENTRY = values + _CUTTING + bootstrap._AGENT_ENTRY
    main(words)
