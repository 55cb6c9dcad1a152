"""Facts about this machine."""

from __future__ import annotations

import socket

import pytest

from muster.linux import hardware


def test_it_listens_on_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on one booted with `ipv6.disable=1`; Python itself was built with IPv6."""
    make = socket.socket

    class Socket(make):  # type: ignore[valid-type, misc]
        def __init__(self, family: int = -1, *more: int, **named: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *more, **named)

    monkeypatch.setattr(socket, "socket", Socket)
    assert not socket.has_dualstack_ipv6()
    with hardware.listen() as listener:
        assert socket.AF_INET == listener.family
