"""The files of a run that a client on another machine gets."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from muster.agent.proxy import send_files
from muster.protocol.frames import FrameDecoder


def sent(folder: Path, have: dict[str, int]) -> list[tuple[dict[str, Any], bytes]]:
    """Return the messages with the files of this directory."""
    ours, theirs = os.pipe()

    def send() -> None:
        try:
            send_files(str(folder), have, theirs)
        finally:
            os.close(theirs)

    threading.Thread(target=send, daemon=True).start()
    with open(ours, "rb") as pipe:
        return FrameDecoder().feed(pipe.read())


def test_what_cannot_be_read_keeps_back_nothing_else(tmp_path: Path) -> None:
    """A file may be removed between the listing and the reading, as the space for the outcome is: here it is a link."""
    (tmp_path / "events.jsonl").write_text("{}\n{}\n")
    (tmp_path / "a-link").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "b-pipe")
    (tmp_path / "outcome.json").write_text("{}")
    found = [(fields["kind"], fields.get("name"), payload) for fields, payload in sent(tmp_path, {"events.jsonl": 3})]
    assert found == [("file", "events.jsonl", b"{}\n"), ("file", "outcome.json", b"{}"), ("done", None, b"")]
