"""Every byte that a rank writes is in its file and reaches all readers, complete, in order, and with its prefix."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses, children, living, log, newest, process
from waiting import until

Script = Callable[..., Path]

LINE = b"%d %08d " + b"x" * 90 + b"\n"
FLOOD = """
import os, sys
rank, count = int(os.environ["RANK"]), int(sys.argv[1])
out = [sys.stdout.buffer, sys.stderr.buffer][rank % 2]
for start in range(0, count, 100):
    out.write(b"".join(b"%d %08d " % (rank, number) + b"x" * 90 + b"\\n" for number in range(start, start + 100)))
    if start % 1000 == 0:
        out.flush()
out.flush()
open("done" + str(rank), "w").close()
"""
"""Numbered lines of a hundred bytes; pieces end anywhere in a line. Odd ranks write to stderr."""


def expected(rank: int, count: int, prefix: bytes = b"") -> bytes:
    """Return what FLOOD writes in a rank."""
    return b"".join(prefix + LINE % (rank, number) for number in range(count))


def test_of_100_megabytes_from_8_ranks_no_line_is_lost_or_torn(muster: Any, script: Script, tmp_path: Path) -> None:
    path, count = str(script(FLOOD)), 125_000
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        done = muster(
            "run", "-g", "8", "--", sys.executable, path, str(count), stdout=out, stderr=err, capture_output=False
        )
    assert 0 == done.returncode
    shown: dict[bytes, list[bytes]] = {}
    for name in ("out", "err"):
        with open(tmp_path / name, "rb") as file:
            for line in file:
                shown.setdefault(line[:4], []).append(line)
    for rank in range(8):
        stream = ("out", "err")[rank % 2]
        assert expected(rank, count) == log(muster, rank, stream), f"the file of rank {rank}"
        assert b"" == log(muster, rank, ("err", "out")[rank % 2])
        prefix = b"[%d] " % rank
        # comparing two long texts in an assert takes minutes to print
        assert (b"".join(shown.pop(prefix)) == expected(rank, count, prefix)) is True, f"what is shown of rank {rank}"
    assert {b"must"} == set(shown)


def test_a_terminal_that_is_cut_off_while_the_run_ends_shows_all_of_it(muster: Any, tmp_path: Path) -> None:
    """It reconnects after the agents have exited, or after everything has; the rest is in the files."""
    lines = "echo 1; until [ -e go ]; do sleep 0.02; done; seq 2 40; seq 41 60 >&2"
    # each waits for the other: the first to fail ends the rest
    lines += "; touch done$RANK; until [ -e done0 ] && [ -e done1 ]; do sleep 0.02; done; exit 5"
    assert 0 == muster("run", "-d", "-g", "2", "--", "sh", "-c", lines).returncode
    watching = muster.start("attach", "last", "--all")
    try:
        shown = [watching.stdout.readline() for _ in range(2)]
        for connection in children(watching.pid):
            os.kill(connection, signal.SIGSTOP)
        (tmp_path / "go").touch()
        until((muster.newest() / "outcome.json").exists, "the run has ended")
        for connection in children(watching.pid):
            os.kill(connection, signal.SIGKILL)
        out, err = watching.communicate(timeout=120)
    finally:
        watching.kill()
    assert 5 == watching.returncode, err
    for rank in range(2):
        found = [line for line in ("".join(shown) + out).splitlines() if line.startswith(f"[{rank}]")]
        assert [f"[{rank}] {number}" for number in range(1, 41)] == found
        found = [line for line in err.splitlines() if line.startswith(f"[{rank}]")]
        assert [f"[{rank}] {number}" for number in range(41, 61)] == found
    assert "exit status 5" in err


def test_a_slow_reader_does_not_slow_the_ranks_and_loses_nothing(muster: Any, script: Script, tmp_path: Path) -> None:
    path, count = str(script(FLOOD)), 100_000
    with RunProcesses(muster, "run", "-g", "1", "--", sys.executable, path, str(count), text=False) as run:
        until((tmp_path / "done0").exists, "the rank has written 10 MB while nobody reads")
        assert len(expected(0, count)) == (run.path / "attempt_0" / "rank_00000.out").stat().st_size
        assert run.process.poll() is None
        out, _ = run.process.communicate(timeout=120)
        assert (out == expected(0, count, b"[0] ")) is True
        assert 0 == run.process.returncode


BYTES = rb"""
printf 'caf\303\251 \377\376 end\n'
printf '\n'
printf 'step 1\rstep 2\rstep 3\n'
printf 'dos\r\n'
printf '\0nul\n'
printf 'no newline'
"""


def test_output_is_bytes_in_the_file_and_lines_on_the_screen(muster: Any, tmp_path: Path) -> None:
    (tmp_path / "bytes.sh").write_bytes(BYTES)
    done = muster("run", "-g", "2", "--", "sh", "bytes.sh", text=False)
    written = b"caf\xc3\xa9 \xff\xfe end\n\nstep 1\rstep 2\rstep 3\ndos\r\n\0nul\nno newline"
    seen = [b"caf\xc3\xa9 \xff\xfe end", b"", b"step 3", b"dos", b"\0nul", b"no newline"]
    for rank in range(2):
        assert written == log(muster, rank)
        prefix = b"[%d] " % rank
        assert seen == [line[4:] for line in done.stdout.split(b"\n") if line.startswith(prefix)]
        asked = muster("logs", "--rank", str(rank), "--prefix", "", text=False).stdout
        assert [*seen, b""] == asked.split(b"\n")


def test_logs_shows_what_is_asked_for(muster: Any) -> None:
    muster("run", "-g", "3", "--", "sh", "-c", "echo out $RANK; echo err $RANK >&2")
    every = {f"[{rank}] {stream} {rank}" for rank in range(3) for stream in ("out", "err")}

    def logs(*words: str) -> set[str]:
        done = muster("logs", *words)
        assert (0, "") == (done.returncode, done.stderr)
        return set(done.stdout.splitlines())

    assert every == logs() == logs("last") == logs("--rank", "0-2") == logs("--since", "1h")
    assert {"[0] out 0", "[0] err 0", "[2] out 2", "[2] err 2"} == logs("--rank", "0,2")
    assert {f"[{rank}] err {rank}" for rank in range(3)} == logs("--stderr")
    assert {"[1] out 1"} == logs("last", "--stdout", "--rank=1")
    assert {"1=out 1"} == logs("--stdout", "--rank=1", "--prefix", "{rank}=")
    assert (2, "") == tuple(getattr(muster("logs", "--rank", "3"), name) for name in ("returncode", "stdout"))


def test_log_dir_has_torchruns_names_which_go_with_the_run(muster: Any, tmp_path: Path) -> None:
    """A directory for each run, attempt and local rank; error.json if the script recorded an error."""
    text = """echo out $RANK $ROLE_NAME; echo err >&2
    [ $TORCHELASTIC_RESTART_COUNT = 1 ] && exit 0
    echo {} > $TORCHELASTIC_ERROR_FILE; touch failed$RANK; until [ -e failed0 ] && [ -e failed1 ]; do sleep 0.02; done
    exit 1"""
    torchruns = ["--log-dir", "logs", "--rdzv-id", "job 7", "--role", "trainer", "--redirects", "3"]
    done = muster("run", "-g", "2", "--max-restarts", "1", *torchruns, "--", "sh", "-c", text)
    assert 0 == done.returncode, done.stderr
    [folder] = (tmp_path / "logs").iterdir()
    assert folder.name.startswith("job 7_") and "rdzv-id" not in done.stderr
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    streams = {
        f"attempt_{attempt}/{rank}/{name}.log" for attempt in (0, 1) for rank in (0, 1) for name in ("stdout", "stderr")
    }
    assert {*streams, "attempt_0/0/error.json", "attempt_0/1/error.json"} == found
    for rank in (0, 1):
        assert f"out {rank} trainer\n" == (folder / "attempt_1" / str(rank) / "stdout.log").read_text()
    (folder / "attempt_0" / "0" / "mine").touch()
    assert 0 == muster("rm", "last").returncode
    assert [folder / "attempt_0" / "0" / "mine"] == [path for path in folder.rglob("*") if not path.is_dir()]


def test_an_unwritable_log_dir_does_not_affect_the_run(muster: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = muster("run", "--log-dir", "file", "--", "true")
    assert (2, True) == (done.returncode, "--log-dir file: not a directory" in done.stderr)
    done = muster("run", "--log-dir", "file/below", "--", "echo", "hello")
    assert (0, "[0] hello\n") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("--log-dir: cannot write ")
    assert 0 == muster("run", "--log-dir", "/dev/null", "--", "true").returncode


def test_a_restarted_run_has_logs_of_each_attempt(muster: Any) -> None:
    text = "echo attempt $TORCHELASTIC_RESTART_COUNT; exit $((1 - TORCHELASTIC_RESTART_COUNT))"
    done = muster("run", "--max-restarts", "1", "--", "sh", "-c", text)
    assert (0, "[0] attempt 0\n[0] attempt 1\n") == (done.returncode, done.stdout)
    assert "[0] attempt 1\n" == muster("logs").stdout
    assert "[0] attempt 0\n" == muster("logs", "--attempt", "0").stdout
    wrong = muster("logs", "--attempt", "2")
    assert (2, True) == (wrong.returncode, "has no attempt 2\nhint: its attempts are 0-1" in wrong.stderr)


def test_logs_follows_from_another_terminal_until_the_end_and_misses_nothing_at_a_restart(
    muster: Any, tmp_path: Path
) -> None:
    text = """
echo early $RANK
until [ -e go ]; do sleep 0.02; done
seq 1000
touch said$RANK
[ $TORCHELASTIC_RESTART_COUNT = 0 ] || { printf last; exit 0; }
until [ -e said0 -a -e said1 ]; do sleep 0.02; done
exit 1
"""
    with RunProcesses(muster, "run", "-g", "2", "--max-restarts", "1", "--quiet", "--", "sh", "-c", text) as run:
        run.wrote("early", range(2))
        follower = muster.start("logs", "-f", run.id)
        early = [follower.stdout.readline() for _ in range(2)]
        assert {"[0] early 0\n", "[1] early 1\n"} == set(early)
        (tmp_path / "go").touch()
        out, err = follower.communicate(timeout=120)
        assert (0, "") == (follower.returncode, err)
        assert 0 == run.end()[0]
        for rank in range(2):
            mine = [line[4:] for line in out.splitlines() if line.startswith(f"[{rank}] ")]
            numbers = [str(number) for number in range(1, 1001)]
            assert [*numbers, f"early {rank}", *numbers, "last"] == mine


IN_TURN = """
import os, sys, time
rank = int(os.environ["RANK"])
for number in range(150):
    while not os.path.exists(f"turn{number // 50 * 2 + rank}"):
        time.sleep(0.01)
    print("out", number)
    print("err", number, file=sys.stderr)
    if number % 50 == 49:
        open(f"turn{number // 50 * 2 + rank + 1}", "w").close()
"""


@pytest.mark.parametrize("launcher", ["fork", "exec", "torchrun"])
def test_logs_are_in_the_order_in_which_ranks_wrote(muster: Any, script: Script, tmp_path: Path, launcher: str) -> None:
    """Across ranks, and stdout and stderr of each, in the terminal and afterwards; each line has its time."""
    (tmp_path / "turn0").touch()
    began = time.time()
    path = str(script(IN_TURN))
    done = muster(
        "run",
        "--launcher",
        launcher,
        "-g",
        "2",
        path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        capture_output=False,
    )
    assert 0 == done.returncode, done.stdout
    expected = [
        f"[{turn % 2}] {stream} {turn // 2 * 50 + number}"
        for turn in range(6)
        for number in range(50)
        for stream in ("out", "err")
    ]
    assert expected == [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert expected == muster("logs").stdout.splitlines()
    assert expected[-30:] == muster("logs", "--tail", "30").stdout.splitlines()
    own = [line for line in expected if line.startswith("[1]")]
    assert own[-7:] == muster("logs", "--tail", "7", "--rank", "1").stdout.splitlines()
    assert own[1::2][-3:] == muster("logs", "--tail=3", "--rank=1", "--stderr").stdout.splitlines()
    stamped = muster("logs", "--timestamps").stdout.splitlines()
    assert expected == [line.partition(" ")[2] for line in stamped]
    times = [datetime.fromisoformat(line.partition(" ")[0]).timestamp() for line in stamped]
    assert times == sorted(times) and began < times[0] < times[-1] < time.time()


def test_without_the_times_of_an_agent_logs_are_in_the_order_of_ranks(muster: Any, tmp_path: Path) -> None:
    """For example of an older run; a request for times is answered with a message."""
    text = "echo out $RANK; echo err $RANK >&2"
    muster("run", "-g", "2", "--", "sh", "-c", text)
    (times,) = newest(muster).glob("node_*/times.log")
    times.unlink()
    expected = ["[0] out 0", "[0] err 0", "[1] out 1", "[1] err 1"]
    done = muster("logs")
    assert (expected, "") == (done.stdout.splitlines(), done.stderr)
    assert expected[1:] == muster("logs", "--tail", "3").stdout.splitlines()
    done = muster("logs", "--timestamps")
    assert [f"- {line}" for line in expected] == done.stdout.splitlines()
    assert "no timestamps for ranks 0-1: the run has no record of times" in done.stderr


def test_logs_that_cannot_be_written_fail(muster: Any) -> None:
    muster("run", "--", "echo", "hello")
    with open("/dev/full", "w") as full:
        done = muster("logs", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (1, "error: cannot write to stdout: No space left on device\n") == (done.returncode, done.stderr)


def test_since_leaves_out_what_is_older(muster: Any, tmp_path: Path) -> None:
    text = "echo old; until [ -e go ]; do sleep 0.02; done; echo new"
    with RunProcesses(muster, "run", "--", "sh", "-c", text) as run:
        run.wrote("old")
        (times,) = until(lambda: list(run.path.glob("node_*/times.log")), "the time is kept")
        until(lambda: b"0o4" in times.read_bytes(), "the time is written")
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]
    # as if the first line had been written two hours ago
    clock, first, *_ = times.read_bytes().splitlines()
    at = float(clock.split()[1])
    times.write_bytes(b"@ %.3f 0\n%s\n%d 0o4\n" % (at - 7200, first, 7200_000))
    assert "[0] new\n" == muster("logs", "--since", "1h").stdout
    assert "[0] old\n[0] new\n" == muster("logs", "--since", "3h").stdout


def test_a_killed_ranks_last_line_is_in_its_log(muster: Any, script: Script) -> None:
    text = "import os\nprint('last', end=' ')\nprint('words')\nos.kill(os.getpid(), 9)\n"
    done = muster("run", "--launcher", "exec", str(script(text)))
    assert (137, "[0] last words\n", b"last words\n") == (done.returncode, done.stdout, log(muster, 0))


def test_the_end_waits_for_output_that_the_terminal_has_not_taken(muster: Any) -> None:
    """All output of a failed rank is shown before the report."""
    with RunProcesses(muster, "run", "--", "sh", "-c", "seq 200000 >&2; exit 3", stderr=subprocess.STDOUT) as run:
        whole = len("".join(f"{number}\n" for number in range(1, 200_001)))
        until(lambda: len(run.log(0, "err")) == whole, "the rank has written all while nobody reads")
        lines = run.end()[1].splitlines()
        at = next(index for index, line in enumerate(lines) if "rank 0 failed" in line)
        assert [f"[0] {number}" for number in range(1, 200_001)] == [line for line in lines[:at] if line[0] == "["]


FULL = """
[ $RANK = 0 ] || { until [ -e go ]; do sleep 0.02; done; exit 3; }
yes | head -c 2000000
exec sleep 1000
"""


def test_a_failure_ends_the_run_although_nobody_reads_what_is_shown(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", FULL) as run:
        until(lambda: len(run.log(0)) == 2_000_000, "rank 0 has written more than the pipe holds")
        first = process(run.ranks()[0])
        (tmp_path / "go").touch()
        until(lambda: not living([first]), "rank 0 is ended because rank 1 failed")
        assert 3 == run.end()[0]


def test_ctrl_c_ends_the_run_although_nobody_reads_what_is_shown(muster: Any) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", FULL) as run:
        until(lambda: len(run.log(0)) == 2_000_000, "rank 0 has written more than the pipe holds")
        ranks = [process(pid) for pid in run.ranks().values()]
        run.process.send_signal(signal.SIGINT)
        until(lambda: not living(ranks), "the ranks are interrupted")
        assert 130 == run.end()[0]


def test_the_newest_run_is_the_one_whose_logs_are_shown(muster: Any) -> None:
    for word in ("first", "second", "third"):
        muster("run", "--", "echo", word)
        assert f"[0] {word}\n" == muster("logs").stdout
        assert newest(muster).name in muster("show").stdout


def test_logs_end_with_whoever_reads_them(muster: Any) -> None:
    """`muster logs -f | head -1`, of a run that continues."""
    running = muster.start("run", "-g", "1", "--", "sh", "-c", "echo first; exec sleep 600")
    logs = muster.home / "runs"
    until(lambda: [path for path in logs.glob("*/attempt_0/*.out") if path.read_bytes()], "it has said something")
    follows = muster.start("logs", "-f", "last")
    assert "[0] first\n" == follows.stdout.readline()
    follows.stdout.close()
    assert 0 == follows.wait(timeout=120)
    follows.stderr.close()
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)


def test_a_script_that_spawns_by_itself_is_reported(muster: Any, script: Script) -> None:
    """Each rank would create a world of its own; nothing is rejected, because the call may be for something else."""
    path = script("import torch.multiprocessing as mp\nif False:\n    mp.spawn(print, nprocs=2)\n")
    told = "script.py calls `mp.spawn(…)`, so each rank starts"
    done = muster("run", "-g", "2", path.name)
    assert 0 == done.returncode
    assert told in done.stderr
    assert told not in muster("run", "-g", "2", "--launcher", "spawn", path.name).stderr
