"""Messages of a run, as `MUSTER_TRACE=1` prints them: all are in the catalogue, and none shows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conversation import kinds, traced, unknown
from waiting import until

SECRET = "hunter2"


def test_a_run_and_its_clients(muster: Any, script: Any) -> None:
    """In a terminal and detached, with forked ranks; `?` would mark what is not in the catalogue."""
    muster.env.update(MUSTER_TRACE="1", WANDB_API_KEY=SECRET)
    script("import sys, time\nprint('begun', flush=True)\nsys.stdin.read() if len(sys.argv) < 3 else time.sleep(600)")
    done = muster("run", "-g", "1", "--stdin", "0", "script.py", SECRET, stdin=None, input="a line")
    assert (0, "[0] begun\n") == (done.returncode, done.stdout), done.stderr
    text = traced(muster.newest())
    assert {
        ("agent > controller", "hello"),
        ("controller > agent", "configure"),
        ("controller > agent", "start_ranks"),
        ("agent > controller", "output"),
        ("agent > controller", "rank_exited"),
        ("controller > agent", "bye"),
        ("fork server > agent", "preloaded"),
        ("agent > fork server", "fork"),
    } <= kinds(text)
    assert 0 == muster("run", "-d", "-g", "2", "script.py", SECRET, "wait").returncode
    run = muster.newest()
    until(lambda: len(list(run.glob("attempt_0/*.out"))) == 2, "they run")
    assert 0 == muster("stacks", "last").returncode
    assert 0 == muster("kill", "last").returncode
    assert 137 == muster("attach", "last").returncode
    text += traced(run)
    assert {
        ("client > controller", "state"),
        ("client > controller", "inspect"),
        ("controller > client", "answer"),
        ("controller > agent", "get_inspections"),
        ("client > controller", "kill"),
        ("client > controller", "attach"),
        ("controller > client", "finished"),
    } <= kinds(text)
    assert [] == unknown(text)
    token = (run / "token").read_text()
    assert SECRET not in text and token not in text


def test_what_launchers_start(muster: Any, tmp_path: Path) -> None:
    """The shim of a rank and the agent; another terminal and the agent."""
    muster.env.update(MUSTER_TRACE="1", WANDB_API_KEY=SECRET)
    words = ("--launcher", "mpirun", "--launcher-args", "mpirun.openmpi", "--")
    going = muster.start("run", "-g", "2", *words, "sh", "-c", "until [ -e go ]; do sleep 0.05; done", SECRET)
    run = until(lambda: (muster.home / "runs").exists() and muster.newest(), "it is there")
    until(lambda: len(list(run.glob("attempt_0/*.out"))) == 2, "both run")
    assert 0 == muster("stacks", "last").returncode
    (tmp_path / "go").touch()
    assert 0 == going.wait(timeout=120), going.communicate()
    going.communicate()
    text = traced(run)
    shim = {("shim > agent", kind) for kind in ("register", "started", "exited")}
    assert {*shim, ("agent > shim", "rank_command"), ("agent > shim", "recorded")} <= kinds(text)
    assert {("client > agent", "state"), ("client > agent", "inspect"), ("agent > client", "answer")} <= kinds(text)
    assert [] == unknown(text)
    assert SECRET not in text and (run / "token").read_text() not in text
