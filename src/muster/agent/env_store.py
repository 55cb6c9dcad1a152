"""The environments on the local disk of a host: where they are, how one is unpacked, and when it is removed.

    ROOT/ADDRESS/env, base         an environment, and the interpreter that it is based on, if that was sent
    ROOT/ADDRESS/complete          written last; its time is that of the last use
    ROOT/part-…/lock               one that is being unpacked; the lock ends with the process that holds it

A directory is renamed to its address when it is complete. So of two runs that send the same environment at once, each
unpacks its own, and the second one to finish discards it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Callable

from muster.linux import processes, procfs

AGE = 14 * 86400.0
"""Seconds after its last use for which an environment is kept."""
FRESH = 600.0
"""Seconds after its last use for which an environment is never removed: its run may be starting."""

_COMPLETE, _LOCK, _PART = "complete", "lock", "part-"
_PIECE = 1 << 20
_WITHIN = 20.0


def root_of(folder: str, env: Mapping[str, str]) -> str:
    """Return the directory for environments: `folder`, or one of this user in TMPDIR or /var/tmp."""
    named = env.get("TMPDIR", "")
    return folder or os.path.join(named if named.startswith("/") else "/var/tmp", f"muster-envs-{os.getuid()}")


def open_root(folder: str, env: Mapping[str, str]) -> str:
    """Return that directory, which is created if necessary. Raises OSError if other users could write to it."""
    root = root_of(folder, env)
    processes.make_private(root)
    found = os.lstat(root)
    shared = processes.why_shared(root) if found.st_uid == os.geteuid() else f"it belongs to user {found.st_uid}"
    if os.path.islink(root) and not folder:
        shared = "it is a symbolic link"  # perhaps of another user, in a directory that all may write to
    if shared:
        raise PermissionError(0, f"directory {root} is not private: {shared}")
    return root


def complete(root: str) -> list[str]:
    """Return the addresses of the environments there."""
    with suppress(OSError):
        return [name for name in os.listdir(root) if os.path.exists(os.path.join(root, name, _COMPLETE))]
    return []


def touch(root: str, address: str) -> bool:
    """Note that an environment is used now; return False if it is not there."""
    try:
        os.utime(os.path.join(root, address, _COMPLETE))
    except OSError:
        return False
    return True


def version_of(python: str) -> str:
    """Return the version of an interpreter, such as `3.11`; empty if it does not run."""
    line = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-S", "-c", line], capture_output=True, timeout=_WITHIN)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""


def find_base(named: str, usual: str, version: str) -> str:
    """Return the first interpreter of this version: the `named` one, the `usual` one, one on PATH; empty without."""
    for python in [named] if named else [usual, f"python{version}", "python3"]:
        path = shutil.which(python)
        if path and version_of(path) == version:
            return os.path.realpath(path)
    return ""


# ---- unpacking -------------------------------------------------------------------------------------------------------


class Part:
    """An environment that is being unpacked."""

    def __init__(self, root: str, address: str, base: str, similar: str) -> None:
        """`base`: the interpreter here for a venv. `similar`: the address of one that has the files `kept`.

        Raises OSError.
        """
        self.root, self.address, self.base, self.similar = root, address, base, similar
        self.path = os.path.join(root, f"{_PART}{os.urandom(6).hex()}")
        os.mkdir(self.path, 0o700)
        self._lock = os.open(os.path.join(self.path, _LOCK), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def unpack(self, read: Callable[[int], bytes]) -> str:
        """Unpack the stream of which `read` returns that many bytes; return the path of its interpreter.

        Raises OSError, or ValueError for a stream that is not valid.
        """
        length = b""
        while not length.endswith(b"\n"):
            if len(length) > 20:
                raise ValueError("not an environment")
            length += read(1)
        told = json.loads(zlib.decompress(read(int(length))))
        target = os.path.join(self.root, self.address)
        pairs = [(os.fsencode(old), os.fsencode(os.path.join(target, tree))) for old, tree in told["replaced"]]
        made: set[str] = set()
        for name, how, mode, size, mtime, to in told["entries"]:
            path = self._place(name, made)
            if how == "link" or how == "python":
                os.symlink(self.base if how == "python" else to, path)
                continue
            if how == "kept":
                self._keep(name, path)
                continue
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", 0) as file:
                if how == "file":
                    while size:
                        data = read(min(size, _PIECE))
                        _write(file.fileno(), data)
                        size -= len(data)
                else:
                    data = read(size)
                    data = replaced(data, pairs) if how == "text" else in_binary(data, os.fsencode(to), pairs)
                    _write(file.fileno(), data)
                os.fchmod(file.fileno(), mode | 0o400)
                os.utime(file.fileno(), (mtime, mtime))
        self._finish(told, target)
        return os.path.join(target, told["python"])

    def _place(self, name: str, made: set[str]) -> str:
        """Return the path for a file, and create its directory."""
        parts = name.split("/")
        if parts[0] not in ("env", "base") or ".." in parts or "" in parts:
            raise ValueError(f"invalid name: {name!a}")
        path = os.path.join(self.path, name)
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, 0o700, exist_ok=True)
            made.add(folder)
        return path

    def _keep(self, name: str, path: str) -> None:
        source = os.path.join(self.root, self.similar, name)
        try:
            os.link(source, path)
        except FileNotFoundError:
            with suppress(OSError):  # it is damaged: the next run gets all files
                os.unlink(os.path.join(self.root, self.similar, _COMPLETE))
            raise
        except OSError:  # the file system has no links, or too many of this one
            shutil.copy2(source, path)

    def _finish(self, told: Mapping[str, Any], target: str) -> None:
        """Adapt what depends on this host, and give the directory its name."""
        settings = os.path.join(self.path, "env", "pyvenv.cfg")
        if os.path.exists(settings):
            base = os.path.join(target, told["base"]) if told["base"] else self.base
            with open(settings, encoding="utf-8") as file:
                lines = [adapted(line, base) for line in file if not line.startswith("command")]
            with open(settings, "w", encoding="utf-8") as file:
                file.writelines(lines)
        with open(os.path.join(self.path, _COMPLETE), "w"):
            pass
        try:
            os.rename(self.path, target)
        except OSError:
            if not touch(self.root, self.address):
                raise
            self.discard()  # another run was faster
        else:
            self.close()
            with suppress(OSError):
                os.unlink(os.path.join(target, _LOCK))

    def close(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def discard(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def adapted(line: str, base: str) -> str:
    """Return a line of pyvenv.cfg with the base interpreter of this host."""
    name = line.partition("=")[0].strip()
    new = {
        "home": os.path.dirname(base),
        "executable": base,
        "base-executable": base,
        "base-prefix": os.path.dirname(os.path.dirname(base)),
        "base-exec-prefix": os.path.dirname(os.path.dirname(base)),
    }.get(name)
    return line if new is None else f"{name} = {new}\n"


def replaced(data: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a text with the paths replaced."""
    for old, new in pairs:
        data = data.replace(old, new)
    return data


def in_binary(data: bytes, old: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a program or library with a path replaced in its strings, each filled up with NUL to the same length.

    A path that is too short for the new one stays.
    """
    new = next((new for _, new in pairs if new.endswith(b"/env")), b"")
    if not new or len(new) > len(old):
        return data
    at = data.find(old)
    out, done = bytearray(), 0
    while at >= 0:
        end = data.find(b"\0", at)
        end = len(data) if end < 0 else end
        string = data[at:end]
        out += data[done:at] + string.replace(old, new).ljust(len(string), b"\0")
        done, at = end, data.find(old, end)
    return bytes(out + data[done:])


# ---- removal ---------------------------------------------------------------------------------------------------------


def remove_old(root: str, age: float = AGE, dry: bool = False) -> list[str]:
    """Remove environments that no run has used for `age` seconds, and what interrupted runs left; return their paths.

    An environment that a process of this user has open is kept.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    found, used = [], None
    for name in names:
        path = os.path.join(root, name)
        if name.startswith(_PART):
            gone = _is_abandoned(path)
        else:
            try:
                unused = time.time() - os.stat(os.path.join(path, _COMPLETE)).st_mtime
            except OSError:
                continue  # not ours
            used = _mapped(root) if used is None else used
            gone = unused > max(age, FRESH) and name not in used
        if gone:
            found.append(path)
            if not dry:
                with suppress(OSError):
                    os.unlink(os.path.join(path, _COMPLETE))
                shutil.rmtree(path, ignore_errors=True)
    return found


def _is_abandoned(path: str) -> bool:
    try:
        lock = os.open(os.path.join(path, _LOCK), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        with suppress(OSError):  # created in this moment, or left by a process that died then
            return time.time() - os.stat(path).st_mtime > FRESH
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _mapped(root: str) -> set[str]:
    """Return the names of the environments whose files a process of this user has mapped or was started with."""
    found, mark = set(), os.fsencode(root.rstrip("/") + "/")
    for pid in procfs.pids():
        for kind in ("maps", "cmdline"):
            with suppress(OSError), open(f"/proc/{pid}/{kind}", "rb") as file:
                for piece in file.read().split(mark)[1:]:
                    found.add(os.fsdecode(piece.partition(b"/")[0]))
    return found
