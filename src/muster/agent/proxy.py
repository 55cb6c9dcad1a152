"""Relay between stdin and stdout and a local socket, in both directions, until one side is closed.

Also calls that run on a host (`calls.py`) to reach the controller of a run, or its files.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
from collections.abc import Mapping

from muster.protocol import local_sockets, paths
from muster.protocol.frames import FrameDecoder, Refused, encode_frame, whole_frames


def survive() -> None:
    """Ignore signals that a scheduler sends to all steps of a job for the ranks, except SIGTERM."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)  # the kernel still kills it for a fault of its own


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of the data."""
    while data:
        data = data[os.write(fd, data) :]


def carry(link: socket.socket) -> None:
    """Relay between stdin and stdout and this connection, and close it."""
    os.set_blocking(0, True)
    with link:
        try:
            while True:
                readable, _, _ = select.select([0, link.fileno()], [], [])
                for side in readable:
                    data = os.read(side, 1 << 16)
                    if not data:
                        return
                    if side == 0:
                        link.sendall(data)
                    else:
                        write_all(1, data)
        except OSError:
            return  # one side is closed


def send(kind: str, payload: bytes = b"", to: int = 1, /, **fields: object) -> None:
    """Send one frame, to stdout unless `to` says otherwise."""
    write_all(to, encode_frame(kind, payload, **fields))


def visit(run_dir: str, source: int = 0, sink: int = 1, errors: int = 2) -> None:
    """Relay to the controller of the run in this directory, and send its files, until the client leaves.

    If there is no controller, that is reported, and whether the run's files exist. It ends with the connection to the
    controller: the client asks for files before, or connects again. The descriptors are those of the client: stdin,
    stdout and stderr, or pipes in the same process (`client/direct.py`).
    """
    try:
        link = local_sockets.find(run_dir, local_sockets.SUPERVISOR)
    except TimeoutError:
        write_all(errors, b"its controller accepts no connections\n")
        return
    if link is None:
        send("no_controller", b"", sink, there=os.path.exists(os.path.join(run_dir, "job.json")))
    os.set_blocking(source, True)
    asked, told = FrameDecoder(), bytearray()
    try:
        while True:
            readable = _readable(source) if link is None else _readable(source, link.fileno())
            moved = False
            if source in readable:
                data = os.read(source, 1 << 16)
                for fields, payload in asked.feed(data):
                    if fields["kind"] == "files":
                        if fields["last"] and link is not None:
                            link.close()  # the controller waits for its clients before it exits
                            link = None
                        send_files(run_dir, fields["have"], sink)
                    elif fields["kind"] == "visit_run":
                        if link is not None:
                            link.close()
                        run_dir, told, moved = fields["run_dir"], bytearray(), True
                        link = local_sockets.find(run_dir, local_sockets.SUPERVISOR)
                        if link is None:
                            send("no_controller", b"", sink, there=os.path.exists(os.path.join(run_dir, "job.json")))
                    elif link is not None:
                        link.sendall(encode_frame(payload=payload, **fields))
                if not data:
                    return
            if link is not None and not moved and link.fileno() in readable:
                data = link.recv(1 << 16)
                if not data:
                    return
                told += data
                end = whole_frames(told)  # files may be inserted between two frames, and nowhere else
                write_all(sink, told[:end])
                del told[:end]
    except (OSError, Refused):
        return  # one side is closed
    finally:
        if link is not None:
            link.close()


def _readable(*files: int) -> list[int]:
    """Wait until some of these descriptors are readable, or closed, and return them: `select` takes none above 1023."""
    watch = select.poll()
    for fd in files:
        watch.register(fd, select.POLLIN)
    return [fd for fd, _ in watch.poll()]


def find_runs(which: str) -> dict[str, str]:
    """Return the directories by ID of the runs whose IDs have this prefix, or of the `last` run."""
    home = paths.muster_home(os.environ)
    found = {name: os.path.join(home, "runs", name) for name in _names_in(os.path.join(home, "runs"))}
    for name in _names_in(os.path.join(home, "elsewhere")):  # links to runs in other directories
        target = os.path.realpath(os.path.join(home, "elsewhere", name))
        if os.path.basename(target) == name and os.path.isdir(target):
            found.setdefault(name, target)
    names = sorted(found)
    fit = names[-1:] if which == "last" else [name for name in names if name.startswith(which)]
    return {name: found[name] for name in fit}


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def introduce(which: str) -> None:
    """Send what a client must know of a run to connect to its controller: its directory, job.json, plan.json."""
    found = find_runs(which)
    run_dir = next(iter(found.values())) if len(found) == 1 else ""
    files = {}
    for name in ("job.json", "plan.json"):
        try:
            with open(os.path.join(run_dir, name)) as file:
                files[name] = file.read()
        except OSError:
            pass
    send("run_described", there=run_dir, files=files, fits=list(found)[::-1])


def send_files(run_dir: str, have: Mapping[str, int], sink: int = 1) -> None:
    """Send what the run's files have beyond the given sizes, rewritten ones completely, and then `done`."""
    for folder, _, names in os.walk(run_dir):
        for file in sorted(names):
            path = os.path.join(folder, file)
            name = os.path.relpath(path, run_dir)
            if file.endswith((".pyz", ".part", local_sockets.TOKEN)) or os.sep + "hook" in folder:
                continue
            grows = not file.endswith(".json")
            begin = have.get(name, 0) if grows else 0
            try:
                # do not wait for a FIFO
                opened = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
            except OSError:  # it was removed in the meantime, or nothing is where a link leads to
                continue
            with opened:
                if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    continue
                opened.seek(begin)
                while True:
                    data = opened.read(1 << 20)
                    if not data:
                        break
                    send("file", data, sink, name=name, offset=begin, whole=not grows)
                    begin += len(data)
    send("done", b"", sink)
