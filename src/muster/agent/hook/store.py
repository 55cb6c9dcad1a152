"""The store process of an attempt."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def keep_store(fd: int, host: str, port: int) -> None:
    """Serve the store of one attempt on the agent's listening socket, until the agent ends this process."""
    import importlib
    import signal

    try:
        distributed: Any = importlib.import_module("torch.distributed")
    except ImportError:
        os._exit(3)
    if not distributed.is_available():  # torch can be built without it
        os._exit(3)
    # a scheduler without cgroups signals all descendants of a task; the store lives as long as its agent wants
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)  # a fault of its own still kills it
    store = distributed.TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=fd)
    while store:
        signal.pause()
