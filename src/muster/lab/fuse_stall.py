"""A directory served through FUSE, whose writes hang as long as someone holds the lock of a gate file.

It reproduces a file server that stops responding: waiting processes cannot be killed, as with a hard NFS mount, while
reads still work.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any

import mfusepy


def serve(behind: str, at: str, gate: str) -> None:
    """Serve the directory `behind` at `at`, until killed."""
    mfusepy.FUSE(_Through(behind, gate), at, foreground=True, allow_other=True, default_permissions=True, raw_fi=False)


class _Through(mfusepy.Operations):  # type: ignore[misc]  # its base class is untyped
    """Performs every operation on the underlying files; writes first wait at the gate."""

    use_ns = True  # times are integers in nanoseconds

    def __init__(self, behind: str, gate: str):
        self.behind = behind
        self.gate = gate

    def _at(self, path: str) -> str:
        return self.behind + path

    def _to_write(self, path: str) -> str:
        """Return the underlying path, once the gate is open."""
        descriptor = os.open(self.gate, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)
        return self._at(path)

    def _give_to_caller(self, path: str) -> int:
        user, group, _ = mfusepy.fuse_get_context()
        os.lchown(path, user, group)
        return 0

    # read operations

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._at(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
        return {**{name: getattr(found, name) for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def open(self, path: str, flags: int) -> int:
        # the kernel passes offsets itself: with O_APPEND, pwrite would ignore them
        opened = self._to_write(path) if flags & os.O_TRUNC else self._at(path)
        return os.open(opened, flags & ~os.O_APPEND)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        names = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "flag", "frsize", "namemax")
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}

    # write operations

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        made = self._to_write(path)
        descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
        self._give_to_caller(made)
        return descriptor

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._to_write(path)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._to_write(path), length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._to_write(path)
        os.fsync(fh)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._to_write(path), mode)
        return self._give_to_caller(self._at(path))

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self._to_write(target))
        return self._give_to_caller(self._at(target))

    def link(self, target: str, source: str) -> int:
        os.link(self._at(source), self._to_write(target))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._to_write(old), self._at(new))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._to_write(path))
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._to_write(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._to_write(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self._to_write(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._to_write(path), ns=times)  # type: ignore[arg-type]  # None is now, as for `times`
        return 0
