"""Requests to a fork server, and the files that are sent with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from muster.agent.forkserver import HookedPython
from muster.agent.hook.fork_server import ForkServer


def test_each_request_has_the_files_that_were_sent_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests are read at once, of which only the second one has a file: the server had been stopped."""
    ours, theirs = socket.socketpair()
    seen: list[tuple[list[str], list[int]]] = []

    def fork(order: Mapping[str, Any], agent: socket.socket, passed: list[int]) -> bool:
        seen.append((list(order["children"]), [os.fstat(fd).st_ino for fd in passed]))
        if len(seen) == 2:
            agent.close()  # as a rank does
        return len(seen) == 2

    requests = HookedPython()
    monkeypatch.setattr(requests, "sock", ours, raising=False)
    server = ForkServer.__new__(ForkServer)
    monkeypatch.setattr(server, "fd", theirs.fileno(), raising=False)
    monkeypatch.setattr(server, "fork_via_intermediate", fork)
    with open(os.devnull) as file:
        requests.request_fork({"0": {}})
        requests.request_fork({"store": {}}, [file.fileno()])
        server.serve()
        assert seen == [(["0"], []), (["store"], [os.fstat(file.fileno()).st_ino])]
    ours.close()
    theirs.close()
