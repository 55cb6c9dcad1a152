"""Doctor's checks on one machine. They read and try things; a file that they write is removed again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from muster.linux import hardware, processes

_WITHIN = 8.0
"""Seconds after which a name lookup or a write is reported as hanging."""
_GPUS_WITHIN = 40.0
"""nvidia-smi first initializes each GPU if nothing keeps the driver loaded."""
_IMPORT_WITHIN = 100.0
_AT_ONCE = 8
"""Number of names looked up concurrently: with more, they would slow each other down."""
_SLOW = 0.05
"""Seconds after which a lookup is repeated: the first one may have waited for something else, such as a free core."""
_TRIES = 6
"""Maximum number of lookups of a name."""

_TORCH = """
import json, time
began = time.monotonic()
import torch
took = time.monotonic() - began
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
nccl = torch.cuda.nccl.version() if gpus else None
told = {"version": torch.__version__, "cuda": torch.version.cuda, "nccl": nccl, "gpus": gpus, "seconds": took}
print(json.dumps(told))
"""


def probe(names: Iterable[str], folders: Iterable[str]) -> dict[str, Any]:
    """Return what `facts.collect_facts` does not report.

    `names` are hosts of the run, `folders` directories of the ranks.
    """
    found: dict[str, Any] = {
        "wall": time.time(),
        "at": time.monotonic(),
        "mtus": {name: _mtu(name) for name, _ in hardware.interfaces()},
        "infiniband": os.listdir("/sys/class/infiniband") if os.path.isdir("/sys/class/infiniband") else [],
        "kills_user_processes": _kills_user_processes(),
    }
    # this name cannot exist, and a server rejects it at once
    own, nobody = socket.gethostname(), "nobody.invalid"
    looked: dict[str, Any] = {}
    waiting = list(dict.fromkeys([own, nobody, *names]))
    while waiting:
        now, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        looked.update(_at_once({name: partial(_look_up_again, name) for name in now}, _WITHIN))
    found.update(own=looked[own], nobody=looked[nobody], names={name: looked[name] for name in names})
    found["folders"] = _at_once({path: partial(_folder, path) for path in folders}, _WITHIN)
    found.update(_at_once({"torch": _torch, "smi": _smi}, 2 * _IMPORT_WITHIN + _WITHIN))
    return found


def _at_once(jobs: dict[str, Callable[[], Any]], within: float) -> dict[str, Any]:
    """Run all jobs concurrently; one that does not return in time gives `{"hangs": seconds}`."""
    found: dict[str, Any] = {}

    def do(name: str, job: Callable[[], Any]) -> None:
        try:
            found[name] = job()
        except subprocess.TimeoutExpired as error:
            found[name] = {"hangs": error.timeout}
        except Exception as error:
            found[name] = {"error": processes.reason_at(error)}

    threads = {name: threading.Thread(target=do, args=(name, job), daemon=True) for name, job in jobs.items()}
    for thread in threads.values():
        thread.start()
    began = time.monotonic()
    for thread in threads.values():
        thread.join(max(0.0, began + within - time.monotonic()))
    return {name: found.get(name, {"hangs": time.monotonic() - began}) for name in jobs}


def _look_up_again(name: str) -> dict[str, Any]:
    """Look up a name, and repeat that while it is slow: return the fastest answer."""
    best, began = _look_up(name), time.monotonic()
    for _ in range(_TRIES - 1):
        if not _SLOW < best["seconds"] < _WITHIN / 4 or time.monotonic() - began > _WITHIN / 4:
            break
        best = min(best, _look_up(name), key=lambda told: told["seconds"])
    return best


def _look_up(name: str) -> dict[str, Any]:
    """Look up a name, and its first address in reverse."""
    began = time.monotonic()
    try:
        addresses = _addresses(name)
    except OSError as error:
        return {"error": processes.reason(error), "seconds": time.monotonic() - began}
    forward = time.monotonic() - began
    back = ""
    try:
        back = socket.gethostbyaddr(addresses[0])[0]
    except OSError:
        pass
    took = time.monotonic() - began
    return {"addresses": addresses, "back": back, "seconds": took, "forward": forward}


def _addresses(name: str) -> list[str]:
    """Return the addresses of a name: IPv4, or IPv6 if it has no other."""
    found = socket.getaddrinfo(name, None)
    return sorted(
        {str(item[4][0]) for item in found if item[0] == socket.AF_INET} or {str(item[4][0]) for item in found}
    )


def _mtu(interface: str) -> int:
    text = hardware.read(f"/sys/class/net/{interface}/mtu").strip()
    return int(text) if text.isdecimal() else 0


def _folder(path: str) -> dict[str, Any]:
    """Check whether a directory exists, has space, and is writable."""
    there = path
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    found = {**hardware.space(there), "there": there == path, "writes": True, "seconds": 0.0}
    if there != path:
        return found
    began = time.monotonic()
    try:
        processes.try_to_write(there)
    except OSError as error:
        found.update(writes=False, why=processes.reason(error), full=error.errno in processes.NO_ROOM)
    found["seconds"] = time.monotonic() - began
    return found


def _torch() -> dict[str, Any]:
    """Return the version of this Python's torch, and the import time: as it is, and repeated."""
    import json

    times, told = [], {}
    for _ in range(2):
        began = time.monotonic()
        # not here: `-c` puts the working directory first on sys.path, which may hold some json.py
        words = [sys.executable, "-c", _TORCH]
        done = subprocess.run(words, capture_output=True, text=True, timeout=_IMPORT_WITHIN, cwd="/")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["?"]
            return {"error": lines[-1]}
        times.append(time.monotonic() - began)
        told = json.loads(done.stdout.strip().splitlines()[-1])
    return {**told, "first": times[0], "again": times[1]}


def _smi() -> dict[str, Any]:
    """Return the GPUs as the driver reports them, with the memory in use; empty without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    names = ("index", "name", "uuid", "driver_version", "memory.used", "memory.total")
    asked = [program, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=_GPUS_WITHIN)
    if done.returncode:
        words = (done.stdout + done.stderr).strip().splitlines()
        return {"error": words[-1] if words else f"exit status {done.returncode}"}
    lines = [line.split(",") for line in done.stdout.splitlines() if "," in line]
    return {"gpus": [dict(zip(names, map(str.strip, line))) for line in lines]}


def _kills_user_processes() -> bool:
    """Return True if systemd-logind kills what a user leaves behind at logout, including `-d` runs."""
    folders = ("/etc/systemd/logind.conf.d", "/usr/lib/systemd/logind.conf.d", "/run/systemd/logind.conf.d")
    paths = ["/etc/systemd/logind.conf"]
    paths += [os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    lines = [line.strip().lower() for path in paths for line in hardware.read(path).splitlines()]
    said = [line.partition("=")[2].strip() for line in lines if line.startswith("killuserprocesses")]
    return bool(said) and said[-1] in ("yes", "true", "1", "on")
