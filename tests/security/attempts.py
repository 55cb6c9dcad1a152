"""What another user of a host tries against a run of somebody else.

`python attempts.py LISTS RUN HOME PORTS WORDS…`: LISTS are names of functions below, or `all`; RUN is the id of the
run; HOME the directory of runs; PORTS those that its processes listen on; WORDS start muster. It prints a line of JSON:
how often each was tried, and what was gained.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

lists, run_id, home, ports, *muster = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, NR_PIDFD_OPEN, NR_PIDFD_GETFD = 16, 434, 438
Tries = Iterator[tuple[str, Callable[[], Any]]]
"""What is tried on, and the attempt: it raises OSError, or returns nothing, if nothing was gained."""


def processes() -> list[int]:
    """Return the processes of other users that have to do with the run, as far as they can be seen."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes()
            if os.stat(f"/proc/{name}").st_uid != os.getuid() and re.search(rb"muster|script\.py|-I\0-S\0-c", words):
                found.append(int(name))
        except OSError:
            continue
    return found


def names() -> list[str]:
    """Return the names of abstract sockets of runs."""
    return sorted(set(re.findall(r"@(muster/\S+)$", Path("/proc/net/unix").read_text(), re.MULTILINE)))


def frame(**fields: Any) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("!II", len(text), 0) + text


def ask(family: int, where: Any, data: bytes) -> bytes:
    """Return what a listener answers, apart from the challenge that everybody gets."""
    with socket.socket(family) as sock:
        sock.settimeout(3)
        sock.connect(where)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(1 << 16):
            answer += piece
    return b"" if answer.count(b'"kind"') == 1 and b'"challenge"' in answer else answer


def done(act: Callable[..., object], *words: Any) -> str:
    """Return that something was done, which is a gain by itself."""
    act(*words)
    return "done"


def called(result: int) -> int:
    """Return the result of a system call. Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "system call")
    return result


# ---- the attempts ---------------------------------------------------------------------------------------------------


def read_files() -> Tries:
    for root in (home, f"{home}/runs", f"{home}/runs/{run_id}"):
        yield root, lambda root=root: os.listdir(root)
        for name in ("events.jsonl", "plan.json", "job.json", "token", "muster.pyz", "attempt_0/rank_00000.out"):
            yield f"{root}/{name}", lambda path=f"{root}/{name}": Path(path).read_bytes()


def write_files() -> Tries:
    for root in (home, f"{home}/runs", f"{home}/runs/{run_id}"):
        yield root, lambda root=root: done(os.symlink, "/etc/passwd", f"{root}/planted")
        yield root, lambda root=root: done(os.rename, root, f"{root}.moved")
        yield root, lambda root=root: done(os.chmod, root, 0o777)
        yield root, lambda root=root: Path(root, "outcome.json").write_text("{}")


def temporary_files() -> Tries:
    for root in glob.glob("/tmp/muster-*") + glob.glob("/var/tmp/muster-*") + glob.glob("/dev/shm/*muster*"):
        if os.stat(root).st_uid != os.getuid():
            yield root, lambda root=root: os.listdir(root) if os.path.isdir(root) else Path(root).read_bytes()
            yield root, lambda root=root: done(os.rename, root, f"{root}.moved")
            yield root, lambda root=root: done(os.rmdir, root)


def signals() -> Tries:
    for pid in processes():
        for number in (0, signal.SIGCONT, signal.SIGUSR1, signal.SIGSTOP, signal.SIGKILL):
            yield f"{pid} {number}", lambda pid=pid, number=number: done(os.kill, pid, number)


def memory() -> Tries:
    for pid in processes():
        for name in ("environ", "mem", "maps", "syscall", "stack"):
            yield f"{pid} {name}", lambda pid=pid, name=name: Path("/proc", str(pid), name).open("rb").read(1)
        yield f"{pid} fd", lambda pid=pid: os.listdir(f"/proc/{pid}/fd")
        for name in ("cwd", "root", "exe"):
            yield f"{pid} {name}", lambda pid=pid, name=name: os.readlink(f"/proc/{pid}/{name}")
        yield f"{pid} ptrace", lambda pid=pid: done(called, libc.ptrace(PTRACE_ATTACH, pid, None, None))
        yield (
            f"{pid} getfd",
            lambda pid=pid: called(libc.syscall(NR_PIDFD_GETFD, called(libc.syscall(NR_PIDFD_OPEN, pid, 0)), 0, 0)),
        )


def limits() -> Tries:
    for pid in processes():
        yield f"{pid} limit", lambda pid=pid: done(resource.prlimit, pid, resource.RLIMIT_NOFILE, (1, 1))
        yield f"{pid} cores", lambda pid=pid: done(os.sched_setaffinity, pid, {0})
        yield f"{pid} nice", lambda pid=pid: done(os.setpriority, os.PRIO_PROCESS, pid, 19)


REQUESTS = (
    frame(kind="state", version=5),
    *(frame(kind=kind) for kind in ("kill", "end", "stacks", "inspect", "usage", "collectives", "finished")),
    frame(kind="kill", by="ada"),
    frame(kind="stop", number=15),
    frame(kind="attach", want=True, offsets={}, tail=None, events=0, owner=True),
    frame(
        kind="register", version=5, rank=0, launcher="x", world_size=1, local_rank=0, local_world_size=1, node_rank=0
    ),
    frame(kind="exec_request", host="n2", words=["touch", "/tmp/harm"], env={}),
    b"\xff" * 8,
)


def local_sockets() -> Tries:
    for name in names():
        for data in REQUESTS:
            yield f"{name} {data[8:40]!r}", lambda name=name, data=data: ask(socket.AF_UNIX, f"\0{name}", data)
        yield f"{name} bind", lambda name=name: done(socket.socket(socket.AF_UNIX).bind, f"\0{name}")


def ports_of_the_run() -> Tries:
    proof = {"node": 1, "nonce": "ab" * 32, "incarnation": "", "heard": 0, "mac": "cd" * 32}
    for port in filter(None, ports.split(",")):
        for data in (*REQUESTS, frame(kind="response", **proof), b"\xff\xff\xff\xff\0\0\0\0", b"\0" * 4097):
            yield (
                f"{port} {data[:40]!r}",
                lambda port=port, data=data: ask(socket.AF_INET, ("127.0.0.1", int(port)), data),
            )


def commands() -> Tries:
    def says(*words: str) -> str:
        line = [*muster, *words, "--run-dir", home]
        done = subprocess.run(line, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
        return done.stdout if done.returncode == 0 and run_id in done.stdout else ""

    for words in (("ps",), ("show", run_id), ("logs", run_id), ("stacks", run_id), ("kill", run_id), ("rm", run_id)):
        yield " ".join(words), lambda words=words: says(*words)


told: dict[str, Any] = {"attempts": {}, "gained": []}
for of in (
    *(read_files, write_files, temporary_files, signals, memory, limits, local_sockets, ports_of_the_run, commands),
):
    for what, attempt in of() if lists == "all" or of.__name__ in lists.split(",") else ():
        told["attempts"][of.__name__] = told["attempts"].get(of.__name__, 0) + 1
        try:
            gained = attempt()
        except OSError:
            continue
        if gained:
            told["gained"].append(f"{of.__name__}: {what}: {str(gained)[:100]}")
print(json.dumps(told))
