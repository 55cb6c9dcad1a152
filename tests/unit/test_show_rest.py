"""Output that was not sent is shown from the files of the run: in the order of writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from muster.controller.unsent_output import show_rest
from muster.rundir.run import Run
from muster.ui.view import View


class Seen:
    """A view that collects the output."""

    def __init__(self, wants: Any) -> None:
        self.wants = wants
        self.output_of: list[tuple[int, bytes]] = []
        self.said: list[str] = []

    def output(self, rank: int, stream: str, data: bytes) -> None:
        self.output_of.append((rank, data))

    def say(self, text: str) -> None:
        self.said.append(text)


def run_of_two(tmp_path: Path) -> Run:
    """Two ranks that wrote in turns."""
    folder = tmp_path / "20261127-120000-abcde"
    for name in ("attempt_0", "node_0"):
        (folder / name).mkdir(parents=True, mode=0o700)
    for rank in range(2):
        (folder / "attempt_0" / f"rank_{rank:05d}.out").write_bytes(b"one\ntwo\n")
    (folder / "node_0" / "times.log").write_bytes(b"@ 1000.000 0\n0 0o4\n10 1o4\n10 0o4\n10 1o4\n")
    return Run(folder)


def test_ranks_that_wrote_in_turns_are_shown_in_turns(tmp_path: Path) -> None:
    view, offsets = Seen(True), {"0/1.out": 4}
    show_rest(run_of_two(tmp_path), cast(View, view), offsets)
    assert [(0, b"one\n"), (0, b"two\n"), (1, b"two\n")] == view.output_of
    assert {"0/0.out": 8, "0/1.out": 8} == offsets
    view = Seen(True)
    show_rest(run_of_two(tmp_path / "again"), cast(View, view), {})
    assert [0, 1, 0, 1] == [rank for rank, _ in view.output_of]


def test_a_log_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    run = run_of_two(tmp_path)
    log = run.log(0, 0, "out")
    log.unlink()
    log.symlink_to("/etc/passwd")
    view = Seen(True)
    show_rest(run, cast(View, view), {})
    assert b"one\ntwo\n" == b"".join(data for rank, data in view.output_of if rank == 1)
    assert 1 == len(view.said) and "cannot show" in view.said[0]
