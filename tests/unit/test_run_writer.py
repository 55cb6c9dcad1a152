"""Copies of logs on a disk that fills up are a prefix of the log, and missing bytes are counted."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.linux.eventloop import EventLoop
from muster.linux.writer import Writer
from muster.rundir.run import Run
from muster.rundir.writer import Gap, RunWriter

NAME = "attempt_0/rank_00001.out"


@pytest.fixture
def writer() -> Iterator[Writer]:
    with EventLoop() as loop:
        made = Writer(loop)
        made.start()
        yield made
        made.close()


class Disk:
    """A fake `os.pwrite`, on a disk that accepts `left` more bytes, at most three at a time."""

    def __init__(self, left: int):
        self.left, self._write = left, os.pwrite

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, bytes(data[: min(self.left, 3)]), offset)
        self.left -= written
        return written


def test_a_copy_has_no_gaps_and_missing_bytes_are_counted(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, said = Disk(10), list[str]()

    def complain(text: str) -> None:
        said.append(text)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a log on the same disk

    monkeypatch.setattr(os, "pwrite", disk)
    scribe = RunWriter(writer, Run(tmp_path), complain)
    seen = list[object]()

    def put(offset: int, data: bytes) -> None:
        scribe.put(NAME, offset, data, lambda: seen.append((offset, len(data))))
        writer.drain(lambda: False)

    put(0, b"one two ")
    assert ((tmp_path / NAME).read_bytes(), scribe.gaps) == (b"one two ", {})
    put(8, b"three ")
    full = "No space left on device"
    assert ((tmp_path / NAME).read_bytes(), scribe.gaps) == (b"one two th", {NAME: Gap(4, full)})
    disk.left = 100  # what follows the gap is dropped all the same
    put(14, b"four ")
    assert ((tmp_path / NAME).read_bytes(), scribe.gaps) == (b"one two th", {NAME: Gap(9, full)})
    put(10, b"ree four ")
    assert ((tmp_path / NAME).read_bytes(), scribe.gaps) == (b"one two three four ", {})
    assert seen == [(0, 8), (8, 6), (14, 5), (10, 9)], "all are told of, for the sender waits"
    scribe.close()
    assert said == [f"warning: cannot write to {tmp_path}: {full}; the run continues"]


def test_it_is_known_that_lines_wait_for_room(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a writer of many lines drops them meanwhile."""
    scribe = RunWriter(writer, Run(tmp_path), lambda _: None)
    write, full = os.write, [True]

    def limited(fd: int, data: bytes) -> int:
        if full[0] and stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", limited)
    scribe.append("times.log", "line\n")
    writer.drain(lambda: False)
    assert scribe.behind("times.log")
    full[0] = False
    scribe.append("times.log", "")
    scribe.close()
    assert (scribe.behind("times.log"), (tmp_path / "times.log").read_text()) == (False, "line\n")
