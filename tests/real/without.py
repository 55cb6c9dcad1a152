"""Run a program in a kernel that lacks some of its system calls, as old ones, containers and sandboxes do.

    python without.py inotify,epoll,… -- COMMAND…

A seccomp filter makes these fail with ENOSYS, and AF_UNIX sockets that have a name with EPERM; x86-64 alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

CALLS = {
    "inotify": (253, 294),
    "epoll": (213, 291),
    "pidfd": (434, 424),
    "memfd": (319,),
    "close_range": (436,),
}
"""The x86-64 system calls of each feature."""

_SOCKET, _AF_UNIX = 41, 1
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD+W+ABS, BPF_JMP+JEQ+K, BPF_RET+K
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _FIRST_ARGUMENT = 0, 16
"""Offsets in struct seccomp_data."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def forbid(names: list[str]) -> None:
    """Make these calls fail in this process and its descendants."""

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    program = [instruction(_LOAD, _NUMBER)]
    for number in (number for name in names if name != "unix" for number in CALLS[name]):
        program += [instruction(_EQUAL, number, 0, 1), instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    if "unix" in names:
        program += [instruction(_EQUAL, _SOCKET, 0, 3), instruction(_LOAD, _FIRST_ARGUMENT)]
        program += [instruction(_EQUAL, _AF_UNIX, 0, 1), instruction(_RETURN, _ERRNO | errno.EPERM)]
    program.append(instruction(_RETURN, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


if __name__ == "__main__":
    forbid(sys.argv[1].split(","))
    os.execvp(sys.argv[3], sys.argv[3:])
