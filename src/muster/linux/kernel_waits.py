"""What threads wait for in the kernel: the system call, the file or socket that it works on, and who holds a file lock.

Everything is read from /proc, and nothing here waits for the process that is looked at, whatever state it is in.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import NamedTuple

from muster.linux import procfs

_X86_64 = """
    0 read, 1 write, 2 open, 3 close, 4 stat, 5 fstat, 6 lstat, 7 poll, 9 mmap, 11 munmap, 16 ioctl, 17 pread64,
    18 pwrite64, 19 readv, 20 writev, 21 access, 23 select, 24 sched_yield, 26 msync, 28 madvise, 34 pause,
    35 nanosleep, 42 connect, 43 accept, 44 sendto, 45 recvfrom, 46 sendmsg, 47 recvmsg, 59 execve, 60 exit,
    61 wait4, 65 semop, 70 msgrcv, 72 fcntl, 73 flock, 74 fsync, 75 fdatasync, 78 getdents, 82 rename, 87 unlink,
    128 rt_sigtimedwait, 130 rt_sigsuspend, 162 sync, 202 futex, 208 io_getevents, 217 getdents64, 220 semtimedop,
    230 clock_nanosleep, 231 exit_group, 232 epoll_wait, 243 mq_timedreceive, 247 waitid, 257 openat,
    262 newfstatat, 270 pselect6, 271 ppoll, 281 epoll_pwait, 288 accept4, 295 preadv, 306 syncfs, 332 statx,
    426 io_uring_enter, 437 openat2, 441 epoll_pwait2, 449 futex_waitv, 455 futex_wait
"""

_AARCH64 = """
    4 io_getevents, 22 epoll_pwait, 25 fcntl, 29 ioctl, 32 flock, 35 unlinkat, 56 openat, 57 close, 61 getdents64,
    63 read, 64 write, 65 readv, 66 writev, 67 pread64, 68 pwrite64, 69 preadv, 72 pselect6, 73 ppoll,
    79 newfstatat, 80 fstat, 81 sync, 82 fsync, 83 fdatasync, 93 exit, 94 exit_group, 95 waitid, 98 futex,
    101 nanosleep, 115 clock_nanosleep, 124 sched_yield, 133 rt_sigsuspend, 137 rt_sigtimedwait,
    183 mq_timedreceive, 188 msgrcv, 192 semtimedop, 193 semop, 202 accept, 203 connect, 206 sendto, 207 recvfrom,
    211 sendmsg, 212 recvmsg, 215 munmap, 221 execve, 222 mmap, 227 msync, 233 madvise, 242 accept4, 260 wait4,
    267 syncfs, 291 statx, 426 io_uring_enter, 437 openat2, 441 epoll_pwait2, 449 futex_waitv, 455 futex_wait
"""

_NAMES = {
    int(pair.split()[0]): pair.split()[1]
    for pair in {"x86_64": _X86_64, "aarch64": _AARCH64}.get(os.uname().machine, "").split(",")
    if pair.strip()
}
"""System calls that may block, by number; other machines have no names."""

_BY_WCHAN = (
    (r"pipe_read|pipe_wait_readable|anon_pipe_read", "read", "pipe"),
    (r"pipe_write|pipe_wait_writable|anon_pipe_write", "write", "pipe"),
    (r"wait_for_partner|fifo_open", "openat", "FIFO"),
    (r"futex_", "futex", ""),
    (r"do_nanosleep|hrtimer_nanosleep|common_nsleep", "nanosleep", ""),
    (r"do_wait|kernel_wait", "wait4", "child process"),
    (r"ep_poll|do_epoll_wait", "epoll_wait", ""),
    (r"do_poll|do_sys_poll|poll_schedule_timeout|do_select", "poll", ""),
    (r"flock_lock_inode_wait|locks_lock_inode_wait", "flock", ""),
    (r"fcntl_setlk|do_lock_file_wait", "fcntl", ""),
    (r"inet_csk_accept", "accept", "socket"),
    (r"sk_wait_data|tcp_recvmsg|unix_stream_read_generic|unix_stream_data_wait", "recvfrom", "socket"),
)
"""Kernel functions in which a thread sleeps, with the call: for processes whose /proc/PID/syscall may not be read."""

_ON_DESCRIPTOR = frozenset(
    (
        *("read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "recvfrom", "recvmsg", "sendto"),
        *("sendmsg", "accept", "accept4", "connect", "flock", "fcntl", "fsync", "fdatasync", "ioctl", "close"),
        *("getdents", "getdents64", "syncfs", "fstat"),
    )
)
"""Calls whose first argument is a descriptor."""

_PATH_AT = {"open": 0, "stat": 0, "lstat": 0, "access": 0, "openat": 1, "openat2": 1, "newfstatat": 1, "statx": 1}
"""Calls with a path, and which argument it is."""

_STACKED = 4096


class Wait(NamedTuple):
    """What a thread waits for."""

    call: str = ""
    """The system call by name; empty if it is unknown or the thread runs."""
    args: tuple[int, ...] = ()
    """The arguments of the call, if they may be read."""
    target: str = ""
    """What the call works on: a path, `pipe`, `socket 10.0.0.1:29500`, `child process 123`; empty if unknown."""


class Machine:
    """The tables of the machine that say what a descriptor or a lock is, read at most once."""

    def __init__(self) -> None:
        self._sockets: dict[str, str] | None = None
        self._locks: dict[int, int] | None = None

    def holder(self, pid: int) -> int:
        """Return the process that holds the file lock for which a process waits; 0 if there is none."""
        if self._locks is None:
            self._locks = waits_for_locks(_read("/proc/locks"))
        return self._locks.get(pid, 0)

    def socket(self, inode: str) -> str:
        """Return the other end of a socket: `10.0.0.1:29500`, or the path of a local one; empty if unknown."""
        if self._sockets is None:
            self._sockets = {
                **peers(_read("/proc/net/tcp")),
                **peers(_read("/proc/net/tcp6")),
                **_local_paths(_read("/proc/net/unix")),
            }
        return self._sockets.get(inode, "")


def wait_of(pid: int, thread: int, state: str, machine: Machine) -> Wait:
    """Return what a thread of a process waits for; `state` is its state (`procfs.Stat`)."""
    if state in ("R", "Z", "X", ""):
        return Wait()
    found = call_of(pid, thread)
    wchan = _read(f"/proc/{pid}/task/{thread}/wchan")
    if not found.call:
        for pattern, call, target in _BY_WCHAN:
            if re.match(pattern, wchan):
                return Wait(call, target=target)
        return found
    return found._replace(target=_target(pid, state, found.call, found.args, wchan, machine))


def call_of(pid: int, thread: int) -> Wait:
    """Return the system call in which a thread is, without its target."""
    words = _read(f"/proc/{pid}/task/{thread}/syscall").split()
    if len(words) < 7 or not words[0].isdigit():  # `running`, or -1: it waits outside of a call
        return Wait()
    call = _NAMES.get(int(words[0]), f"system call {words[0]}")
    return Wait(call, tuple(int(word, 16) for word in words[1:7]))


def _target(pid: int, state: str, call: str, args: tuple[int, ...], wchan: str, machine: Machine) -> str:
    if call in _ON_DESCRIPTOR:
        return _descriptor(pid, args[0], wchan, machine)
    if call == "wait4":
        child = _signed(args[0])
        return f"child process {child}" if child > 0 else "child process"
    if call == "waitid":
        return f"child process {args[1]}" if args[0] == 1 else "child process"
    if state == "D":
        return ""  # its memory must not be read: the same lock may be held
    if call in _PATH_AT:
        path = _text_at(pid, args[_PATH_AT[call]])
        return f"FIFO {path}" if path and re.match(r"wait_for_partner|fifo_open", wchan) else path
    if call in ("poll", "ppoll") and 0 < args[1] < 1024:
        data = _memory(pid, args[0], 8)
        if len(data) == 8:
            return _descriptor(pid, struct.unpack_from("i", data)[0], "", machine)
    return ""


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _descriptor(pid: int, fd: int, wchan: str, machine: Machine) -> str:
    """Return what a descriptor of a process is. Its file is not touched: it may be on a file server that hangs."""
    try:
        link = os.readlink(f"/proc/{pid}/fd/{_signed(fd)}")
    except OSError:
        return ""
    if link.startswith("pipe:"):
        return "pipe"
    if link.startswith("socket:["):
        return f"socket {machine.socket(link[8:-1])}".rstrip()
    if link.startswith("anon_inode:"):
        return link[11:].strip("[]")
    return f"FIFO {link}" if re.match(r"pipe_|anon_pipe", wchan) else link


def waits_for_locks(text: str) -> dict[int, int]:
    """Return {process that waits: process that holds the lock} from the text of /proc/locks."""
    holders: dict[str, int] = {}
    found: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split()
        try:
            if words[1] == "->":
                found[int(words[5])] = holders[words[0]]
            else:
                holders[words[0]] = int(words[4])
        except (IndexError, ValueError, KeyError):
            continue
    return {waiting: holder for waiting, holder in found.items() if holder > 0}


def peers(text: str) -> dict[str, str]:
    """Return {inode: `address:port` of the other end} from the text of /proc/net/tcp or tcp6.

    A socket that listens has its own address.
    """
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        try:
            listens = words[3] == "0A"
            found[words[9]] = ("listening at " if listens else "") + _address(words[1] if listens else words[2])
        except (IndexError, ValueError):
            continue
    return found


def _address(word: str) -> str:
    address, _, port = word.partition(":")
    # each group of four bytes is a number in the byte order of the machine
    data = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    if len(data) == 16 and data[:12] == b"\0" * 10 + b"\xff\xff":
        data = data[12:]
    text = socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)
    return f"{text}:{int(port, 16)}" if len(data) == 4 else f"[{text}]:{int(port, 16)}"


def _local_paths(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split(None, 7)
        if len(words) == 8:
            found[words[6]] = words[7]
    return found


def _text_at(pid: int, address: int) -> str:
    """Return a path in the memory of a process."""
    # up to the end of its page, and no further: the next one may not exist
    data = _memory(pid, address, _STACKED - address % _STACKED)
    path, end, _ = data.partition(b"\0")
    return path.decode("utf-8", "replace") if end else ""


def _memory(pid: int, address: int, size: int) -> bytes:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)
    except (OSError, ValueError, OverflowError):
        return b""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def threads_of(pid: int) -> list[int]:
    """Return the threads of a process, the main thread first; empty if it is gone."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda thread: (thread != pid, thread))
    except OSError:
        return []


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies too, by pid."""
    found = []
    for thread in threads_of(pid):
        path = f"/proc/{pid}/task/{thread}/children"
        if not os.path.exists(path):  # the kernel was built without it
            return sorted(other for other, seen in procfs.all_processes() if seen.parent == pid)
        found += [int(word) for word in _read(path).split()]
    return sorted(found)
