"""Environment variables of another process as they are now.

/proc/PID/environ has those with which it was started. What a program sets later is in its memory, where `environ` of
the C library points to. That variable is at the same offset in each process that has the same C library.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection

_WORD = struct.calcsize("P")
_MOST_VARIABLES, _LONGEST = 4096, 256
"""Variables that are looked at, and bytes of a name with its value."""


def current(pid: int, names: Collection[str]) -> dict[str, str]:
    """Return the values of these variables in a process; empty if its memory cannot be read, or its C library differs.

    The process is not stopped, so a value may be missing that it is about to change.
    """
    try:
        address = _address_of_environ(pid)
        if address is None:
            return {}
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(_word(_read(memory.fileno(), address, _WORD)))
            found: dict[str, str] = {}
            for (pointer,) in struct.iter_unpack("P", _whole_words(memory.read(_MOST_VARIABLES * _WORD))):
                if not pointer or len(found) == len(names):
                    break
                text = _read(memory.fileno(), pointer, _LONGEST).partition(b"\0")[0]
                name, equals, value = text.decode("utf-8", "replace").partition("=")
                if equals and name in names:
                    found[name] = value
            return found
    except (OSError, ValueError, OverflowError, struct.error):
        return {}


def _address_of_environ(pid: int) -> int | None:
    """Return where the variable `environ` of a process is; None if it has another C library than this one."""
    here = ctypes.addressof(ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ"))
    before = [(start, path) for start, path in _libraries("self") if start <= here]
    if not before:
        return None
    path = max(before)[1]  # the variable is behind what is mapped of the file
    starts = {name: min(start for start, other in _libraries("self") if other == name) for name in (path,)}
    there = [start for start, other in _libraries(str(pid)) if other == path]
    return min(there) + here - starts[path] if there else None


def _libraries(pid: str) -> list[tuple[int, str]]:
    """Return (address, path) of the mapped files of a process."""
    found = []
    with open(f"/proc/{pid}/maps", errors="replace") as file:
        for line in file:
            words = line.split(None, 5)
            if len(words) == 6 and words[5].startswith("/"):
                found.append((int(words[0].partition("-")[0], 16), words[5].strip()))
    return found


def _word(data: bytes) -> int:
    value: int = struct.unpack("P", data)[0]
    return value


def _whole_words(data: bytes) -> bytes:
    return data[: len(data) // _WORD * _WORD]


def _read(memory: int, address: int, size: int) -> bytes:
    """Return memory of a process, less if its mapping ends."""
    return os.pread(memory, size, address)
