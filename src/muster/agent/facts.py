"""Facts that an agent reports about its machine before there is a plan, and its attempts to reach node 0."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import time
from collections.abc import Iterable
from typing import Any

from muster.linux import hardware, private_tmp, processes, procfs
from muster.linux.processes import NO_ROOM
from muster.protocol import paths

_FLAG = "here"


def collect_facts(cwd: str, script: str, run_dir: str) -> dict[str, Any]:
    """Return the facts about this machine that planning needs.

    `cwd` is where ranks start, `script` is read if it is a path, `run_dir` is the controller's run directory: `shared`
    is True if it is the same directory here.
    """
    shared = sees_marker(run_dir)
    home = paths.muster_home(os.environ)
    return {
        "host": socket.gethostname(),
        "boot": procfs.boot_id(),
        **hardware.cheap_facts(os.environ),
        "gpus": hardware.gpus(os.environ),
        "reached_at": os.environ.get("SSH_CONNECTION", "   ").split(" ")[2],
        "cwd": os.path.isdir(cwd),
        "script": file_digest(os.path.join(cwd, script)) if script else "",
        "shared": shared,
        "home": home,
        **(storage_error(home) if not shared else {"unwritable": "", "full": False}),
        "temporary": private_tmp.bases(os.environ),
    }


def storage_error(home: str) -> dict[str, Any]:
    """Return whether runs of this node can be kept in this home.

    `unwritable` is the reason why not, empty if they can; `full` is True if there is no space.
    """
    folder, full, why = os.path.join(home, "runs"), False, ""
    try:
        processes.make_private(folder)
        for place in (home, folder):
            shared = processes.why_shared(place)
            if shared:
                why = why or f"directory {place} is not private: {shared}"
        if not why:
            processes.try_to_write(folder)
    except OSError as error:
        why, full = f"cannot write to {folder}: {processes.reason(error)}", error.errno in NO_ROOM
    return {"unwritable": why, "full": full}


def file_digest(path: str) -> str:
    """Return a digest of the content of a file; empty if it is unreadable."""
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def write_marker(run_dir: str) -> None:
    """Write the marker file by which other nodes detect whether they share this directory."""
    processes.make_private(run_dir)
    with open(os.path.join(run_dir, _FLAG), "w"):
        pass


def sees_marker(run_dir: str) -> bool:
    """Return True if the marker file, perhaps written on another node, is in this directory."""
    return os.path.exists(os.path.join(run_dir, _FLAG))


def open_probe_port() -> socket.socket:
    """Open a port to which other nodes try to connect; the kernel completes connections without an accept."""
    return hardware.listen()


def probe_addresses(addresses: Iterable[str], port: int, patience: float) -> dict[str, dict[str, str]]:
    """Try to connect to all addresses: {address: {"from": own address, "interface"} or {"error"}}.

    `patience` is in seconds.
    """
    found: dict[str, dict[str, str]] = {}
    waiting: dict[socket.socket, str] = {}
    for address in addresses:
        try:
            trial = hardware.tcp_socket(address)
        except OSError as error:  # no IPv6 here
            found[address] = {"error": error.strerror or str(error)}
            continue
        trial.setblocking(False)
        result = trial.connect_ex((address, port))
        if result in (0, errno.EINPROGRESS):
            waiting[trial] = address
        else:
            found[address] = {"error": os.strerror(result)}
            trial.close()
    names = {own: name for name, own in hardware.interfaces()}
    deadline = time.monotonic() + patience
    while waiting and time.monotonic() < deadline:
        for trial in select.select([], list(waiting), [], max(0.0, deadline - time.monotonic()))[1]:
            address, failed = waiting.pop(trial), trial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                found[address] = {"error": os.strerror(failed)}
            else:
                own = trial.getsockname()[0]
                found[address] = {
                    "from": own,
                    "interface": names.get(own, "lo" if own.startswith(("127.", "::1")) else ""),
                }
            trial.close()
    for trial, address in waiting.items():
        found[address] = {"error": f"no answer within {patience:g}s"}
        trial.close()
    return found
