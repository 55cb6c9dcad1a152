"""Processes that runs of one user left on this machine, found by a variable in the environment they started with."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from functools import partial

from muster.agent import proxy
from muster.linux import private_tmp, processes, procfs
from muster.protocol import local_sockets

_MARK = re.compile(rb"TORCHELASTIC_RUN_ID=(\d{8}-\d{6}-[0-9a-f]{4,16}(?:-[\w.-]+)?)\Z")
"""The ID of a muster run; torchrun's own IDs look different."""

_PATIENCE = 3.0


def found() -> dict[str, list[int]]:
    """Return {run: pids} of this user, without runs that have a live agent or controller."""
    runs: dict[str, list[int]] = {}
    network = os.readlink("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid() or os.readlink(f"/proc/{name}/ns/net") != network:
                continue  # in a container, for example, whose listeners are not visible from here
            with open(f"/proc/{name}/environ", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        for word in words:
            mark = _MARK.match(word)
            if mark:
                runs.setdefault(mark.group(1).decode(), []).append(int(name))
                break
    return {run: pids for run, pids in runs.items() if not looked_after(run)}


def looked_after(run: str) -> bool:
    """Return True if a process of this user listens on a socket of that run; others may have bound such names too."""
    mark = os.fsencode(f"@muster/{os.getuid()}/{run}/")
    with open("/proc/net/unix", "rb") as file:  # others may have forged lines: each name is tried
        names = set(re.findall(re.escape(mark) + rb"[0-9a-f]{20}\n", file.read()))
    return any(
        local_sockets.listens(partial(local_sockets.connect, "\0" + os.fsdecode(name[1:-1]), os.getuid()))
        for name in names
    )


def clean(dry: bool, environments: Sequence[str] | None = None) -> None:
    """Report the leftover processes, kill them unless `dry`, and report which survived.

    `environments`: directories whose unused environments are removed, too; an empty name is the default one.
    """
    runs = found()
    pids = [pid for run in runs.values() for pid in run]
    described = {pid: processes.describe_process(pid, "?") for pid in pids}
    if not dry:
        for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _PATIENCE)):
            for pid in pids:
                processes.send_signal(pid, number)
            processes.wait_for_exits(pids, patience)
    left = [processes.describe_process(pid, "?") for pid in pids if procfs.lives(pid)] if not dry else []
    told = {run: [described[pid] for pid in numbers] for run, numbers in runs.items()}
    folders: dict[str, list[str]] = {}
    for run, path in private_tmp.left(os.environ):
        folders.setdefault(run, []).append(path)
        if not dry:
            private_tmp.remove_dead(path)
    removed = []
    for folder in environments or ():
        from muster.agent import env_store  # imported late: only with --environments

        removed += env_store.remove_old(env_store.root_of(folder, os.environ), 0.0, dry)
    proxy.send("cleaned", runs=told, folders=folders, left=left, environments=removed)
