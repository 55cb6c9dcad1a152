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
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from muster.linux import procfs

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
            text = f"{who} {procfs.boot_id()} {number}".encode()
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
            link = connect(name, owner)
            if link is not None:
                return link
        return None


def connect(name: str, owner: int) -> socket.socket | None:
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


def listens(connect: Callable[[], socket.socket | None]) -> bool:
    """True if something listens where `connect` (a call of `find` or `reach`) connects, even if too busy to accept."""
    try:
        link = connect()
    except TimeoutError:
        return True
    if link is not None:
        link.close()
    return link is not None


def new_token() -> str:
    """What the names of the sockets of a new run depend on."""
    return os.urandom(16).hex()


def keep(run_dir: str, token: str) -> None:
    """Leave the token where the owner's other terminals find it. Raises OSError."""
    part = os.path.join(run_dir, f"{TOKEN}.{os.urandom(8).hex()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token)
    os.replace(part, os.path.join(run_dir, TOKEN))  # whole or not at all; nodes that share the directory write the same


def _holds(name: str, uid: int) -> bool:
    """A socket of this user listens at that name: asked where a connection cannot tell; not so where nobody knows.

    The kernel is asked over netlink: in the text of /proc/net/unix a name with a line break in it forges a line.
    """
    try:
        found = [sock for sock in _listening() if sock.name == os.fsencode(name)]
    except (OSError, struct.error):  # in some sandboxes there is no netlink
        return False
    return any(_has(uid, sock.inode) if sock.uid is None else sock.uid == uid for sock in found)


def _has(uid: int, inode: int) -> bool:
    """A process of this user has that socket; Linux before 5.3 does not tell whose it is."""
    import glob

    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path) == f"socket:[{inode}]":
                with open(path.rpartition("/fd/")[0] + "/status", "rb") as file:  # its folder may be said to be root's
                    owners = next(line for line in file if line.startswith(b"Uid:")).split()
                if int(owners[1]) == uid:
                    return True
        except (OSError, StopIteration):
            continue
    return False


class _Listening(NamedTuple):
    """A Unix socket that listens; `uid` is None where the kernel does not tell it."""

    name: bytes
    inode: int
    uid: int | None


_HEADER, _REQUEST, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBHIIIII"), struct.Struct("=HH")
_INODE = struct.Struct("=4xI")
_MESSAGE = 16
"""Bytes of a `unix_diag_msg`, before its attributes."""


def _listening() -> Iterator[_Listening]:
    """The Unix sockets that listen in this network namespace, as sock_diag(7) tells them. Raises OSError."""
    by_family, request_dump, done, error, listen = 20, 0x301, 3, 2, 10
    show_name, show_uid, name_is, uid_is = 0x01, 0x40, 0, 7
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << listen, 0, show_name | show_uid, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as link:  # NETLINK_SOCK_DIAG
        link.settimeout(_PATIENCE)
        link.sendto(_HEADER.pack(_HEADER.size + len(request), by_family, request_dump, 1, 0) + request, (0, 0))
        while True:
            data, (sender, _) = link.recvfrom(1 << 17)
            if sender:
                continue  # not the kernel
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == done:
                    return
                if kind == error or length < _HEADER.size:
                    raise OSError(errno.EPROTO, "the kernel does not tell which sockets there are")
                found = dict(_attributes(data[_HEADER.size + _MESSAGE : length]))
                user = found.get(uid_is)
                inode = _INODE.unpack_from(data, _HEADER.size)[0]
                uid = None if user is None else int.from_bytes(user, sys.byteorder)
                yield _Listening(found.get(name_is, b""), inode, uid)
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each of the attributes of a message of netlink."""
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[max(_ATTRIBUTE.size, _aligned(length)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
