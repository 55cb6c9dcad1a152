"""Starts the program that describes what runs on this node (`provenance.py`), beside the ranks, and reports the result.

Nothing waits for it: a run that ends before has no description.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from muster.agent import provenance
from muster.agent.context import NodeRun
from muster.linux import processes

_LARGEST = 4 << 20
"""Maximum size of a description in bytes."""


class Recorder:
    """The program that describes this node, while it runs."""

    def __init__(self, run: NodeRun) -> None:
        self.run = run
        self.pid: int | None = None
        """Its pid until it is collected: after that another process may have it."""
        self._data = bytearray()

    def start(self, env: Mapping[str, str], script: str, cwd: str) -> None:
        """Start it with the Python of the ranks, which is that of this agent, and with their environment."""
        if not os.path.isdir(cwd):
            return  # starting the ranks reports it
        source, text = os.pipe()
        answer, theirs = os.pipe()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.set_blocking(text, False)  # it fits into the pipe: nothing waits
            os.write(text, provenance.program().encode())
            part = "part" if self.run.node else "whole"
            words = [sys.executable, "-", script, cwd, part, str(theirs)]
            self.pid = processes.spawn(words, env, cwd, source, null, null, keep=(theirs,))
            # it does the same, but only after Python has started beside the ranks
            os.setpriority(os.PRIO_PROCESS, self.pid, 19)
        except OSError as error:
            self.run.complain(f"cannot record what runs here: {processes.reason_at(error)}")
            os.close(answer)
            return
        finally:
            for fd in (source, text, theirs, null):
                os.close(fd)
        self.run.loop.add_reader(answer, lambda: self._heard(answer))

    def _heard(self, fd: int) -> None:
        """Read more of the description, and report it when it is complete."""
        try:
            data = os.read(fd, 1 << 16)
        except OSError:
            data = b""
        self._data += data
        if data and len(self._data) <= _LARGEST:
            return
        self.run.loop.remove_reader(fd)
        os.close(fd)
        try:
            found: dict[str, Any] = json.loads(self._data)
        except ValueError:
            return  # it was killed, or this Python cannot run it
        self.run.emit("provenance", found=found)

    def ended(self, pid: int) -> None:
        """Record that it has exited and was collected."""
        if pid == self.pid:
            self.pid = None

    def end(self) -> None:
        """Kill it, with what it has started."""
        if self.pid is not None:
            processes.send_signal(self.pid, signal.SIGKILL, group=True)
            self.pid = None
