"""Comparison of the code of a run on this machine with that on the machine where the run was started."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from muster.linux import processes, procfs
from muster.linux.files import replace_file

LIST = "code.json"
"""Name of the file in the run directory with the result of `entries`, for agents that a scheduler starts."""

_PIECE = 1 << 20
_OF_ONE_MACHINE = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "ramfs", "overlay"))
"""File systems that other machines do not see, unless this one exports them."""


def identity(path: str) -> list[int]:
    """Return what identifies a file without reading it; empty if it does not exist.

    If it is equal on two machines, it is one file of a file system that they share (or an unchanged copy of a disk).
    """
    try:
        found = os.lstat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def place(folder: str) -> list[Any]:
    """Return what identifies a directory, for `same_place` on another machine; empty if it does not exist.

    That is its inode and, for file systems that only this machine has, the device. None of it changes when files are
    added or removed.
    """
    try:
        found = os.stat(folder)
    except OSError:
        return []
    device = _local_device(found)
    return [found.st_ino, f"{procfs.boot_id() or socket.gethostname()} {device}" if device else ""]


def _local_device(found: os.stat_result) -> str:
    """Return the device of a file if it is on a file system that only this machine has; empty otherwise."""
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    with suppress(OSError), open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split()[2] == device and after.split()[0] in _OF_ONE_MACHINE:
                return device
    return ""


def on_one_machine(path: str) -> bool:
    """Return whether a path is on a file system that other machines do not see, unless this one exports it."""
    try:
        return bool(_local_device(os.stat(path)))
    except OSError:
        return False


def same_place(one: list[Any], other: list[Any]) -> bool:
    """Return True if both are the same directory.

    Machines set up alike have the same inodes, so these alone say nothing about local file systems.
    """
    return bool(one and other) and one[0] == other[0] and (one[1] == other[1] or "" in (one[1], other[1]))


def digest(path: str) -> str:
    """Return a digest of the content of a file or the target of a link; empty if it is unreadable or neither."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return "-> " + hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
        if not stat.S_ISREG(found.st_mode):
            return ""
        total = hashlib.sha256()
        with open(path, "rb") as file:
            while data := file.read(_PIECE):
                total.update(data)
        return total.hexdigest()
    except OSError:
        return ""


def entries(root: str, names: Iterable[str]) -> bytes:
    """Return the identities of these files of a directory, for `compare` on another machine."""
    return json.dumps([[name, *identity(os.path.join(root, name))] for name in names]).encode()


def compare(root: str, there: bytes, known_place: list[Any] | None = None) -> dict[str, str]:
    """Return digests of the files that differ from the other machine's, by their index in the result of `entries`.

    `known_place` is `place` of the directory on the other machine. If it is the same here, no file is examined: many
    hosts would ask a file server for many files at once.
    """
    found: dict[str, str] = {}
    if same_place(known_place or [], place(root)):
        return found
    for number, (name, *known) in enumerate(json.loads(there)):
        path = os.path.join(root, name)
        if identity(path) != known:
            found[str(number)] = digest(path)
    return found


def _record(home: str, root: str) -> str:
    # hosts may share the home but not the code
    name = hashlib.sha256(f"{socket.gethostname()}\0{root}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return os.path.join(home, "synced", f"{name}.json")


def remember(home: str, root: str, there: bytes) -> None:
    """Record which files muster sent to a directory, for a later `stale`."""
    path = _record(home, root)
    with suppress(OSError):  # if it fails, files that are deleted later stay here
        processes.make_private(os.path.dirname(path))
        replace_file(path, json.dumps([name for name, *_ in json.loads(there)]).encode())


def stale(home: str, root: str, there: bytes) -> list[str]:
    """Return the files that muster once sent to a directory and that no longer exist on the other machine."""
    try:
        with open(_record(home, root)) as file:
            sent: Sequence[str] = json.load(file)
    except (OSError, ValueError):
        return []
    now = {name for name, *_ in json.loads(there)}
    return [name for name in sent if name not in now and os.path.lexists(os.path.join(root, name))]
