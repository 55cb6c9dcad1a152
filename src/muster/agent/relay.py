"""Carry bytes between stdin and stdout and a local socket, both ways, until one side has ended."""

from __future__ import annotations

import os
import select
import socket


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(fd, data) :]


def carry(name: str) -> None:
    """Carry between stdin and stdout and the abstract socket `name`; raises OSError when nobody listens there."""
    os.set_blocking(0, True)
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(name)
        try:
            while True:
                readable, _, _ = select.select([0, local.fileno()], [], [])
                for side in readable:
                    data = os.read(side, 1 << 16)
                    if not data:
                        return
                    if side == 0:
                        local.sendall(data)
                    else:
                        write_all(1, data)
        except OSError:
            return  # one side has gone
