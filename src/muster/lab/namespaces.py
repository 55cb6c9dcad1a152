"""Linux system calls for namespaces and mounts that Python 3.9 does not offer. Each raises OSError."""

from __future__ import annotations

import ctypes
import os
import signal
from glob import glob
from pathlib import Path

from muster.linux import procfs

_LIBC = ctypes.CDLL(None, use_errno=True)

# sched.h
NEW_MOUNTS = 0x00020000
NEW_CGROUPS = 0x02000000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000
NEW_NET = 0x40000000

# sys/mount.h
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2

_PR_SET_PDEATHSIG = 1


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move into new namespaces of these kinds; a new pid namespace applies to children only."""
    _checked(_LIBC.unshare(flags), "unshare")


def enter(descriptor: int, flag: int) -> None:
    """Enter the namespace of a file descriptor."""
    _checked(_LIBC.setns(descriptor, flag), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Call mount(2)."""
    words = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None)
    _checked(_LIBC.mount(*words), f"mount {kind or source} at {target}")


def unmount(target: str) -> None:
    """Call umount2(2), detaching even if the mount is in use."""
    _checked(_LIBC.umount2(target.encode(), DETACH), f"unmount {target}")


def die_with_parent(signal: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it exits."""
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def name_host(name: str) -> None:
    """Set the hostname of this UTS namespace."""
    _checked(_LIBC.sethostname(name.encode(), len(name)), "sethostname")


def wake_entrances(pid: int) -> None:
    """Continue each stopped `nsenter` into the host with this init process.

    nsenter stops itself when its command is stopped, and continues only on SIGCONT. While stopped it does not reap its
    child, and a pid namespace with an unreaped process never ends.
    """
    begin = f"nsenter\0-t\0{pid}\0".encode()
    for path in glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                ours = file.read(len(begin)) == begin
            if ours:
                os.kill(int(path.split("/")[2]), signal.SIGCONT)
        except OSError:  # process is gone
            continue


def waits_in(pid: int) -> str:
    """Return the state and kernel wait channel of each thread of a process, for an error message."""
    places = []
    for task in glob(f"/proc/{pid}/task/*"):
        try:
            seen, where = procfs.stat(pid, int(os.path.basename(task))), Path(task, "wchan").read_text()
        except OSError:  # process is gone
            continue
        places += [f"{seen.state} {where}"] if seen is not None else []
    return ", ".join(places) or "gone now"


def inhabitants(pid: int) -> list[int]:
    """Return all processes in the pid namespace of `pid`."""
    try:
        wanted = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return []
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == wanted:
                    found.append(int(name))
            except OSError:  # process is gone
                continue
    return found


def running(pid: int, program: str) -> list[int]:
    """Return processes in a pid namespace by the start of their executable's name: Debian's slurmd is `slurmd-wlm`."""
    found = []
    for one in inhabitants(pid):
        try:
            if os.path.basename(os.readlink(f"/proc/{one}/exe")).startswith(program):
                found.append(one)
        except OSError:  # process is gone
            continue
    return found
