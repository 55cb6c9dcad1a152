"""ProxyCommand with which ssh on the machine itself reaches a host of the lab.

    python -m muster.lab.connect FOLDER ADDRESS PORT

It enters the network namespace of the lab's switch, connects, and passes the connection to ssh (ProxyUseFdpass).
"""

from __future__ import annotations

import os
import socket
import sys

from muster.lab import files, namespaces
from muster.lab.spec import Folder


def main() -> int:
    """Run the program; return 1 if the host does not answer."""
    folder, host, port = Folder(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    record = files.read_record(folder)
    if record is None:
        print(f"error: no lab is up in {folder.path}", file=sys.stderr)
        return 1
    try:
        network = os.open(f"/proc/{record['keeper'][0]}/ns/net", os.O_RDONLY)
        namespaces.enter(network, namespaces.NEW_NET)
        connection = socket.create_connection((host, port), timeout=20)
        connection.settimeout(None)
        with socket.socket(fileno=os.dup(1)) as ssh:
            socket.send_fds(ssh, [b"\0"], [connection.fileno()])
    except OSError as error:
        print(f"error: cannot connect to {host} port {port} of the lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
