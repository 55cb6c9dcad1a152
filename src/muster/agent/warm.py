"""The agent's side of the warm interpreter: prove the hook, start it, order children from it.

The other side is `hook.py`, which runs inside that interpreter.
"""

import json
import os
import socket

from muster.agent.system import STACKS_SIGNAL, launch


def hooked(env, folder, **conf):
    """This environment, so that a Python started in it meets the hook in `folder` with this configuration."""
    conf["pythonpath"] = env.get("PYTHONPATH")
    path = folder if not env.get("PYTHONPATH") else folder + os.pathsep + env["PYTHONPATH"]
    return dict(env, PYTHONPATH=path, MUSTER_HOOK=json.dumps(conf))


def stack_file(folder, rank):
    """What the hook must know so that a rank writes its stacks when asked."""
    return {"path": os.path.join(folder, "rank_%05d.stack" % rank), "signal": int(STACKS_SIGNAL)}


def write_hook(folder, source):
    """Put the hook in a folder of its own."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "sitecustomize.py"), "w") as file:
        file.write(source)


class Hooked:
    """A Python under the hook, and the socket between it and the agent."""

    def __init__(self):
        self.pid = None
        self.sock = None
        self._data = b""
        self._orders = 0

    def start(self, argv, env, cwd, files, folder, keep=(), **conf):
        """Start it; `files` are its stdin, stdout and stderr, `folder` holds the hook, `conf` is for the hook."""
        self.sock, theirs = socket.socketpair()
        try:
            env = hooked(env, folder, fd=theirs.fileno(), agent=os.getpid(), **conf)
            self.pid = launch(argv, env, cwd, *files, keep=(theirs.fileno(), *keep))
        finally:
            theirs.close()

    def order(self, children, fds=()):
        """Ask for children {name: what the hook needs to know}; gives the number of the order."""
        self._orders += 1
        data = json.dumps({"order": self._orders, "children": children}).encode()
        data = len(data).to_bytes(4, "big") + data
        sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
        self.sock.sendall(data[sent:])
        return self._orders

    def messages(self):
        """What it has said since; None once it has closed its side. Blocks when it has said nothing."""
        try:
            more = self.sock.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        if not more:
            return None
        self._data += more
        found = []
        while len(self._data) >= 4:
            end = 4 + int.from_bytes(self._data[:4], "big")
            if len(self._data) < end:
                break
            found.append(json.loads(self._data[4:end]))
            self._data = self._data[end:]
        return found

    def close(self):
        """End the connection; a warm interpreter then ends by itself."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
