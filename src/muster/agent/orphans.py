"""Processes that runs of one user left on this machine, found by a variable in the environment they started with, or by
the mark that they inherit."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from functools import partial

from muster.agent import proxy
from muster.linux import private_tmp, processes, procfs, run_mark
from muster.protocol import local_sockets

_MARK = re.compile(rb"TORCHELASTIC_RUN_ID=(\d{8}-\d{6}-[0-9a-f]{4,16}(?:-[\w.-]+)?)\Z")
"""The ID of a muster run; torchrun's own IDs look different."""

UNKNOWN = "unknown run"
"""What the processes are listed under whose run is not known."""

_PATIENCE = 3.0


def found() -> dict[str, list[int]]:
    """Return {run: pids} of this user, without runs that have a live agent or controller.

    Processes without the variable are found by the mark that they inherit (`run_mark.py`); their run is `UNKNOWN`,
    unless something else of it is left.
    """
    runs: dict[str, list[int]] = {}
    marked: dict[int, list[int]] = {}
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
        run = next((mark.group(1).decode() for word in words if (mark := _MARK.match(word))), "")
        if run:
            runs.setdefault(run, []).append(int(name))
        elif number := run_mark.mark_of_process(int(name)):
            marked.setdefault(number, []).append(int(name))
    # only now: a run that has begun meanwhile is alive
    names = {run_mark.mark_of_run(run): run for run in (*runs, *(run for run, _ in private_tmp.left(os.environ)))}
    alive = {run_mark.mark_of_run(run) for run in (_named_in_sockets() if marked else ()) if looked_after(run)}
    for number, pids in marked.items():
        if number not in alive:
            runs.setdefault(names.get(number, UNKNOWN), []).extend(pids)
    return {run: pids for run, pids in runs.items() if run == UNKNOWN or not looked_after(run)}


def _named_in_sockets() -> set[str]:
    """Return the runs for which a process listens on a socket, as far as its name tells: others may have bound it."""
    with open("/proc/net/unix", "rb") as file:
        names = re.findall(rb"@muster/%d/([^/\n]+)/[0-9a-f]{20}\n" % os.getuid(), file.read())
    return {os.fsdecode(name) for name in names}


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
