"""The sockets of a run on one machine: names that nobody foresees, and each end knows whose the other one is.

They are abstract sockets (a path would break at 108 bytes and on NFS, and would stay when its process is killed). Every
user of the machine sees the names of those that are bound, may bind any other one, and may connect to all. Therefore

- a name ends with an HMAC of a token that only files of the run's owner hold, so it cannot be bound beforehand, and
  one that has been seen tells nothing about another;
- who listens takes the next name when one is taken;
- who connects speaks only after the kernel has said that the owner of the run listens there (SO_PEERCRED), and who
  listens hears only that user and root.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = "token"
"""The file in the run directory, and in the archive that foreign launchers start."""

AGENT, SUPERVISOR = "agent", "supervisor"
"""Who listens."""

_NAMES = 16
"""How many names there are for each of them on one machine."""
_PATIENCE = 5.0
"""Seconds for one connection, where the queue of who listens is full."""


class Sockets(NamedTuple):
    """What names the sockets of a run."""

    run_id: str
    token: str

    def names(self, uid: int, who: str) -> Iterator[str]:
        """Where this one listens on this machine: at the first name that was free."""
        for number in range(_NAMES):
            # by machine, for nobody on another one knows which node this is
            text = f"{who} {_machine()} {number}".encode()
            secret = hmac.new(self.token.encode(), text, hashlib.sha256).hexdigest()
            yield f"\0muster/{uid}/{self.run_id}/{secret[:20]}"  # the run is told too, for `muster clean`

    def listen(self, who: str, queue: int = 128) -> socket.socket:
        """Listen for other processes of this user. Raises OSError."""
        for name in self.names(os.getuid(), who):
            local = None
            try:
                local = socket.socket(socket.AF_UNIX)
                local.bind(name)
                local.listen(queue)
                return local
            except OSError as error:  # in some sandboxes there are none
                if local is not None:
                    local.close()
                if error.errno != errno.EADDRINUSE:
                    error.filename = "a local socket"
                    raise
        raise OSError(errno.EADDRINUSE, "other users have taken all names", "a local socket")

    def connect(self, who: str, owner: int) -> socket.socket | None:
        """A connection to this one of the run of user `owner`; None when nobody of that user listens.

        Raises TimeoutError when that user does, and takes no connection.
        """
        for name in self.names(owner, who):
            link = reach(name, owner)
            if link is not None:
                return link
        return None


def reach(name: str, owner: int) -> socket.socket | None:
    """A connection to the abstract socket `name`, if `owner` listens there; raises TimeoutError as `connect` does."""
    try:
        link = socket.socket(socket.AF_UNIX)
    except OSError:  # in some sandboxes there are none
        return None
    link.settimeout(_PATIENCE)
    try:
        link.connect(name)
    except (TimeoutError, socket.timeout, BlockingIOError):
        link.close()
        if _holds(name, owner):
            raise TimeoutError(errno.ETIMEDOUT, "who listens there takes no connection") from None
        return None
    except OSError:
        link.close()
        return None
    if peer(link) != owner:
        link.close()
        return None
    link.settimeout(None)
    return link


def peer(sock: socket.socket) -> int:
    """The user at the other end: of the process that connected, or that listens."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def find(run_dir: str, who: str) -> socket.socket | None:
    """A connection to this one of the run in that directory, on this machine; None when nobody of its owner listens.

    Raises TimeoutError as `connect` does.
    """
    try:
        # one directory for both: its owner may put another one in its place meanwhile
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            owner = os.fstat(folder).st_uid
            with open(os.open(TOKEN, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)) as file:
                token = file.read(256)
        finally:
            os.close(folder)
    except (OSError, ValueError):
        return None
    # root may find files on NFS that say to be nobody's
    for uid in dict.fromkeys((owner, os.getuid())):
        link = Sockets(os.path.basename(os.path.normpath(run_dir)), token).connect(who, uid)
        if link is not None:
            return link
    return None


def new_token() -> str:
    """What the names of the sockets of a new run depend on."""
    return os.urandom(16).hex()


def keep(run_dir: str, token: str) -> None:
    """Leave the token where the owner's other terminals find it. Raises OSError."""
    part = os.path.join(run_dir, f"{TOKEN}.{os.urandom(8).hex()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token)
    os.replace(part, os.path.join(run_dir, TOKEN))  # whole or not at all; nodes that share the directory write the same


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _holds(name: str, uid: int) -> bool:
    """A process of this user has the socket of that name: asked where a connection cannot tell."""
    import glob

    try:
        with open("/proc/net/unix", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    wanted = {f"socket:[{line[6]}]" for line in lines if line[-1] == "@" + name[1:]}
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path) in wanted and os.stat(path.rpartition("/fd/")[0]).st_uid == uid:
                return True
        except OSError:
            continue
    return False
