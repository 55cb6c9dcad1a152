"""The temporary directory of a run on one machine: private, and safe in directories that everybody can write to.

External launchers get a path in it in place of the script. The path must be the same on all machines of a run, since a
launcher passes a single one to all of them. So the machines agree on the base directory from what each reports
(`bases`), and the name is derived from the token of the run, which other users cannot know before the directory exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping

from muster.linux import processes, procfs

SHIM = "rank.pyz"
_RUN = "run"
"""Name of the file that holds the run id."""
_BOOT = "boot"
"""Name of the file that holds the boot ID of the machine."""
_TRIES = 5

USUAL = ("/tmp", "/var/tmp", "/dev/shm")

_NAME = re.compile(r"muster-[0-9a-f]{8}")
NAME_LENGTH = len("/muster-01234567")
"""Length of what `claim` adds to the base directory."""
_ROOM = 1 << 20
_SHORT = 22
"""Ray creates sockets below it, whose paths have at most 107 bytes; Ray needs 66 of them, our own names 18."""


def candidates(env: Mapping[str, str]) -> list[str]:
    """Return the possible base directories for temporary files, best first."""
    named = env.get("TMPDIR", "")
    return list(dict.fromkeys([os.path.normpath(named), *USUAL] if named.startswith("/") else USUAL))


def bases(env: Mapping[str, str]) -> list[str]:
    """Return the candidates in which files can be written, best first; file systems mounted noexec come last."""
    usable: list[str] = []
    noexec: list[str] = []
    for base in candidates(env):
        try:
            found = os.statvfs(base)
        except OSError:
            continue
        if processes.why_shared(base):
            continue  # other users could replace our shim
        room = found.f_bavail * found.f_frsize >= _ROOM and (found.f_favail > 8 or not found.f_files)
        if found.f_flag & os.ST_RDONLY or not room or not os.access(base, os.W_OK | os.X_OK):
            continue
        (noexec if found.f_flag & os.ST_NOEXEC else usable).append(base)
    return usable + noexec


def agree(told: list[list[str]], short: bool) -> str:
    """Return the best base directory usable on all machines, given each one's `bases`; empty if there is none."""
    common = [base for base in told[0] if all(base in other for other in told)] if told else []
    return next((base for base in common if fits(base, short)), "")


def fits(base: str, short: bool) -> bool:
    """Return whether `base` is short enough, if a `short` one is required."""
    return not short or len(base) <= _SHORT


def claim(base: str, token: str, run_id: str, shim: bytes = b"") -> tuple[str, int]:
    """Create the temporary directory of a run, accessible by this user only; return its path and a locked descriptor.

    By the lock, which ends with this process at the latest, `left` recognizes that the run is alive. An existing
    directory is used if it belongs to this user and is private: agents of a run that share a base directory share
    it, with the same `shim`. Raises OSError.
    """
    from hashlib import sha256  # loads OpenSSL, which most commands do not need

    path = os.path.join(base, "muster-" + sha256(f"temporary {token}".encode()).hexdigest()[:8])
    for _ in range(_TRIES):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # created by another agent of this run, or by an earlier attempt
        folder = _open_own(path)
        if folder is None:
            if not os.path.lexists(path):
                continue
            raise OSError(errno.EEXIST, "created by another user", path)
        lock = None
        try:
            lock = _put_shim(folder, shim)
            if _is_linked(folder, lock):
                # last: until then nobody takes it for what a killed agent left
                _write(folder, _BOOT, procfs.boot_id().encode())
                _write(folder, _RUN, run_id.encode())
                return path, lock
        except FileNotFoundError:
            pass
        except OSError:
            if lock is not None:
                os.close(lock)
            remove_dead(path)
            raise
        finally:
            os.close(folder)
        if lock is not None:
            os.close(lock)  # another process has just removed what a killed agent left under this name
    raise OSError(errno.EAGAIN, "removed again and again by another process", path)


def own_folder(name: str, env: Mapping[str, str]) -> str:
    """Return the path for this user's private temporary directory `name`, existing or not; empty if impossible.

    The result stays the same as long as TMPDIR does.
    """
    for base in candidates(env):
        folder = _open_own(os.path.join(base, name))
        if folder is not None:
            os.close(folder)
            return os.path.join(base, name)
    return next((path for base in bases(env) if not os.path.lexists(path := os.path.join(base, name))), "")


def _remove_tree(path: str) -> None:
    import shutil  # imported late: it loads all compression libraries, and most commands remove nothing

    shutil.rmtree(path, ignore_errors=True)  # does not follow symbolic links


def release(path: str, lock: int) -> None:
    """Give up a directory that was claimed, and remove it with its contents if no other agent of the run has it."""
    os.close(lock)
    remove_dead(path)


def remove_dead(path: str) -> bool:
    """Remove the directory of a run with its contents, unless a live agent holds it; return whether it is gone."""
    folder = _open_own(path)
    if folder is None:
        return not os.path.lexists(path)
    lock = None
    try:
        lock = _lock_exclusively(folder)
        if lock is None:
            return False
        _remove_tree(path)
    finally:
        os.close(folder)
        if lock is not None and lock >= 0:
            os.close(lock)
    return not os.path.lexists(path)


def sweep(env: Mapping[str, str]) -> None:
    """Remove what killed agents of this user left on this machine since it was booted.

    A file system may be shared by machines that do not see each other's locks; so what another machine created is left
    to `muster clean`.
    """
    boot = procfs.boot_id()
    for _, path in left(env):
        folder = _open_own(path)
        if folder is None:
            continue
        here = _read(folder, _BOOT) == boot
        os.close(folder)
        if here and boot:
            remove_dead(path)


def left(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (run id, directory) of what killed agents left behind; a live agent holds a lock on its shim.

    Nothing that another user put there is followed, waited for, or trusted.
    """
    for base in candidates(env):
        try:
            names = sorted(filter(_NAME.fullmatch, os.listdir(base)))
        except OSError:
            continue
        for name in names:
            path = os.path.join(base, name)
            folder = _open_own(path)
            if folder is None:
                continue
            try:
                run = _read(folder, _RUN)
                lock = _lock_exclusively(folder) if run else None
            finally:
                os.close(folder)
            if lock is not None:
                if lock >= 0:
                    os.close(lock)
                yield run, path


def _open_own(path: str) -> int | None:
    """Return a descriptor of the directory if it is a real one, owned by this user and private; otherwise None."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(folder)
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return folder
    os.close(folder)
    return None


def _write(folder: int, name: str, data: bytes) -> None:
    """Write a file in that directory, completely. Raises OSError if there is no space."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(data)


def _read(folder: int, name: str) -> str:
    """Return the text of a small file in that directory; empty if not a regular file."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ""
    try:
        return os.read(file, 256).decode("ascii", "replace") if stat.S_ISREG(os.fstat(file).st_mode) else ""
    finally:
        os.close(file)


def _put_shim(folder: int, text: bytes) -> int:
    """Write the shim, unless another agent has; return an open, locked descriptor of it."""
    part = f"{SHIM}.{os.urandom(8).hex()}"
    _write(folder, part, text)
    try:
        os.link(part, SHIM, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        pass  # the machines of this run share this directory; the text is the same, and an agent holds a lock on it
    finally:
        os.unlink(part, dir_fd=folder)
    kept = os.open(SHIM, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    try:
        fcntl.flock(kept, fcntl.LOCK_SH)
    except OSError:
        os.close(kept)
        raise
    return kept


def _lock_exclusively(folder: int) -> int | None:
    """Return a descriptor of the shim there, locked against every agent; None if a live agent has locked it.

    It is -1 if there is no shim.
    """
    # NFS locks only a file that is open for writing; while it is that, the kernel does not execute it
    for access in (os.O_RDONLY, os.O_RDWR):
        try:
            file = os.open(SHIM, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return -1
        except OSError:
            return -1 if access == os.O_RDONLY else None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            os.close(file)
            continue
        return file
    return None


def _is_linked(folder: int, shim: int) -> bool:
    """Return whether that descriptor is still the shim in the directory."""
    try:
        return os.path.samestat(os.stat(SHIM, dir_fd=folder, follow_symlinks=False), os.fstat(shim))
    except OSError:
        return False
