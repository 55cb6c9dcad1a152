"""A full disk ends no rank, and losses are reported: by the run, in the log, and afterwards."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from disks import fill, free, small_disk
from running import RunProcesses, living, newest, no_one_left
from waiting import until

Script = Callable[..., Path]

CHATTY = """
import os, sys, time
number = 0
progress = open(f"progress {os.environ['RANK']}", "w")
while not os.path.exists("go"):
    number += 1
    print("line", number, "." * 100)
    print("note", number, file=sys.stderr)
    print(number, file=progress, flush=True)
    time.sleep(0.002)
print("last line")
"""


def at(muster: Any, disk: Path) -> Any:
    """This muster, for `RunProcesses`, with runs on that disk."""

    class At:
        home, env, start = disk, muster.env, staticmethod(muster.start)

    return At


def numbers(log: str) -> list[int]:
    """Return the numbers of the lines in a log."""
    return [int(number) for number in re.findall(r"^line (\d+) ", log, re.M)]


@pytest.mark.parametrize(
    ("launcher", "kind", "size"),
    [
        # with little space, ranks write into pipes from the start
        *(("fork", "tmpfs", "4m"), ("exec", "ext4", "16m"), ("torchrun", "tmpfs", "4m")),
        # otherwise when a write has failed
        *(("fork", "ext4", "1200m"), ("exec", "ext4", "1200m"), ("torchrun", "ext4", "1200m")),
    ],
)
def test_ranks_outlive_a_full_disk_and_what_they_print_later_is_logged(
    muster: Any, script: Script, tmp_path: Path, launcher: str, kind: str, size: str
) -> None:
    said = tmp_path / "said"

    def progress(rank: int) -> int:
        return int((tmp_path / f"progress {rank}").read_text().split()[-1])

    def stands_still(rank: int) -> bool:
        """Check that the rank continues, and its log does not grow."""
        size, so_far = len(run.log(rank)), progress(rank)
        until(lambda: progress(rank) > so_far + 100, "the rank goes on")
        return len(run.log(rank)) == size

    with (
        small_disk(tmp_path / "disk", size, kind) as disk,
        said.open("w") as err,
        RunProcesses(
            at(muster, disk),
            *("run", "--run-dir", str(disk), "--launcher", launcher, "-g", "2", "--ranks", "1", str(script(CHATTY))),
            stderr=err,
            stdout=subprocess.DEVNULL,
        ) as run,
    ):
        run.wrote("line 5 ", range(2))
        inodes = [os.stat(run.path / f"attempt_0/rank_{rank:05d}.out").st_ino for rank in range(2)]
        everybody = run.everybody()
        fill(disk)
        until(lambda: "cannot write logs: No space left on device" in said.read_text(), "that is told")
        until(lambda: all(stands_still(rank) for rank in range(2)), "no log grows, and the ranks go on")
        free(disk)
        for rank in range(2):
            mark = re.compile(
                rf"^muster: (\d+) bytes of stdout of rank {rank} are missing from this log: No space left", re.M
            )
            until(lambda rank=rank, mark=mark: mark.search(run.log(rank)), "the log says what is missing")
            # while the disk was not quite full there may have been space for a few more lines
            until(lambda rank=rank, mark=mark: len(numbers(mark.split(run.log(rank))[-1])) > 100, "more is logged")
            before, *_, after = mark.split(run.log(rank))
            missing = sum(map(int, mark.findall(run.log(rank))))
            lines = numbers(before)[0], len(set(range(1, numbers(after)[0])) - set(numbers(run.log(rank))))
            # a line at either end may be incomplete
            assert (1, True) == (lines[0], lines[1] <= missing // 100 + 2 * len(mark.findall(run.log(rank))))
        until(lambda: "logs are written again" in said.read_text(), "that is told")
        assert inodes == [os.stat(run.path / f"attempt_0/rank_{rank:05d}.out").st_ino for rank in range(2)]
        fill(disk)
        (tmp_path / "go").touch()
        status, _, _ = run.end()
        assert 0 == status, said.read_text()
        assert [] == living(everybody)
        assert "Traceback" not in said.read_text()
        told = r"ranks 0-1: \S+ (bytes|KiB|MiB) of output missing from their logs: No space left on device"
        assert re.search(r"all 2 ranks succeeded in .*\n" + told, said.read_text()), said.read_text()
        # the result was written although the disk is full
        shown = muster("show", "last", "--run-dir", str(disk))
        assert re.search(told, shown.stdout), shown.stdout + shown.stderr
        assert "state    succeeded" in shown.stdout
        logs = muster("logs", "last", "--run-dir", str(disk), "--rank", "1")
        assert ("line 1 " in logs.stdout, 0) == (True, logs.returncode)
        told = r"rank 1: \S+ (bytes|KiB|MiB) of output missing from its log: No space"
        assert re.search(told, logs.stderr), logs.stderr
        no_one_left([], run.id)


@pytest.mark.parametrize("terminal", ["--no-tty", "--tty"])
def test_a_disk_that_a_rank_fills_itself_and_a_failure_that_cannot_be_logged(
    muster: Any, tmp_path: Path, terminal: str
) -> None:
    """A program in any language, here `yes`, however fast it prints. Its last output is known all the same."""
    text = "yes | head -c 30000000 || exit 9; echo why >&2; exit 4"
    with small_disk(tmp_path / "disk", "2m") as disk:
        done = muster("run", "--run-dir", str(disk), "-q", terminal, "--", "sh", "-c", text)
        assert 4 == done.returncode, done.stderr[-2000:]
        assert re.search(r"rank 0 failed, .*: exit status 4", done.stderr)
        assert re.search(r"rank 0: (26|27|28) MiB of output missing from its log: No space left on device", done.stderr)
        assert "Traceback" not in done.stderr


def test_a_disk_that_fills_while_an_interpreter_is_warmed(muster: Any, script: Script, tmp_path: Path) -> None:
    """Ranks started on a full disk do their work, repeatedly; their output is shown."""
    source = script(
        "import torch, os\nprint('worked')\nassert os.environ['TORCHELASTIC_RESTART_COUNT'] == '1', 'again'"
    )
    with (
        small_disk(tmp_path / "disk", "1m") as disk,
        RunProcesses(
            at(muster, disk), "run", "--run-dir", str(disk), "-g", "2", "--max-restarts", "1", str(source)
        ) as run,
    ):
        until(lambda: run.events("hello"), "the agent begins")
        until(lambda: list(run.path.glob("node_*/warm.log")), "an interpreter is warmed")
        fill(disk)
        status, out, err = run.end()
        assert (0, 4) == (status, out.count("worked")), err
        assert "Traceback" not in err.replace("Traceback (most recent call last)", "", 2)
        assert "all 2 ranks succeeded" in err
        assert "of output missing from their logs: No space left on device" in err
        assert "succeeded" in muster("ps", "-a", "--run-dir", str(disk)).stdout
        no_one_left([], run.id)


def test_a_limit_of_file_sizes_ends_no_rank(muster: Any, script: Script) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    source = script("import sys\nfor number in range(4000): print('line', number, '.' * 50)")
    done = muster("run", "-g", "2", "--launcher", "exec", str(source), preexec_fn=limited)
    assert 0 == done.returncode, done.stderr
    assert [4000, 4000] == [len(re.findall(rf"^\[{rank}\] line", done.stdout, re.M)) for rank in range(2)]
    assert 200_000 == len(muster.log(1))
    assert re.search("ranks 0-1: .* KiB of output missing from their logs: File too large", done.stderr), done.stderr
    assert "succeeded" in muster("ps", "-a").stdout
    assert newest(muster).name


def test_a_full_disk_behind_stdout_is_reported_once(muster: Any) -> None:
    """The run continues, and its logs are complete; JSON output is not truncated silently either."""
    for options in ((), ("--json",)):
        with open("/dev/full", "w") as full:
            process = muster.start("run", *options, "-g", "1", "--", "seq", "20000", stdout=full)
            _, said = process.communicate(timeout=120)
        assert 0 == process.returncode
        assert 1 == said.count("muster: warning: cannot write to stdout: No space left on device; the run continues\n")
        assert "hint: see the output of the ranks with `muster logs`" in said
        assert 20000 == len(muster.log(0).splitlines())
