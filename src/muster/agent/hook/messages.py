"""Messages from a process under the site hook to the agent."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def tell(fd: int, **message: Any) -> None:
    """Send one message to the agent: four bytes of length, then JSON."""
    import json

    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(fd, data) :]
