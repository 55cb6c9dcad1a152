"""Commands that follow a run: how many processes they start, and that they show everything once."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import until

COUNTED = """
"$@"
status=$?
read last </proc/sys/kernel/ns_last_pid
echo $((last - 2)) >"$COUNT"
exit $status
"""
"""Runs a command as process 2 of a pid namespace, where the kernel numbers each process and each thread."""

TALKS = "number=0; until [ -e go ]; do number=$((number + 1)); echo line $number; sleep 0.1; done; exit 5"


class Counted:
    """A command of muster that counts how many processes and threads it starts."""

    def __init__(self, muster: Any, *words: str) -> None:
        self._count, self._out = (muster.cwd / f"{name} of {words[0]}" for name in ("count", "out"))
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", COUNTED, "sh"]
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                [*apart, *muster.argv(*words)],
                env={**muster.env, "COUNT": str(self._count)},
                cwd=muster.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self._out.read_text()

    def started(self, status: int) -> int:
        """Return the count after the command has exited with this code."""
        assert status == self.process.wait(timeout=120), self.said
        return int(self._count.read_text())


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of processes needs root")
def test_following_a_detached_run_starts_one_process(muster: Any, tmp_path: Path) -> None:
    """`logs -f`, `wait` and `attach`, however long they take; and questions."""
    assert 0 == muster("run", "-d", "-g", "2", "--", "sh", "-c", TALKS).returncode
    began = time.monotonic()
    follows = [Counted(muster, *words, "last") for words in (["logs", "-f"], ["wait"])]
    watches = Counted(muster, "attach", "last", "--all")
    assert 1 == Counted(muster, "stacks", "last").started(0)
    assert 1 == Counted(muster, "show", "last").started(0)
    logs, waits = follows

    def lines(rank: int) -> list[str]:
        return [line.partition(" ")[2] for line in logs.said.splitlines() if line.startswith(f"[{rank}] ")]

    until(lambda: min(len(lines(0)), len(lines(1))) > 30, "it has shown what was written in three seconds")
    assert time.monotonic() - began > 3.0
    (tmp_path / "go").touch()
    assert [0, 0] == [logs.started(0) - 1, waits.started(5) - 1]
    assert watches.started(5) <= 3, "and the threads of what it shows and keeps"
    assert "failed first" in waits.said
    for rank in range(2):
        assert muster.log(rank).decode().splitlines() == lines(rank)


def test_a_follower_that_nobody_reads_misses_nothing(muster: Any, tmp_path: Path) -> None:
    """As in a stopped terminal: output continues when it is read, and delays no one else."""
    text = "seq 200000; until [ -e go ]; do sleep 0.02; done; echo last"
    assert 0 == muster("run", "-d", "--", "sh", "-c", text).returncode
    until(lambda: list(muster.newest().glob("attempt_0/rank_00000.out")), "the rank has begun")
    follower = muster.start("logs", "-f", "last")
    whole = "".join(f"{number}\n" for number in range(1, 200_001))
    until(lambda: len(muster.log(0)) == len(whole), "the rank has written more than a pipe holds")
    (tmp_path / "go").touch()
    until(lambda: muster.log(0).endswith(b"last\n"), "it has gone on")
    out, err = follower.communicate(timeout=120)
    assert (0, "") == (follower.returncode, err)
    assert (out == "".join(f"[0] {line}\n" for line in [*whole.splitlines(), "last"])) is True
    assert 0 == muster("wait", "last").returncode
