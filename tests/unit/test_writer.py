"""Writes in a separate thread: in order, and without blocking the loop."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from muster.controller.connections import Agents
from muster.controller.foreground import ForegroundController
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.linux.writer import Writer
from muster.rundir.run import Run
from muster.rundir.writer import RunWriter
from muster.ui.output_writer import OutputWriter


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


def test_things_are_done_in_order_in_a_thread_and_told_in_the_loop(loop: EventLoop) -> None:
    writer, seen = Writer(loop), list[tuple[str, bool]]()

    def see(what: str) -> None:
        seen.append((what, threading.current_thread() is threading.main_thread()))

    def fails() -> None:
        see("failing")
        raise OSError("full")

    writer.do(lambda: see("one"))
    writer.do(fails, lambda error: see(f"failed: {error}"))
    writer.then(lambda: see("so far"))
    writer.do(lambda: see("two"))
    loop.run_once(0)
    assert [] == seen, "it was not started yet"
    writer.start()
    writer.drain()
    here = [what for what, in_loop in seen if in_loop]
    assert (["one", "failing", "two"], ["failed: full", "so far"]) == ([what for what, it in seen if not it], here)
    writer.do(fails, lambda error: see("failed again"))
    writer.close()
    assert ("failed again", True) == seen[-1], "what failed last is told too"


def test_an_error_of_any_kind_is_raised_in_the_loop_and_the_thread_goes_on(loop: EventLoop) -> None:
    """As if the loop had written itself; errors of the disk only if no callback handles them."""
    writer, done = Writer(loop), list[str]()

    def fails(error: Exception) -> None:
        raise error

    for wrong, failed in (
        (ValueError("one of ours"), lambda error: done.append("told as one of the disk")),
        (ZeroDivisionError(), None),
        (OSError("full"), None),
    ):
        writer.do(partial(fails, wrong), failed)
        writer.do(lambda: done.append("the next"))
    writer.start()
    for kind in (ValueError, ZeroDivisionError, OSError):
        with pytest.raises(kind):
            writer.drain()
    writer.drain()
    assert ["the next"] * 3 == done
    writer.do(partial(fails, ValueError()))
    with pytest.raises(ValueError):
        writer.close()


def test_a_hanging_write_blocks_neither_the_loop_nor_the_end(loop: EventLoop) -> None:
    writer, gate, called = Writer(loop), threading.Event(), list[str]()
    writer.start()
    writer.do(gate.wait)
    writer.then(lambda: called.append("done"))
    loop.call_later(0, lambda: called.append("timer"))
    writer.drain(lambda: "timer" in called)
    writer.close(0.01)
    assert ["timer"] == called
    gate.set()
    writer.close()
    assert ["timer", "done"] == called


def test_a_terminal_that_reads_nothing_gets_no_more_beyond_a_limit(loop: EventLoop) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    pen, called = OutputWriter(Writer(loop)), list[str]()
    pen.writer.start()
    pen.put(writing, b"under way")
    pen.put(writing, b"never")
    loop.call_later(0, lambda: called.append("Ctrl-C"))
    pen.close(lambda: bool(called))
    assert 4096 < len(os.read(reading, 1 << 20)), "now the thread goes on"
    pen.writer.close()
    os.close(writing)
    assert os.read(reading, 100) in (b"", b"under way")
    os.close(reading)


def test_lines_that_a_file_does_not_take_are_counted_and_told_of_once(loop: EventLoop, tmp_path: Path) -> None:
    said: list[str] = []
    scribe = RunWriter(Writer(loop), Run(tmp_path), said.append)
    scribe.writer.start()
    (tmp_path / "events.jsonl").mkdir()
    scribe.append("events.jsonl", "one\n")
    scribe.append("events.jsonl", "two\n")
    scribe.append("node/times.log", "three\n")
    scribe.put("attempt_0/rank", 2, b"cd")
    scribe.put("attempt_0/rank", 0, b"ab")
    assert 2 == scribe.close()
    assert [f"warning: cannot write to {tmp_path}: Is a directory; the run continues"] == said
    assert ("three\n", b"abcd") == (
        (tmp_path / "node/times.log").read_text(),
        (tmp_path / "attempt_0/rank").read_bytes(),
    )


class NoView:
    """No view."""

    wants = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_stalled_disk_does_not_block_events_of_a_run_in_the_foreground(loop: EventLoop, tmp_path: Path) -> None:
    """Its events.jsonl is a pipe without a reader, so that opening it hangs."""
    path = tmp_path / "events.jsonl"
    os.mkfifo(path)
    job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/")
    plan = make_plan(job, layout([(Host("here"), 1)]), "20261127-000000-abcdef")
    signals, reads = CapturedSignals(loop, []), threading.Event()
    attached = ForegroundController(loop, signals, plan, Run(tmp_path), Agents([], None), NoView(), 0.0)
    attached.start_writing()
    lines: list[str] = []
    late = threading.Timer(120, reads.set)  # of one that hangs

    def read() -> None:
        reads.wait()
        lines.extend(path.read_text().splitlines())

    reader = threading.Thread(target=read)
    late.start()
    reader.start()
    attached.record("hello", {"node": 0})
    attached.record("bye", {})
    assert not reads.is_set(), "the loop waited for the disk"
    reads.set()
    assert 0 == attached.scribe.close()
    reader.join()
    late.cancel()
    attached.pen.writer.close()
    assert [{"event": "hello", "node": 0}, {"event": "bye"}] == [json.loads(line) for line in lines]
