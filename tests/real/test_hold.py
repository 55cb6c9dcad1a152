"""Sessions: `muster hold`, runs on it, `release`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Muster
from waiting import until

TRAIN = """
import os, sys, traceback
print("torch" in sys.modules, sys.argv, sys.path[0], os.getcwd(), __file__, __name__)
print(os.environ.get("ADDED"), os.environ.get("GONE"), len(traceback.extract_stack()))
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2
"""

SLEEPS = """
import time
print("up", flush=True)
time.sleep(600)
"""


OF_SESSION = ("SECRET_TOKEN=sesame", "NCCL_DEBUG=INFO")


@pytest.fixture
def held(muster: Muster) -> Iterator[Muster]:
    """A session `dev` of two ranks on this machine."""
    muster.env["GONE"] = "from hold"
    started = muster("hold", "-g", "2", "--name", "dev", *(f"--env={value}" for value in OF_SESSION))
    assert started.returncode == 0, started.stderr
    assert "it ends after 30m without a run (--idle)" in started.stderr
    del muster.env["GONE"]
    yield muster
    ended = muster("kill", "--all", "--yes")
    assert ended.returncode == 0, ended.stderr


def session(muster: Muster) -> Path:
    (found,) = [path for path in (muster.home / "runs").iterdir() if path.name.endswith("-hold")]
    return found


def listed(muster: Muster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(muster("ps", "--json").stdout)
    return found


def test_runs_on_a_session(held: Muster, script: Callable[..., Path]) -> None:
    """One after another, each as a run of its own; a second one at the same time is refused."""
    path = script(TRAIN)
    held.env["ADDED"] = "by run"
    first = held("run", "--on", "dev", path.name, "--lr", "1")
    assert first.returncode == 0, first.stderr
    assert "preloaded interpreter" not in first.stderr, "it is the one of the session"
    out = held.log(0).decode().splitlines()
    assert out[0] == f"False ['script.py', '--lr', '1'] {path.parent} {path.parent} {path} __main__"
    assert out[1] == "by run None 1"
    assert [run["state"] for run in listed(held)] == ["succeeded", "held"]

    second = held("hold", "-g", "1", "--name", "dev")
    assert second.returncode == 2, second.stderr
    assert f"error: there is a session dev: {session(held).name}\nhint: use it: " in second.stderr

    # what belongs to the session
    for words, error in (
        (("--hosts", "n1"), "--hosts cannot be combined with --on: it belongs to the session"),
        (("-g", "3"), "-g 3: the session dev has 2 ranks on each node"),
        (("-N", "2"), "-N 2: the session dev has 1 node"),
    ):
        wrong = held("run", "--on", "dev", *words, path.name)
        assert wrong.returncode == 2 and wrong.stderr.startswith(f"error: {error}\nhint: "), wrong.stderr

    for command in (["run", "--on", "de", path.name], ["shell", "de"]):
        unknown = held(*command)
        assert unknown.returncode == 2, unknown.stderr
        assert unknown.stderr == "error: session not found: `de`\nhint: did you mean `dev`?\n"
    waiting = held("show", "dev").stdout
    assert re.search(r"^state    held: idle for .*, ends after 30m without a run \(--idle\)$", waiting, re.MULTILINE)
    assert "no ranks" not in waiting and "startup" not in waiting
    assert listed(held)[1]["command"].startswith("muster hold -g 2 --name dev ")

    # a script that was edited, fails, and leaves a process behind
    script("import os, subprocess\nsubprocess.Popen(['sleep', '7654'])\nraise SystemExit(int(os.environ['RANK']) + 3)")
    failed = held("run", "--on", "dev", path.name)
    assert failed.returncode in (3, 4), failed.stderr
    assert "failed first" in failed.stderr

    program = held("run", "--on", "dev", "--", "sh", "-c", "echo rank $RANK of $WORLD_SIZE")
    assert program.returncode == 0, program.stderr
    assert held.log(1) == b"rank 1 of 2\n"

    text = "echo in $PWD ${SECRET_TOKEN-unset} $NCCL_DEBUG; exit 5\n"
    shell = held("shell", "dev", input=text, stdin=None, env={**held.env, "SHELL": "/bin/sh"})
    assert (shell.returncode, shell.stdout) == (5, f"in {held.cwd} unset INFO\n"), "no file has the secret"
    nowhere = held("shell", "dev", "-w", "n7")
    assert nowhere.returncode == 2 and "dev has no host n7" in nowhere.stderr

    # what is not the same as in the session's interpreter
    held.env["TORCH_SHOW_CPP_STACKTRACES"] = "1"
    held.env["OMP_NUM_THREADS"] = "2"
    anew = held("run", "--on", "dev", "-m", "platform")
    assert anew.returncode == 0, anew.stderr
    assert "OMP_NUM_THREADS as set" in anew.stderr
    del held.env["OMP_NUM_THREADS"]
    changed = "TORCH_SHOW_CPP_STACKTRACES changed"
    assert f"starting a new preloaded interpreter: {changed}" in anew.stderr, "another number of threads needs none"

    # one that runs, a second one, and Ctrl-C
    script(SLEEPS)
    running = held.start("run", "--on", "dev", path.name)
    until(lambda: held.newest() != session(held) and b"up" in held("logs").stdout.encode(), "the run is up")
    refused = held("run", "--on", "dev", path.name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"error: dev: {held.newest().name} runs on it since" in refused.stderr
    assert f"state    held: {held.newest().name} runs on it since" in held("show", "dev").stdout
    busy = held("release", "dev")
    assert busy.returncode == 2 and "runs on it since" in busy.stderr
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said

    # detached, and ended with its session
    detached = held("run", "-d", "--on", "dev", path.name)
    assert detached.returncode == 0, detached.stderr
    until(lambda: "up" in held("logs").stdout, "the detached run is up")
    released = held("release", "--force", "dev")
    assert released.returncode == 0, released.stderr
    assert "released after" in released.stdout
    states = {run["id"]: run["state"] for run in listed(held)}
    assert states[session(held).name] == "succeeded"
    assert "state    released\n" in held("show", session(held).name).stdout
    assert re.search(rf"^{session(held).name} .* released ", held("ps").stdout, re.M), "it says so to people"
    assert states[detached.stdout.strip()] == "killed"
    gone = held("run", "--on", "dev", path.name)
    assert gone.returncode == 2 and "the session dev has ended: released by " in gone.stderr


TELLS = """
import os, sys
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
if "torch" in sys.argv:
    import torch
    print("threads", torch.get_num_threads())
print(os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "attempt", attempt, *sys.argv[1:])
raise SystemExit(7 if "fails" in sys.argv and attempt == "0" and os.environ["RANK"] == "0" else 0)
"""


def test_all_kinds_of_runs_on_a_session(held: Muster, script: Callable[..., Path]) -> None:
    """Fewer ranks, restarts, sweeps, other launchers: as without a session."""
    path = script(TELLS)
    held.env.pop("OMP_NUM_THREADS", None)

    def run(*words: str) -> str:
        done = held("run", "--on", "dev", *words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout) + str(done.stderr)

    for count in (("-g", "1"), ("-n", "1")):
        told = run(*count, path.name, "torch")
        assert "preloaded interpreter" not in told, "another number of threads needs no other one"
        threads = re.search(r"(\d+) threads? each", told)
        assert threads is not None
        assert held.log(0) == f"threads {threads[1]}\n0 of 1 attempt 0 torch\n".encode()
    assert "restarting all ranks (restart 1 of 1)" in run("--max-restarts", "1", path.name, "fails")
    assert held.log(1, attempt=1) == b"1 of 2 attempt 1 fails\n"
    assert "2 ok" in run("--sweep", "lr=1,2", path.name, "{lr}")
    assert "2 ok" in run("--array", "0-1", path.name)
    both = held("run", "--on", "dev", "--array", "0-3%2", path.name)
    assert both.returncode == 2, both.stderr
    assert "a session has one run at a time, so 2 points cannot run on it at the same time" in both.stderr
    for launcher in ("mpirun", "torchrun"):
        run("--launcher", launcher, path.name)
        assert held.log(1) == b"1 of 2 attempt 0\n"
    run("--sync", path.name)


WAITS = """
import os, time
print("up", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
"""


def controllers(home: Path) -> dict[str, int]:
    """Return the pids of controllers, by the run directory that they write to."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if not _in(pid, str(home)):
            continue
        try:
            log = os.path.dirname(os.readlink(f"/proc/{pid}/fd/2"))
            name = os.path.basename(os.readlink(f"/proc/{pid}/fd/2"))
            waits = b"standby" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name == "controller.log" and not (waits and log.endswith("-hold")):
            found[log] = int(pid)
    return found


def test_controllers_may_be_killed(held: Muster, script: Callable[..., Path]) -> None:
    """Of a run on a session, and of the session: the next one knows the run that is there, and leaves it alone."""
    path = script(WAITS)
    detached = held("run", "-d", "--on", "dev", path.name)
    assert detached.returncode == 0, detached.stderr
    run = held.home / "runs" / detached.stdout.strip()
    until(lambda: "up" in held("logs", run.name).stdout, "the run is up")
    for which in (run, session(held)):
        killed = controllers(held.home)[str(which)]
        os.kill(killed, signal.SIGKILL)
        until(lambda: controllers(held.home).get(str(which), killed) != killed, "there is another controller")  # noqa: B023
    until(lambda: "runs on it since" in held("show", "dev").stdout, "the session knows its run")
    refused = held("run", "--on", "dev", path.name)
    assert refused.returncode == 2 and f"{run.name} runs on it since" in refused.stderr
    held.cwd.joinpath("go").touch()
    ended = held("wait", run.name)
    assert ended.returncode == 0, ended.stderr
    again = held("run", "--on", "dev", path.name)
    assert again.returncode == 0, again.stderr


def test_a_run_ends_when_its_program_is_killed(held: Muster, script: Callable[..., Path]) -> None:
    """It does not wait for the lease, and the session is free again."""
    path = script(SLEEPS)
    running = held.start("run", "--on", "dev", "--lease", "1h", path.name)
    until(lambda: held.newest() != session(held) and b"up" in held("logs").stdout.encode(), "the run is up")
    running.kill()
    running.communicate(timeout=120)
    killed = held.newest()
    until(lambda: (killed / "outcome.json").exists(), "the run has ended")
    shown = held("show", killed.name)
    assert "the program that started it has ended" in shown.stdout, shown.stdout
    script("print('again')")
    again = held("run", "--on", "dev", path.name)
    assert again.returncode == 0, again.stderr


def test_a_session_ends_by_itself(muster: Muster) -> None:
    started = muster("hold", "-g", "1", "--name", "brief", "--idle", "1s")
    assert started.returncode == 0, started.stderr
    ended = muster("wait", "brief", "--timeout", "240s")
    assert ended.returncode == 0
    assert "released: no run for 1.0s (--idle)" in ended.stdout
    home = str(muster.home)
    until(lambda: not [pid for pid in os.listdir("/proc") if pid.isdigit() and _in(pid, home)], "nothing is left")


def _in(pid: str, home: str) -> bool:
    try:
        return home.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


CALLS = """
import os
import muster

def square(number):
    return number * number + int(os.environ["RANK"])

def fails():
    if os.environ["RANK"] == "1":
        raise KeyError("of rank 1")
    import time
    time.sleep(600)

def leaves(name):
    global kept
    import atexit
    kept = open(name + os.environ["RANK"], "w")
    kept.write("not flushed")
    atexit.register(lambda: open(name + os.environ["RANK"] + ".exit", "w").close())

def sleeps():
    import time
    time.sleep(600)

with muster.hold(nproc_per_node=2) as cluster:
    print(cluster.run(square, 3), cluster.run(square, 4))
    cluster.run(leaves, "left.")
    print([open(f"left.{rank}").read() for rank in (0, 1) if os.path.exists(f"left.{rank}.exit")])
    try:
        cluster.run(fails)
    except KeyError as error:
        print("raised", error)
    print(cluster.submit(square, 5).results())
    print(cluster.run(square, 5, nproc_per_node=1))
    name = cluster.id
    bad = (lambda: __import__("threading").Lock(), lambda: (n for n in "ab"), lambda: muster.run(print, on=name))
    running = None
    for call in (*bad, lambda: None):
        if call not in bad:
            running = cluster.submit(sleeps)
        try:
            cluster.run(call, show_output=False)
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0])
    running.kill()
try:
    cluster.run(square, 6)
except muster.MusterError as error:
    print(str(error).splitlines()[0])
"""


def test_functions_on_hosts_that_are_held(muster: Muster, script: Callable[..., Path]) -> None:
    called = subprocess.run(
        [sys.executable, script(CALLS)], env=muster.env, cwd=muster.cwd, capture_output=True, text=True, timeout=200
    )
    assert called.returncode == 0, called.stderr
    said = called.stdout.splitlines()
    left = "['not flushed', 'not flushed']"
    assert said[:4] == ["[9, 10] [16, 17]", left, "raised 'of rank 1'", "[25, 26]"], called.stderr
    assert said[4] == "[25]"
    assert re.match(r"TypeError cannot pickle the result of rank \d: result: ", said[5]), "whichever failed first"
    assert "is a generator, which cannot be sent: return a list" in said[6]
    assert said[7].startswith("InvalidRequest this is rank ") and "would each start a run" in said[7]
    assert said[8].startswith("InvalidRequest ") and " runs on it since " in said[8], "one run at a time"
    assert " has ended: released by pid " in said[9]
    states = ["interrupted", *["failed"] * 3, *["succeeded"] * 2, "failed", *["succeeded"] * 4]
    assert [run["state"] for run in listed(muster)] == states


OWNS = """
import time
import muster

def sleeps():
    print("up", flush=True)
    time.sleep(600)

cluster = muster.hold(nproc_per_node=1, lease="1h")
cluster.run(sleeps, lease="1h")
"""


def test_a_session_of_a_program_ends_when_it_is_killed(muster: Muster, script: Callable[..., Path]) -> None:
    """Neither the session nor the run on it waits for its lease."""
    program = subprocess.Popen(
        [sys.executable, script(OWNS)], env=muster.env, cwd=muster.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert program.stdout is not None
    said = iter(program.stdout.readline, b"")
    assert next((line for line in said if line == b"up\n"), None), "the run is up"
    program.kill()
    program.communicate(timeout=120)
    # whichever of the two notices it first ends the run
    ends = ("interrupted", "killed")
    until(lambda: all(run["state"] in ends for run in listed(muster)), "the session and its run have ended")
    shown = muster("show", session(muster).name)
    assert "the program that started it has ended" in shown.stdout, shown.stdout
