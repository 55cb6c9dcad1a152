"""`muster top` in a real terminal of 24 rows and 80 columns, on runs of this machine."""

from __future__ import annotations

import os
import re
import signal
import termios
from pathlib import Path
from typing import Any, Callable

import pytest
from live_terminal import ON_IT, Terminal
from running import RunProcesses
from waiting import until

Script = Callable[..., Path]

HOLD = ("--", "sh", "-c", "echo ready $RANK; until [ -e go ]; do sleep 0.02; done; exit $((RANK == 1 ? 5 : 0))")


def on_terminal(muster: Any, *words: str, **env: str) -> Terminal:
    return Terminal.here(muster.argv(*words), {**muster.env, **ON_IT, **env}, muster.cwd)


def test_a_run_is_shown_until_it_ends_with_its_result(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--name", "held", *HOLD) as run:
        run.wrote("ready", range(2))
        with on_terminal(muster, "top", "held") as terminal:
            terminal.shows("ready 0", run.id, "(held)", "running", "2 ranks on")
            terminal.press("\x1bOC")  # the right arrow
            terminal.shows("ready 1", "last lines of rank 1")
            (tmp_path / "go").touch()
            status, shown = terminal.end()
            assert 5 == status and f"{run.id}: rank 1 failed first" in shown
        assert 5 == run.end()[0]


def test_keys_show_stacks_output_and_help_and_the_run_continues(muster: Any, script: Script, tmp_path: Path) -> None:
    text = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)"
    with RunProcesses(muster, "run", "-g", "2", str(script(text, "held.py"))) as run:
        run.wrote("up", range(2))
        with on_terminal(muster, "top") as terminal:
            terminal.shows("last lines of rank 0")
            terminal.press("?")
            terminal.shows("select another rank")
            terminal.press("q")
            terminal.shows("last lines of rank 0")
            terminal.press("s")
            terminal.shows("held.py")
            terminal.press("\x1b")
            terminal.shows("last lines of rank 0")
            terminal.press("l")
            terminal.shows(f"muster logs {run.id} --rank 0")
            terminal.press("qq")
            status, shown = terminal.end()
            assert 0 == status and "keeps running" in shown
        assert run.process.poll() is None
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]


BEHIND = """
import os, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
while not os.path.exists("go"):
    if os.path.exists("stall") and dist.get_rank() == 1:
        time.sleep(0.05)
        continue
    dist.all_reduce(torch.ones(1))
    time.sleep(0.02)
"""


def test_collectives_are_counted_and_the_rank_that_is_behind_is_named(
    muster: Any, script: Script, tmp_path: Path
) -> None:
    with RunProcesses(muster, "run", "-g", "3", str(script(BEHIND))) as run:
        shown = until(lambda: (text := muster("top").stdout) and "collectives: " in text and text, "they are counted")
        assert re.search(r"^collectives: [\d,]+ called, [\d.]+/s$", shown, re.M), shown
        (tmp_path / "stall").touch()
        told = until(lambda: " behind by 1 collective" in (text := muster("top").stdout) and text, "rank 1 is behind")
        lines = told.splitlines()
        assert ["1"] == [line.split()[0] for line in lines if "behind by" in line]
        assert any(line.startswith("3 ranks on ") and "1 behind (b)" in line for line in lines)
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]


def test_k_asks_before_it_terminates_the_run(muster: Any) -> None:
    with RunProcesses(muster, "run", "-g", "2", *HOLD) as run:
        run.wrote("ready", range(2))
        with on_terminal(muster, "top") as terminal:
            terminal.shows("running")
            terminal.press("k")
            terminal.shows(f"terminate {run.id}? y/N")
            terminal.press("n")
            terminal.shows("q quit")
            assert run.process.poll() is None
            terminal.press("ky")
            status, shown = terminal.end()
            assert (status, shown.count(f"{run.id}: stopped after")) == (137, 1), shown
        assert 137 == run.end()[0]


def test_a_detached_run_that_restarts_is_shown(muster: Any, tmp_path: Path) -> None:
    text = "touch up$TORCHELASTIC_RESTART_COUNT; until [ -e go$TORCHELASTIC_RESTART_COUNT ]; do sleep 0.02; done"
    text += "; exit $((1 - TORCHELASTIC_RESTART_COUNT))"
    assert 0 == muster("run", "-d", "-g", "3", "--max-restarts", "1", "--", "sh", "-c", text).returncode
    with on_terminal(muster, "top") as terminal:
        until((tmp_path / "up0").exists, "it runs")
        assert "restart" not in terminal.shows("3 ranks on")
        (tmp_path / "go0").touch()
        until((tmp_path / "up1").exists, "it runs again")
        terminal.shows("restart 1")
        (tmp_path / "go1").touch()
        status, shown = terminal.end()
    assert 0 == status and "all 3 ranks succeeded" in shown


@pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM"])
def test_the_terminal_is_restored(muster: Any, tmp_path: Path, how: str) -> None:
    with RunProcesses(muster, "run", *HOLD) as run:
        run.wrote("ready")
        with on_terminal(muster, "top") as terminal:
            terminal.shows("running")
            during = termios.tcgetattr(terminal.fd)
            if how == "ctrl-c":
                terminal.press("\x03")
            else:
                os.kill(terminal.pid, signal.SIGTERM)
            terminal.came = b""
            status, _ = terminal.end()
            after = termios.tcgetattr(terminal.fd)
        assert (130 if how == "ctrl-c" else 143) == status
        assert during != terminal.before == after
        assert b"\x1b[?1049l" in terminal.came and b"\x1b[?25h" in terminal.came
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]


def test_it_follows_the_size_of_the_terminal(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "20", *HOLD) as run:
        run.wrote("ready", range(20))
        with on_terminal(muster, "top") as terminal:
            terminal.shows("last lines of rank 0")
            for rows, columns in ((10, 40), (2, 10), (50, 200)):
                terminal.resize(rows, columns)
                words = ["2026"[:2] if columns < 20 else "ranks on", *(["k kill"] if columns > 80 else [])]
                assert ("k kill" in terminal.shows(*words)) == (columns > 80)
            terminal.press("q")
            assert 0 == terminal.end()[0]
        (tmp_path / "go").touch()
        assert 5 == run.end()[0]


def test_many_ranks_fit(muster: Any) -> None:
    """Keys are answered."""
    with RunProcesses(muster, "run", "-q", "-g", "256", "--", "sh", "-c", "echo ready; exec sleep 1000") as run:
        run.wrote("ready", range(256), timeout=120)
        with on_terminal(muster, "top") as terminal:
            terminal.shows("256 ranks on")
            terminal.press("?")
            terminal.shows("select another rank")
            terminal.press("qq")
            assert 0 == terminal.end()[0]
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end(120)[0]


def test_without_a_terminal_one_screen_is_printed(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", *HOLD) as run:
        run.wrote("ready", range(2))
        for words in (["top"], ["top", "--once"], ["top", run.id[:20]]):
            done = muster(*words)
            assert (0, "") == (done.returncode, done.stderr)
            lines = done.stdout.splitlines()
            assert lines[0].startswith(f"{run.id}  running ") and lines[1].startswith("2 ranks on ")
            assert ["RANK", "HOST", "CPU", "MEMORY", "STATE"] == lines[2].split()
            assert ["0", "1"] == [line.split()[0] for line in lines[3:5]]
            assert ["last lines of rank 0 on " + os.uname().nodename, "ready 0"] == lines[5:]
        (tmp_path / "go").touch()
        assert 5 == run.end()[0]
    done = muster("top")
    assert 5 == done.returncode and f"{run.id}: rank 1 failed first" in done.stdout


def test_a_terminal_without_capabilities_gets_one_screen(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", *HOLD) as run:
        run.wrote("ready")
        with on_terminal(muster, "top", TERM="dumb") as terminal:
            status, shown = terminal.end()
        assert 0 == status and shown.startswith(run.id) and "\x1b" not in shown
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]


def test_fold_shows_equal_lines_of_ranks_once(muster: Any, script: Script) -> None:
    text = """
import os, sys
rank = int(os.environ["RANK"])
print("loading")
print(f"rank {rank} has port {29500 + rank}")
print("odd one" if rank == 2 else "as usual")
sys.stdout.write("no newline")
sys.stdout.flush()
sys.stderr.write("\\r50%\\r100%\\n")
1 / 0
"""
    assert 1 == muster("run", "-q", "-g", "4", str(script(text, "fold.py"))).returncode
    done = muster("logs", "--fold", "--stdout")
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert ["ranks 0-3:", "  loading", "  rank 0… has port 29500…"] == lines[:3]
    assert "rank 2:" in lines and "  odd one" in lines and "ranks 0-1,3:" in lines
    # lines stand in the order of writing: rank 2 may have written everything after the others
    assert "  no newline" == lines[-1] and lines.count("  no newline") <= 2
    done = muster("logs", "--fold", "--stderr", "--rank", "0,3")
    assert ["ranks 0,3:", "  100%", "  Traceback (most recent call last):"] == done.stdout.splitlines()[:3]
    assert 1 == done.stdout.count("ZeroDivisionError")
    assert re.fullmatch(r"rank \d:\n  no newline\n", muster("logs", "--fold", "--stdout", "--tail", "1").stdout)
    for words in (["-f"], ["--timestamps"], ["--prefix", "x"]):
        done = muster("logs", "--fold", *words)
        assert 2 == done.returncode and "error: --fold cannot be combined with" in done.stderr
