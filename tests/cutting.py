"""Cuts a writer at any system call that changes files: by SIGKILL before it or in the middle of it, or by a full disk.

A forked child is traced (ptrace), so the writer is the real one, with the buffers of `io` and all. Only calls that
concern one directory count. x86-64 only: elsewhere `POSSIBLE` is false.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple


class How(Enum):
    """What happens to the writer at a system call."""

    BEFORE = "killed before it"
    WITHIN = "killed after half of it, if it writes data"
    FULL = "disk full from then on"


class Ended(NamedTuple):
    """How the writer ended."""

    calls: tuple[str, ...]
    """The system calls that change files in the directory, in order, up to the cut."""
    status: int
    """Its exit status, negative if it was killed by a signal."""


_NAMES = """
write=1 pwrite=18 writev=20 pwritev=296 truncate=76 ftruncate=77 fsync=74 fdatasync=75 fallocate=285
copy_file_range=326 sendfile=40 open=2 openat=257 creat=85 mkdir=83 mkdirat=258 rmdir=84 unlink=87
unlinkat=263 rename=82 renameat=264 renameat2=316 link=86 linkat=265 symlink=88 symlinkat=266
"""
_SYSCALLS = {int(word.partition("=")[2]): word.partition("=")[0] for word in _NAMES.split()}
_BY_DESCRIPTOR = {"write", "pwrite", "writev", "pwritev", "ftruncate", "fsync", "fdatasync", "fallocate"}
_PATH_AT = {
    **dict.fromkeys(("openat", "mkdirat", "unlinkat", "rename", "link", "symlink"), 1),
    **dict.fromkeys(("renameat", "renameat2", "linkat"), 3),
    "symlinkat": 2,
}
"""Which argument is the path, if it is not the first; of two paths the one that is created."""
_NEEDS_ROOM = {"openat", "open", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"}
_WRITES = {"write", "pwrite", "writev", "pwritev", "copy_file_range", "sendfile", "fallocate"}
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_TRACEME, _POKEUSER, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 6, 7, 24, 0x4200, 0x420E
_OPTIONS = 1 | 8 | 1 << 20
"""TRACESYSGOOD, TRACECLONE (threads, and no other processes), EXITKILL."""
_WALL = 0x40000000
"""Wait for threads, too."""
_RAX, _RDX, _ORIG_RAX = 10 * 8, 12 * 8, 15 * 8

POSSIBLE = sys.platform == "linux" and platform.machine() == "x86_64"


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.ptrace
    call.restype, call.argtypes = ctypes.c_long, [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    done: int = call(request, pid, address, data)
    if done == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def run_cut(do: Callable[[], object], root: str, at: int = -1, how: How = How.BEFORE, about: str = "") -> Ended:
    """Call `do` in a child, and cut it at the call of this number (from 0); never, if it is negative.

    With `about`, only calls count whose path contains it. `do` may replace the child by another program. An `OSError`
    or `MusterError` is an exit with status 1, any other exception one with 99 and a traceback.
    """
    pid = os.fork()
    if pid == 0:
        _be_traced(do)
    return _Tracer(pid, os.path.realpath(root), at, how, about).trace()


def _be_traced(do: Callable[[], object]) -> None:
    from muster.errors import MusterError

    status = 99
    try:
        os.setpgid(0, 0)  # so that it and its threads can be waited for, and no other child
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        do()
        status = 0
    except (OSError, MusterError):
        status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class _Tracer:
    def __init__(self, pid: int, root: str, at: int, how: How, about: str):
        self.pid, self.root, self.at, self.how, self.about = pid, root, at, how, about
        self.calls: list[str] = []
        self.cut: dict[int, str] = {}
        """What is to be done when a thread leaves its system call."""

    def trace(self) -> Ended:
        os.waitpid(self.pid, 0)
        _ptrace(_SETOPTIONS, self.pid, 0, _OPTIONS)
        _ptrace(_SYSCALL, self.pid)
        while True:
            tid, status = os.waitpid(-self.pid, _WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if tid == self.pid:
                    return Ended(tuple(self.calls), os.waitstatus_to_exitcode(status))
                continue
            self._stopped(tid, status)

    def _stopped(self, tid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if event:  # a thread was made
            number = 0
        elif number == signal.SIGTRAP | 0x80:
            number = 0
            if self._syscall(tid):
                os.kill(self.pid, signal.SIGKILL)
        elif number in (signal.SIGTRAP, signal.SIGSTOP):
            number = 0
        with suppress(ProcessLookupError):
            _ptrace(_SYSCALL, tid, 0, number)

    def _syscall(self, tid: int) -> bool:
        """Look at a system call that begins or ends; return whether the writer is killed now."""
        buffer = ctypes.create_string_buffer(88)
        try:
            _ptrace(_GET_SYSCALL_INFO, tid, 88, ctypes.addressof(buffer))
        except ProcessLookupError:
            return False
        if buffer.raw[0] == 2:
            then = self.cut.pop(tid, "")
            if then == "fails":
                _ptrace(_POKEUSER, tid, _RAX, -errno.ENOSPC & (1 << 64) - 1)
            return then == "killed"
        number, *words = struct.unpack_from("7Q", buffer.raw, 24)
        name = _SYSCALLS.get(number, "")
        if not name or not self._concerns(tid, name, words):
            return False
        self.calls.append(name)
        here = len(self.calls) - 1
        if self.at < 0 or here < self.at:
            return False
        if self.how is How.BEFORE:
            return True
        halved = name in ("write", "pwrite") and words[2] > 1 and here == self.at
        if halved:
            _ptrace(_POKEUSER, tid, _RDX, words[2] // 2)
        if self.how is How.WITHIN:
            self.cut[tid] = "killed"
        elif not halved and self._needs_room(tid, name, words):
            _ptrace(_POKEUSER, tid, _ORIG_RAX, (1 << 64) - 1)
            self.cut[tid] = "fails"
        return False

    def _concerns(self, tid: int, name: str, words: list[int]) -> bool:
        if name in _BY_DESCRIPTOR:
            path = self._descriptor(tid, words[0])
        elif name in ("copy_file_range", "sendfile"):
            path = self._descriptor(tid, words[2 if name == "copy_file_range" else 0])
        else:
            if name in ("open", "openat") and not words[1 if name == "open" else 2] & _CHANGES:
                return False
            path = self._path(tid, name, words)
        return path.startswith(self.root) and self.about in path

    def _needs_room(self, tid: int, name: str, words: list[int]) -> bool:
        if name in _WRITES:
            with suppress(OSError):
                size = os.stat(f"/proc/{tid}/fd/{words[0]}").st_size
                with open(f"/proc/{tid}/fdinfo/{words[0]}") as file:
                    at = int(file.readline().split()[1])
                if name == "pwrite":  # over what the file has already
                    return words[3] + words[2] > size
                return at + words[2] > size
            return True
        return name in _NEEDS_ROOM and not os.path.lexists(self._path(tid, name, words))

    def _descriptor(self, tid: int, number: int) -> str:
        try:
            return os.readlink(f"/proc/{tid}/fd/{number}")
        except OSError:
            return ""

    def _path(self, tid: int, name: str, words: list[int]) -> str:
        at = _PATH_AT.get(name, 0)
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as file:
            file.seek(words[at])
            path = os.fsdecode(file.read(4096).partition(b"\0")[0])
        if not path.startswith("/"):
            folder = ctypes.c_int(words[at - 1]).value if name.endswith(("at", "at2")) else -100
            path = os.path.join(os.readlink(f"/proc/{tid}/cwd" if folder == -100 else f"/proc/{tid}/fd/{folder}"), path)
        return os.path.normpath(path)


def cuts(do: Callable[[], object], root: str) -> list[tuple[int, How]]:
    """Return all cuts of a writer, by calling it once."""
    whole = run_cut(do, root)
    assert whole.status == 0, "it succeeds if it is not cut"
    return [
        (at, how)
        for at, name in enumerate(whole.calls)
        for how in How
        if how is How.BEFORE or name in _WRITES or (how is How.FULL and name in _NEEDS_ROOM)
    ]
