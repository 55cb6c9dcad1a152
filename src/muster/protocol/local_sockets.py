"""The sockets of a run on one machine: their names cannot be predicted, and each end verifies the user of the other.

They are abstract sockets (a path would break at 108 bytes and on NFS, and would remain when its process is killed). All
users of the machine see the names of bound sockets, may bind any other name, and may connect to all. Therefore

- a name ends with an HMAC of a token that only files of the run's owner contain, so nobody can bind it beforehand, and
  one that was seen reveals nothing about others;
- a listener uses the next name if one is taken;
- a client sends nothing until the kernel confirms that the owner of the run listens there (SO_PEERCRED), and a listener
  accepts only that user and root.
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
from muster.linux.files import replace_file

TOKEN = "token"
"""The file with the token in the run directory, and in the archive that external launchers start."""

AGENT, SUPERVISOR = "agent", "supervisor"
"""The listening processes."""

_NAMES = 16
"""Number of names for each of them on one machine."""
_PATIENCE = 5.0
"""Timeout in seconds for a connection, if the listener's queue is full."""


class Sockets(NamedTuple):
    """The sockets of a run, whose names are derived from its ID and token."""

    run_id: str
    token: str

    def names(self, uid: int, who: str) -> Iterator[str]:
        """Yield the possible socket names of `who` on this machine; it listens at the first free one."""
        for number in range(_NAMES):
            # by boot id, since other machines do not know which node this is
            text = f"{who} {procfs.boot_id()} {number}".encode()
            secret = hmac.new(self.token.encode(), text, hashlib.sha256).hexdigest()
            yield f"\0muster/{uid}/{self.run_id}/{secret[:20]}"  # includes the run id for `muster clean`

    def listen(self, who: str, queue: int = 128) -> socket.socket:
        """Return a socket listening for other processes of this user. Raises OSError."""
        for name in self.names(os.getuid(), who):
            local = None
            try:
                local = socket.socket(socket.AF_UNIX)
                local.bind(name)
                local.listen(queue)
                return local
            except OSError as error:  # some sandboxes have none
                if local is not None:
                    local.close()
                if error.errno != errno.EADDRINUSE:
                    error.filename = "a local socket"
                    raise
        raise OSError(errno.EADDRINUSE, "all names are taken by other users", "a local socket")

    def connect(self, who: str, owner: int) -> socket.socket | None:
        """Return a connection to `who` of the run of user `owner`; None if no process of that user listens.

        Raises TimeoutError if one does, but accepts no connection.
        """
        for name in self.names(owner, who):
            link = connect(name, owner)
            if link is not None:
                return link
        return None


def connect(name: str, owner: int) -> socket.socket | None:
    """Return a connection to the abstract socket `name`; None if `owner` does not listen there.

    Raises TimeoutError if it does, but accepts no connection.
    """
    try:
        link = socket.socket(socket.AF_UNIX)
    except OSError:  # some sandboxes have none
        return None
    link.settimeout(_PATIENCE)
    try:
        link.connect(name)
    except (TimeoutError, socket.timeout, BlockingIOError):
        link.close()
        if _holds(name, owner):
            raise TimeoutError(errno.ETIMEDOUT, "the listening process accepts no connections") from None
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
    """Return the uid at the other end: of the process that connected, or that listens."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def find(run_dir: str, who: str) -> socket.socket | None:
    """Return a local connection to `who` of the run in that directory; None if no process of its owner listens.

    Raises TimeoutError if one does, but accepts no connection.
    """
    try:
        # one descriptor for both: the owner may replace the directory meanwhile
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            owner = os.fstat(folder).st_uid
            with open(os.open(TOKEN, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)) as file:
                token = file.read(256)
        finally:
            os.close(folder)
    except (OSError, ValueError):
        return None
    # for root, files on NFS may seem to belong to nobody
    for uid in dict.fromkeys((owner, os.getuid())):
        link = Sockets(os.path.basename(os.path.normpath(run_dir)), token).connect(who, uid)
        if link is not None:
            return link
    return None


def listens(connect: Callable[[], socket.socket | None]) -> bool:
    """Return whether a process listens where `connect` (a call of `find`) connects, even if too busy to accept."""
    try:
        link = connect()
    except TimeoutError:
        return True
    if link is not None:
        link.close()
    return link is not None


def new_token() -> str:
    """Return a new token, from which the socket names of a run are derived."""
    return os.urandom(16).hex()


def token_of_role(token: str, role: str) -> str:
    """Return the token of the ranks of one role: on a host with several roles, each is found by its own agent."""
    return hmac.new(token.encode(), f"role {role}".encode(), hashlib.sha256).hexdigest()[:32]


def keep(run_dir: str, token: str) -> None:
    """Write the token where the owner's other terminals find it. Raises OSError."""
    replace_file(os.path.join(run_dir, TOKEN), token.encode())  # nodes that share the directory write the same token


def _holds(name: str, uid: int) -> bool:
    """Return whether a socket of this user listens at that name, if connecting cannot tell; False if unknown.

    The kernel is asked over netlink: in the text of /proc/net/unix a name with a line break can forge a line.
    """
    try:
        found = [sock for sock in _listening() if sock.name == os.fsencode(name)]
    except (OSError, struct.error):  # some sandboxes have no netlink
        return False
    return any(_has(uid, sock.inode) if sock.uid is None else sock.uid == uid for sock in found)


def _has(uid: int, inode: int) -> bool:
    """Return whether a process of this user has that socket; Linux before 5.3 does not report its owner."""
    import glob

    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path) == f"socket:[{inode}]":
                with open(path.rpartition("/fd/")[0] + "/status", "rb") as file:  # its directory may be shown as root's
                    owners = next(line for line in file if line.startswith(b"Uid:")).split()
                if int(owners[1]) == uid:
                    return True
        except (OSError, StopIteration):
            continue
    return False


class _Listening(NamedTuple):
    """A listening Unix socket; `uid` is None if the kernel does not report it."""

    name: bytes
    inode: int
    uid: int | None


_HEADER, _REQUEST, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBHIIIII"), struct.Struct("=HH")
_INODE = struct.Struct("=4xI")
_MESSAGE = 16
"""Size of a `unix_diag_msg` before its attributes, in bytes."""


def _listening() -> Iterator[_Listening]:
    """Yield the listening Unix sockets of this network namespace, from sock_diag(7). Raises OSError."""
    by_family, request_dump, done, error, listen = 20, 0x301, 3, 2, 10
    show_name, show_uid, name_is, uid_is = 0x01, 0x40, 0, 7
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << listen, 0, show_name | show_uid, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as link:  # NETLINK_SOCK_DIAG
        link.settimeout(_PATIENCE)
        link.sendto(_HEADER.pack(_HEADER.size + len(request), by_family, request_dump, 1, 0) + request, (0, 0))
        while True:
            data, (sender, _) = link.recvfrom(1 << 17)
            if sender:
                continue  # not sent by the kernel
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == done:
                    return
                if kind == error or length < _HEADER.size:
                    raise OSError(errno.EPROTO, "cannot list sockets: invalid answer from the kernel")
                found = dict(_attributes(data[_HEADER.size + _MESSAGE : length]))
                user = found.get(uid_is)
                inode = _INODE.unpack_from(data, _HEADER.size)[0]
                uid = None if user is None else int.from_bytes(user, sys.byteorder)
                yield _Listening(found.get(name_is, b""), inode, uid)
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each attribute of a netlink message."""
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[max(_ATTRIBUTE.size, _aligned(length)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
