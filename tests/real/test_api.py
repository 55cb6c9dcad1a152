"""`muster.api` in a program with its own signal handlers, children and threads: runs leave all of these alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from running import carriers

COMMON = """
import ctypes, json, os, resource, signal, subprocess, sys, threading, time
from pathlib import Path
from muster import api, errors

HOME = {**os.environ, "MUSTER_HOME": sys.argv[1]}
told = {}
words = []

class Seen(api.Silent):
    def __init__(self):
        super().__init__()
        self.text, self.events, self.outcome = b"", [], None
        self.ready = threading.Event()
    def output(self, rank, stream, data):
        self.text += data
        if b"ready" in self.text:
            self.ready.set()
    def event(self, event):
        self.events.append(event)
    def finish(self, outcome):
        self.outcome = outcome

class Broken(api.Silent):
    def event(self, event):
        raise ValueError("this view is broken")

def prepare(text, ranks=1, **options):
    command, how = ["sh", "-c", text], {"no_python": True, "nproc_per_node": ranks, **options}
    return api.prepare(command, env=HOME, output=True, warn=words.append, **how)

def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def in_thread(work):
    failed = []
    def guarded():
        try:
            work()
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    if failed:
        raise failed[0]

def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
"""

EMBEDDING = (
    COMMON
    + """
caught = []
def on_interrupt(number, frame):
    caught.append(number)
def on_child(number, frame):
    pass

signal.signal(signal.SIGINT, on_interrupt)
signal.signal(signal.SIGCHLD, on_child)
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
before = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
subprocess.run(["sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 & echo $! >orphan"], check=True)
orphan = int(Path("orphan").read_text())

def state():
    subreaper = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0)
    umask = os.umask(0o77)
    os.umask(umask)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return {
        "handlers": handlers, "wakeup": wakeup, "subreaper": subreaper.value, "umask": umask, "cwd": os.getcwd(),
        "environ": dict(os.environ), "limits": [resource.getrlimit(limit) for limit in range(16)],
        "threads": threading.active_count(), "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }

first = state()

def blocks_signals():  # as programs do that wait for signals in one thread
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    seen = Seen()
    run = api.start(prepare("grep SigBlk /proc/self/status; echo ready $RANK $PWD", ranks=2), seen, Broken())
    outcome = run.result()
    told["first"] = [outcome.code, run.wait().code, seen.outcome is outcome, sorted(seen.text.decode().splitlines())]
    told["events"] = [event["event"] for event in seen.events]

in_thread(blocks_signals)

def twice_at_once():
    seen = [Seen(), Seen()]
    runs = [api.start(prepare("setsid sleep 1002 & echo ready; sleep 1003", grace=1), one) for one in seen]
    own = subprocess.Popen(["sleep", "1004"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for one in seen:
        assert one.ready.wait(120)
    assert runs[0].wait(0.05) is None
    runs[0].stop()
    told["stopped"] = [runs[0].result().code, runs[1].wait(0.05)]
    hello = next(event for event in seen[1].events if event["event"] == "hello")
    os.kill(hello["pid"], signal.SIGKILL)  # the agent of the other
    told["killed"] = runs[1].result().code
    told["own"] = own.poll()
    own.kill()
    own.wait()
    told["ids"] = [run.id for run in runs]

in_thread(twice_at_once)

def detached():
    run = api.start(prepare("echo ready; sleep 1005", detach=True, grace=1))
    same = api.find(run.id, HOME)
    told["detached"] = [run.detached, run.wait(0.05)]
    same.stop()
    told["detached"] += [same.result().code, run.result().code]
    told["ids"].append(run.id)

in_thread(detached)

def refused():
    try:
        api.prepare(["missing.py"], env=HOME)
    except errors.InvalidRequest as error:
        told["refused"] = error.sentence
    try:
        api.start(prepare("true", run_dir="/proc/none"))  # found out in the thread of the run
    except errors.InvalidRequest as error:
        told["refused_late"] = error.sentence

in_thread(refused)

until(lambda: threading.active_count() == first["threads"])
last = state()
told["changed"] = [name for name in first if first[name] != last[name]]
told["words"] = words
os.kill(os.getpid(), signal.SIGINT)
until(lambda: caught)
told["before"] = before.poll()
told["orphan"] = int(Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1]) != os.getpid()
told["children"] = children() == [str(before.pid)]
os.kill(orphan, signal.SIGKILL)
before.kill()
before.wait()

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps all children, and tells nobody of their end
in_thread(lambda: told.update(unreaped=api.start(prepare("exit 3")).result().code))

Path("told.json").write_text(json.dumps(told))
"""
)


def embed(text: str, env: dict[str, str], tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Run a program; return the content of told.json, and the output."""
    (tmp_path / "program.py").write_text(text)
    argv = [sys.executable, "program.py", env["MUSTER_HOME"]]
    done = subprocess.run(
        argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert 0 == done.returncode, done.stderr
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    return told, done.stdout + done.stderr


def test_runs_in_a_program_of_its_own_leave_it_as_it_was(env: dict[str, str], tmp_path: Path) -> None:
    """From threads, twice, two at once, stopped, with a killed agent, detached, rejected."""
    told, printed = embed(EMBEDDING, env, tmp_path)
    assert "" == printed
    unblocked = f"SigBlk:\t{0:016x}"
    lines = [unblocked, unblocked, f"ready 0 {tmp_path}", f"ready 1 {tmp_path}"]
    assert [0, 0, True, lines] == told["first"]
    assert {"hello", "started", "do finish"} <= set(told["events"])
    assert ["warning: removed a view of the run that failed: this view is broken"] == told["words"]
    assert [143, None] == told["stopped"], "the end of one run is not that of another"
    assert 125 == told["killed"]
    assert None is told["own"], "a child of the program that is younger than the runs"
    assert [True, None, 137, 137] == told["detached"], "as by `muster kill`"
    assert "script not found: missing.py" == told["refused"]
    assert told["refused_late"].startswith("cannot write the run directory /proc/none/runs/")
    assert [] == told["changed"]
    assert (None, True, True) == (told["before"], told["orphan"], told["children"])
    assert 3 == told["unreaped"]
    for run_id in told["ids"]:
        assert set() == carriers(run_id)
