"""Stacks are read once they stand still; a rank without a handler is named, and never signalled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.agent import stacks
from muster.linux.eventloop import EventLoop
from muster.linux.processes import STACKS_SIGNAL, has_handler
from muster.protocol.paths import rank_file

HANDLES = f"""
import faulthandler, sys, time
faulthandler.register({int(STACKS_SIGNAL)}, open(sys.argv[1], "a"))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def handles(tmp_path: Path) -> Iterator[int]:
    """A rank that writes its stacks."""
    path = rank_file(str(tmp_path), 0, "stack")
    Path(path).write_text("of before\n")
    with subprocess.Popen([sys.executable, "-c", HANDLES, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        yield process.pid
        process.kill()


def test_stacks_are_those_of_now_and_who_cannot_say_is_named(
    handles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "WITHIN", 60.0)
    told: list[tuple[dict[int, str], dict[int, int]]] = []
    assert not has_handler(os.getpid(), STACKS_SIGNAL)
    with EventLoop() as loop:
        pids = {0: handles, 1: os.getpid()}
        stacks.collect(pids, str(tmp_path), loop.call_later, lambda texts, mute: told.append((texts, mute)))
        while not told:
            loop.run_once()
    texts, mute = told[0]
    assert {1: os.getpid()} == mute
    assert "most recent call first" in texts[0] and "of before" not in texts[0]


EXITS = f"""
import faulthandler, sys
faulthandler.register({int(STACKS_SIGNAL)}, open(sys.argv[1], "a"))
for word in ("ready", "exits", "lives"):
    print(word, flush=True)
    sys.stdin.readline()
    faulthandler.unregister({int(STACKS_SIGNAL)})
"""
"""Its handler is removed meanwhile, as the interpreter does when it exits."""


def test_a_rank_that_exits_before_the_signal_could_be_sent_is_not_signalled(tmp_path: Path) -> None:
    path = rank_file(str(tmp_path), 0, "stack")
    argv = [sys.executable, "-c", EXITS, path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        request = stacks.StackRequest(process.pid, path)
        assert request.possible
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert b"exits\n" == process.stdout.readline()
        assert request.check() and "" == request.text
        process.stdin.write(b"\n\n")
        process.stdin.flush()
        assert b"lives\n" == process.stdout.readline()
    assert 0 == process.returncode


CLOSED = """
import os, sys, time
os.closerange(3, 300)
files = [open(f"{sys.argv[1]}/{number}", "w") for number in range(250)]
print("ready", flush=True)
time.sleep(600)
"""


def test_no_stacks_are_written_to_a_file_of_the_script(tmp_path: Path) -> None:
    """A program that becomes a daemon closes all files, and its own get their numbers."""
    path = rank_file(str(tmp_path), 0, "stack")
    start = f"import faulthandler, os; fd = os.open({path!r}, 0o102); os.dup2(fd, 200)"
    start += f"; faulthandler.register({int(STACKS_SIGNAL)}, 200)\n"
    (tmp_path / "own").mkdir()
    argv = [sys.executable, "-c", start + CLOSED, str(tmp_path / "own")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and b"ready\n" == process.stdout.readline()
        assert os.readlink(f"/proc/{process.pid}/fd/200").startswith(str(tmp_path / "own"))
        assert has_handler(process.pid, STACKS_SIGNAL)
        assert not stacks.StackRequest(process.pid, path).possible
        process.kill()
