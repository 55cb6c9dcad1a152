"""What is run: scripts that are read from a file that blocks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from waiting import until

from muster.config.program import read_stream


def test_a_fifo_without_a_writer_is_waited_for_and_said(tmp_path: Path) -> None:
    fifo, said, read = tmp_path / "train.py", list[str](), list[str]()
    os.mkfifo(fifo)
    reading = threading.Thread(
        target=lambda: read.append(read_stream("train.py", str(tmp_path), said.append)), daemon=True
    )
    reading.start()
    until(lambda: said, "the message")
    assert ["waiting for the script: nothing was written to FIFO train.py so far"] == said
    fifo.write_text("print(1)\n")
    reading.join(60)
    assert ["print(1)\n"] == read
