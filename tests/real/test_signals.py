"""External ends of a run: Ctrl-C, other signals, and `muster kill`; each is reported, and none leaves anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses, living, no_one_left
from waiting import until

Script = Callable[..., Path]

WAITS = ("--", "sh", "-c", "echo ready; while :; do sleep 0.1; done")

PYTHON = """
import os, signal, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
try:
    print("ready")
    time.sleep(1000)
except KeyboardInterrupt:
    print("SIGINT came")
    if os.environ["RANK"] == "0":
        sys.exit(0)
    raise
"""


def shown(run: RunProcesses, words: str) -> None:
    """Read muster's output until this text."""
    line = ""
    while words not in line:
        line = run.process.stderr.readline()
        assert line, f"muster never said {words!r}"


def test_ctrl_c_interrupts_the_ranks_and_gives_130(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script(PYTHON))) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        run.process.send_signal(signal.SIGINT)
        status, out, err = run.end()
        assert 130 == status, err
        assert {"[0] SIGINT came", "[1] SIGINT came"} <= set(out.splitlines())
        assert (
            "interrupted (Ctrl-C): sending SIGINT to 2 ranks, grace period 30s; press Ctrl-C again to kill them now"
            in err
        )
        assert "failed first" not in err
        assert "interrupted" == run.outcome()["state"]
        no_one_left(everybody, run.id)


def test_ranks_that_ignore_sigint_get_sigterm_and_then_sigkill(muster: Any) -> None:
    text = 'trap "" INT; [ $RANK = 1 ] && trap "" TERM; echo ready; while :; do sleep 0.1; done'
    with RunProcesses(muster, "run", "-g", "2", "--grace", "3", "--", "sh", "-c", text) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        run.process.send_signal(signal.SIGINT)
        status, _, err = run.end()
        assert 130 == status
        assert [signal.SIGTERM, signal.SIGKILL] == [end["signal"] for end in run.outcome()["exits"]]
        steps = [
            "sending SIGINT to 2 ranks, grace period 3s",
            "sending SIGTERM to 2 ranks, grace period 3s",
            "killing rank 1 (SIGKILL)",
        ]
        at = [err.index(step) for step in steps]
        assert sorted(at) == at
        no_one_left(everybody, run.id)


def test_a_sigint_that_was_ignored_where_muster_was_started_interrupts_all_the_same(muster: Any) -> None:
    plain = muster.argv
    muster.argv = lambda *words: ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *plain(*words)]
    with RunProcesses(
        muster, "run", "-g", "2", "--", "sh", "-c", 'trap "exit 3" INT; echo ready; while :; do sleep 0.1; done'
    ) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        run.process.send_signal(signal.SIGINT)
        assert 130 == run.end()[0]
        assert [3, 3] == [end["code"] for end in run.outcome()["exits"]]
        no_one_left(everybody, run.id)


def test_ctrl_c_twice_kills_at_once(muster: Any) -> None:
    text = 'trap "" INT TERM; echo ready; while :; do sleep 0.1; done'
    with RunProcesses(muster, "run", "-g", "2", "--grace", "1h", "--", "sh", "-c", text) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        run.process.send_signal(signal.SIGINT)
        shown(run, "SIGINT to 2 ranks")
        run.process.send_signal(signal.SIGINT)
        status, _, err = run.end()
        assert 130 == status
        assert "interrupted (Ctrl-C, twice): killing 2 ranks (SIGKILL)" in err
        assert [signal.SIGKILL] * 2 == [end["signal"] for end in run.outcome()["exits"]]
        no_one_left(everybody, run.id)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGTERM, 143, "received SIGTERM: sending SIGTERM to 2 ranks"),
        (signal.SIGHUP, 129, "the terminal was closed (SIGHUP): sending SIGTERM to 2 ranks"),
        (signal.SIGQUIT, 131, "received SIGQUIT: sending SIGTERM to 2 ranks"),
    ],
)
def test_sigterm_and_sighup_are_distinguished(muster: Any, number: int, status: int, words: str) -> None:
    with RunProcesses(muster, "run", "-g", "2", *WAITS) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        run.process.send_signal(number)
        found, _, err = run.end()
        assert (status, True) == (found, words in err), err
        assert [signal.SIGTERM] * 2 == [end["signal"] for end in run.outcome()["exits"]]
        assert status == muster("wait", run.id).returncode
        no_one_left(everybody, run.id)


CATCHES = """
[ $RANK = 0 ] && { trap 'echo heard USR1' USR1; trap 'echo heard URG' URG; }
echo ready
until [ -e go ]; do sleep 0.05; done
"""


def test_other_signals_are_passed_on_to_the_ranks_that_catch_them(muster: Any, tmp_path: Path) -> None:
    named = ["--signals-to-handle", "SIGTERM,SIGURG"]
    with RunProcesses(muster, "run", "-g", "2", *named, "--", "sh", "-c", CATCHES) as run:
        run.wrote("ready", range(2))
        for number in (signal.SIGUSR1, signal.SIGURG, signal.SIGUSR2):
            run.process.send_signal(number)
            shown(run, f"received {number.name}, ")
        run.wrote("heard USR1")
        run.wrote("heard URG")
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]


def test_a_rank_that_catches_sigquit_gets_it_and_the_other_sigterm(muster: Any) -> None:
    text = '[ $RANK = 0 ] && trap "echo heard QUIT; exit 4" QUIT; trap "echo heard TERM; exit 5" TERM; echo ready; '
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", text + "while :; do sleep 0.1; done") as run:
        run.wrote("ready", range(2))
        run.process.send_signal(signal.SIGQUIT)
        status, _, err = run.end()
        assert (131, True) == (
            status,
            "sending SIGTERM to 2 ranks, or SIGQUIT where handled, grace period 30s" in err,
        ), err
        assert ["ready\nheard QUIT\n", "ready\nheard TERM\n"] == [run.log(0), run.log(1)]
        assert "failed first" not in err


def test_a_sigquit_that_is_not_to_be_handled_kills_muster_and_the_ranks_end(muster: Any) -> None:
    """Parsed like torchrun's list; ranks find it in their environment."""
    plain = muster.argv
    muster.argv = lambda *words: ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *plain(*words)]
    text = "echo $TORCHELASTIC_SIGNALS_TO_HANDLE; while :; do sleep 0.1; done"
    with RunProcesses(muster, "run", "-g", "2", "--signals-to-handle", "SIGTERM,SIGINT", "--", "sh", "-c", text) as run:
        run.wrote("SIGTERM,SIGINT", range(2))
        everybody = run.everybody()
        run.process.send_signal(signal.SIGQUIT)
        assert -signal.SIGQUIT == run.end()[0]
        until(lambda: not living(everybody), "the ranks end with it")


def test_terminals_of_a_detached_run_forward_signals_too(muster: Any, tmp_path: Path) -> None:
    assert 0 == muster("run", "-d", "-g", "2", "--", "sh", "-c", CATCHES).returncode
    watching = muster.start("attach", "last", "--all")
    try:
        assert "ready" in watching.stdout.readline()
        watching.send_signal(signal.SIGUSR1)
        until(lambda: b"heard USR1" in muster.log(0), "rank 0 hears it")
        words = "received SIGUSR1, forwarded to rank 0"
        assert any(words in line for line in watching.stderr), "it is told, and the watcher lives"
        (tmp_path / "go").touch()
        _, err = watching.communicate(timeout=120)
        assert 0 == watching.returncode, err
    finally:
        muster("kill", "last")


def test_a_signal_during_the_start_ends_it(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script("print('ran')"))) as run:
        run.agent()
        everybody = until(lambda: run.everybody(), "the agent starts")
        run.process.send_signal(signal.SIGINT)
        status, out, err = run.end()
        assert (130, "") == (status, out)
        assert "interrupted (Ctrl-C)" in err
        assert "Traceback" not in err
        no_one_left(everybody, run.id)


def test_ctrl_c_ends_a_line_of_setup_that_hangs(muster: Any) -> None:
    with RunProcesses(muster, "run", "--setup", "sleep 1000", "--", "true") as run:
        hanging = until(lambda: [one for one in run.everybody() if _is_sleep(one.pid)], "the line runs")
        run.process.send_signal(signal.SIGINT)
        status, _, err = run.end()
        # what muster itself has killed does not count as a lost host
        assert (130, True, False) == (status, "interrupted" in err, "not seen to end" in err), err
        assert [] == living(hanging)


def _is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    except OSError:  # it has exited since it was checked
        return False


def test_under_nohup_a_run_survives_the_end_of_its_terminal(muster: Any, tmp_path: Path) -> None:
    class Nohup:
        home = muster.home

        @staticmethod
        def start(*words: str, **more: Any) -> subprocess.Popen[str]:
            argv = ["nohup", *muster.argv(*words)]
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
            return subprocess.Popen(argv, env=muster.env, cwd=tmp_path, text=True, start_new_session=True, **pipes)

    text = "echo ready; until [ -e go ]; do sleep 0.05; done; echo went on"
    with RunProcesses(Nohup, "run", "-g", "2", "--", "sh", "-c", text) as run:
        run.wrote("ready", range(2))
        os.killpg(run.process.pid, signal.SIGHUP)
        assert "running" in muster("ps").stdout
        (tmp_path / "go").touch()
        status, out, _ = run.end()
        assert 0 == status
        assert {"[0] went on", "[1] went on"} <= set(out.splitlines())


def test_kill_from_another_terminal_ends_a_run(muster: Any, env: dict[str, str]) -> None:
    env["USER"] = "somebody"
    with RunProcesses(muster, "run", "-g", "2", *WAITS) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        done = muster("kill", "last")
        assert (0, f"{run.id}: terminated\n") == (done.returncode, done.stdout)
        status, _, err = run.end()
        assert 137 == status
        assert "`muster kill` by somebody (pid " in err
        assert ("killed", 137) == tuple(run.outcome()[key] for key in ("state", "code"))
        again = muster("kill", "last")
        assert (0, f"{run.id} has already ended (killed)\n") == (again.returncode, again.stdout)
        no_one_left(everybody, run.id)


ENDS_WITH_THE_OTHER = """
trap 'touch asked-$0; until [ -e asked-$1 ] && [ -e go ]; do sleep 0.05; done; exit 0' TERM
echo ready
while :; do sleep 0.05; done
"""
"""A rank that was asked to exit and catches it: when another run asks it too, it is killed by SIGKILL after the first.
"""


def test_kill_ends_several_runs_at_once_and_all_of_them(muster: Any, tmp_path: Path) -> None:
    waits = ("--", "sh", "-c", ENDS_WITH_THE_OTHER)
    with ExitStack() as stack:
        started = (("--name", "a", *waits, "a", "b"), (*waits, "b", "a"), ("--name", "c", *WAITS))
        first, second, third = [stack.enter_context(RunProcesses(muster, "run", *words)) for words in started]
        for run in (first, second, third):
            run.wrote("ready")
        assert 2 == muster("kill", "a", "nobody").returncode
        assert 2 == muster("kill", "--all", "a").returncode
        assert not list(tmp_path.glob("asked-*")), "nothing was ended for a name that is wrong"

        killing = muster.start("kill", "a", second.id, "a")
        said = {killing.stderr.readline() for _ in range(2)}  # it is not silent while they take their time
        assert {f"{run.id}: terminating 1 rank, waiting up to 30s\n" for run in (first, second)} == said
        (tmp_path / "go").touch()
        told, rest = killing.communicate(timeout=120)
        assert (0, "") == (killing.returncode, rest)
        assert {f"{run.id}: terminated" for run in (first, second)} == set(told.splitlines())
        for run in (first, second):
            assert 137 == run.end()[0]
            assert [0] == [end["code"] for end in run.outcome()["exits"]]

        listed = f"{third.id}  c  running  "
        unasked = muster("kill", "--all")
        assert (2, True) == (unasked.returncode, unasked.stdout.startswith(listed)), unasked
        assert "cannot ask for confirmation to kill 1 run" in unasked.stderr
        for answer, status in (("n", 1), ("y", 0)):
            ours, theirs = os.openpty()
            process = muster.start("kill", "--all", stdin=theirs, stdout=theirs)
            os.close(theirs)
            os.write(ours, answer.encode() + b"\n")
            assert status == process.wait(timeout=120)
            process.stderr.close()
            os.close(ours)
        assert 137 == third.end()[0]
        assert (0, "no active runs\n") == ((done := muster("kill", "--all")).returncode, done.stdout)


def test_kill_ends_the_ranks_of_a_muster_that_is_stopped(muster: Any) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--grace", "1", *WAITS) as run:
        run.wrote("ready", range(2))
        ranks = run.everybody()
        run.process.send_signal(signal.SIGSTOP)
        done = muster("kill", "last")
        assert 0 == done.returncode, done.stderr
        assert [] == living(ranks)
        assert "running" not in muster("ps").stdout
        run.process.send_signal(signal.SIGCONT)
        status, _, err = run.end()
        assert 137 == status
        assert "Traceback" not in err


def test_a_stopped_rank_continues_to_react_to_the_end(muster: Any, script: Script) -> None:
    """A process that is stopped reacts to SIGTERM only after SIGCONT, and would be killed after the grace period."""
    lines = (
        "import signal, sys",
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))",
        "print('ready', flush=True)",
        "signal.pause()",
    )
    path = str(script("\n".join(lines)))
    with RunProcesses(muster, "run", "-g", "2", "--grace", "600", path) as run:
        run.wrote("ready", range(2))
        os.kill(run.ranks()[1], signal.SIGSTOP)
        done = muster("kill", "last")
        assert 0 == done.returncode, done.stderr
        run.end()
        assert b"ready\nsaved\n" == muster.log(1)


def test_a_closed_stdout_ends_nothing(muster: Any, tmp_path: Path) -> None:
    line = f"{sys.executable} -m muster run -g 2 -- sh -c 'seq 100000; seq 100000 >&2; touch done$RANK' 2>&1 | head -1"
    done = subprocess.run(["sh", "-c", line], env=muster.env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 1 == len(done.stdout.splitlines())
    until(lambda: (muster.newest() / "outcome.json").exists(), "the run ends")
    assert (tmp_path / "done0").exists() and (tmp_path / "done1").exists()
    assert "succeeded" in muster("ps").stdout
    assert len(muster.log(1)) == len(muster.log(0, "err")) == len("".join(f"{n}\n" for n in range(1, 100001)))
