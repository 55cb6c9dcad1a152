"""The processes, ports, sockets and files on the hosts of a lab, and which of them are new."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

DAEMONS = ("sshd", "slurmd", "slurmctld", "slurmstepd", "munged", "unix_chkpwd")
"""Programs of the lab, by the beginning of their executable's name: they come and go with connections and jobs."""

_PLACES = ("tmp", "var/tmp", "dev/shm")

_OF_OTHERS = re.compile(r"/tmp/(torchelastic|torchinductor)_")
"""What torchrun and torch leave by themselves, also without muster: directories for logs and for compiled code."""


class Process(NamedTuple):
    """A process of a host, as this machine sees it."""

    host: str
    pid: int
    started: str
    inner: int
    """Its pid on its host."""
    parent: int
    state: str
    name: str
    """Its name in /proc/PID/comm."""
    words: str
    """Its command line."""
    hook: bool
    """Whether it was started with the site hook of muster."""
    program: str
    """The name of its executable."""

    @property
    def lives(self) -> bool:
        """Whether it is no zombie."""
        return self.state not in "ZX"

    @property
    def is_daemon(self) -> bool:
        """Whether it belongs to the lab."""
        return self.program.startswith(DAEMONS)

    def __str__(self) -> str:
        return f"{self.host}: process {self.inner} ({self.state}) {self.words[:150] or self.name}"


def _read(path: str) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def processes(living: Mapping[str, int]) -> list[Process]:
    """Return all processes of the hosts, given their init processes, which are not among them."""
    hosts: dict[str, str] = {}
    for host, init in living.items():
        with suppress(OSError):
            hosts[os.readlink(f"/proc/{init}/ns/pid")] = host
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in living.values():
            continue
        try:
            at = hosts.get(os.readlink(f"/proc/{entry}/ns/pid"))
        except OSError:
            continue
        one = _process(at, int(entry)) if at is not None else None
        found += [one] if one is not None else []
    return found


def _process(host: str, pid: int) -> Process | None:
    name, _, rest = _read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")
    fields = rest.split()
    if not fields:
        return None
    inner = re.search(rb"^NSpid:.*?(\d+)$", _read(f"/proc/{pid}/status"), re.M)
    program = ""
    with suppress(OSError):
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    return Process(
        host,
        pid,
        fields[19],
        int(inner[1]) if inner else 0,
        int(fields[1]),
        fields[0],
        name.partition("(")[2],
        _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip(),
        b"MUSTER_HOOK=" in _read(f"/proc/{pid}/environ"),
        program,
    )


class Things(NamedTuple):
    """What is on the hosts at one moment, each with its host."""

    processes: dict[tuple[int, str], Process]
    """By pid and start time."""
    ports: frozenset[tuple[str, int]]
    """Listening TCP ports."""
    sockets: frozenset[tuple[str, str]]
    """Abstract names of local sockets."""
    files: frozenset[tuple[str, str]]
    """In temporary directories and shared memory."""


def everything(living: Mapping[str, int]) -> Things:
    """Return what is on these hosts, given their init processes."""
    ports: set[tuple[str, int]] = set()
    sockets: set[tuple[str, str]] = set()
    files: set[tuple[str, str]] = set()
    for host, init in living.items():
        for table in ("tcp", "tcp6"):
            for line in _read(f"/proc/{init}/net/{table}").decode().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    ports.add((host, int(local.rpartition(":")[2], 16)))
        for line in _read(f"/proc/{init}/net/unix").decode(errors="replace").splitlines()[1:]:
            words = line.split(None, 7)
            if len(words) == 8 and words[7].startswith("@"):
                sockets.add((host, words[7]))
        for place in _PLACES:
            with suppress(OSError):
                files |= {(host, f"/{place}/{name}") for name in os.listdir(f"/proc/{init}/root/{place}")}
    return Things(
        {(one.pid, one.started): one for one in processes(living)},
        frozenset(ports),
        frozenset(sockets),
        frozenset(files),
    )


def new(before: Things, now: Things) -> list[str]:
    """Return in words what was not there before, apart from daemons of the lab. A zombie counts: someone must reap."""
    found = [
        str(one)
        for key, one in now.processes.items()
        if key not in before.processes and not one.is_daemon and "nsenter" != one.program
    ]
    found += [f"{host}: port {port} listens" for host, port in sorted(now.ports - before.ports)]
    found += [f"{host}: local socket {name}" for host, name in sorted(now.sockets - before.sockets)]
    files = sorted(now.files - before.files)
    found += [f"{host}: file {path}" for host, path in files if not _OF_OTHERS.match(path)]
    return found
