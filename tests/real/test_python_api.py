"""`muster.run`, `muster.submit` and `muster.attach` in real programs: scripts, threads, asyncio, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import carriers, family, living
from waiting import until

Program = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(env: dict[str, str], tmp_path: Path) -> Program:
    """Run a program without a `__main__` guard, as people write them."""

    def run(text: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        (tmp_path / "program.py").write_text(text)
        argv = [sys.executable, "program.py", *words]
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert not check or 0 == done.returncode, done.stdout + done.stderr
        return done

    return run


RESULTS = """
import dataclasses, os, sys
import muster

@dataclasses.dataclass
class Answer:
    rank: int
    lr: float

factor = 10

def train(lr, more=1):
    rank = int(os.environ["RANK"])
    print("training", rank)
    print("noted", rank, file=sys.stderr)
    return Answer(rank * factor + more, lr)

found = muster.run(train, 0.5, more=2, nproc_per_node=2)
assert found == [Answer(2, 0.5), Answer(12, 0.5)], found
assert type(found[0]) is Answer
assert muster.run(lambda: os.environ["WORLD_SIZE"], np=3, show_output=False) == ["3"] * 3
"""


def test_a_function_of_a_script_without_a_guard_runs_on_all_ranks_and_its_results_return(program: Program) -> None:
    """Globals, lambdas and dataclasses of `__main__` travel, and instances have the very class of the caller."""
    done = program(RESULTS)
    assert ["[0] training 0", "[1] training 1"] == sorted(done.stdout.splitlines())
    assert ["[0] noted 0", "[1] noted 1"] == sorted(done.stderr.splitlines()), "and muster itself prints nothing"


TENSORS = """
import mmap
import numpy as np, torch
import muster

def make():
    weight = torch.arange(1_000_000.0)
    return {"w": weight, "view": weight[3:5], "array": np.ones((1000, 1000)), "p": torch.nn.Parameter(torch.ones(2)),
            "small": torch.tensor([True]), "turned": weight.reshape(1000, 1000).t(), "half": torch.ones(3).bfloat16(),
            "none": torch.empty(0), "z": torch.tensor([1 + 2j]).conj()}

found, = muster.run(make)
assert found["w"].sum() == 499999500000.0
assert found["view"].tolist() == [3.0, 4.0]
found["w"][3] = -1
assert found["view"][0] == -1, "views share memory as they did"
assert found["array"].sum() == 1_000_000
assert isinstance(found["p"], torch.nn.Parameter) and found["p"].requires_grad
assert found["small"].item() is True and found["turned"][1, 0] == 1 and found["half"].dtype is torch.bfloat16
assert found["none"].shape == (0,) and found["z"].item() == 1 - 2j
maps = open("/proc/self/maps").read()
assert maps.count("rank_00000.result") >= 2, "mapped from the file"
assert muster.attach("last").results()[0]["w"][3] == 3, "the file is unchanged"
"""


def test_tensors_return_as_memory_mapped_files(program: Program) -> None:
    program(TENSORS)


FAILS = """
import os, sys, time, traceback
import muster

class Diverged(Exception):
    def __init__(self, step):
        super().__init__(f"diverged at step {step}")
        self.step = step

def inner(step):
    raise Diverged(step)

def train():
    rank = int(os.environ["RANK"])
    if rank == 1:
        inner(3)
    time.sleep(60)

run = muster.submit(train, nproc_per_node=2, grace=1)
try:
    run.results()
except Diverged as error:
    assert error.step == 3
    cause = error.__cause__
    assert isinstance(cause, muster.RemoteError)
    assert (cause.rank, cause.run, cause.exception is error) == (1, run.id, True)
    assert "in inner" in cause.traceback and "brought" not in cause.traceback, cause.traceback
    traceback.print_exc()
else:
    raise AssertionError("nothing was raised")
failed, = run.failures
assert failed.rank == 1 and str(failed).startswith(f"rank 1 on {failed.host} raised Diverged"), failed
assert run.status() == "failed" and run.wait().code == 1
print(failed)
"""


def test_the_exception_of_the_first_failing_rank_is_raised_with_its_traceback(program: Program) -> None:
    done = program(FAILS)
    assert "The above exception was the direct cause of the following exception" in done.stderr
    assert done.stderr.rstrip().endswith("Diverged: diverged at step 3")
    assert "raised Diverged: diverged at step 3" in done.stdout
    assert "line 11, in inner\n    raise Diverged(step)" in done.stdout


ODD = """
import os, signal, sys, threading
import muster

def attempt(function, **options):
    try:
        found = muster.run(function, show_output=False, grace=1, **options)
    except Exception as error:
        cause = error.__cause__
        print(f"{type(error).__name__}: {str(error).splitlines()[0]} | {type(cause).__name__}")
    else:
        print(found)

class Holder:
    def __init__(self):
        self.locks = [threading.Lock()]

class Local(Exception):
    def __reduce__(self):
        raise TypeError("no")

def raises():
    raise Local("mine")

attempt(lambda: Holder())
attempt(lambda: (n for n in range(3)))
attempt(raises)
attempt(lambda: os.kill(os.getpid(), signal.SIGKILL))
attempt(lambda: sys.exit(0))
attempt(lambda: sys.exit(7))
attempt(lambda: muster.run(print), np=2)
attempt(lambda: os.path, timeout="60s")
"""


LARGE = """
import os, resource, sys
import muster

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

def talk(megabytes):
    block = (b"x" * 99 + b"\\n") * 10_000
    for _ in range(megabytes):
        os.write(1, block)

before = peak()
muster.run(talk, 150, np=2)
assert peak() - before < 100 << 20, "output is passed on in pieces"

run = muster.submit(lambda: b"x" * 200_000_000)
before, size = peak(), len(run.result())
assert peak() - before < 1.6 * size, "not read before it is unpickled"
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + size // 2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    run.result()
except muster.RemoteError as error:
    sys.stderr.write(str(error).splitlines()[0])
"""


def test_output_and_results_of_any_size_take_no_more_memory_than_they_must(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LARGE)
    with subprocess.Popen(
        [sys.executable, "program.py"], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        count = 0
        while piece := process.stdout.read(1 << 20):
            count += len(piece)
        said = process.stderr.read().decode()
    assert 0 == process.returncode, said
    assert count == 2 * 150 * 10_000 * len("[0] " + "x" * 99 + "\n")
    assert said.startswith("rank 0 on ") and "returned a value of 191 MiB, which does not fit into the memory" in said


def test_each_odd_end_of_a_function_is_one_clear_error(program: Program) -> None:
    lines = program(ODD).stdout.splitlines()
    assert lines[0] == (
        "TypeError: cannot pickle the result of rank 0: result.locks[0]: cannot pickle '_thread.lock' "
        "object | RemoteError"
    )
    assert (
        lines[1] == "TypeError: the result of rank 0 is a generator, which cannot be sent: return a list | RemoteError"
    )
    assert lines[2].startswith("RemoteError: rank 0 on ") and lines[2].endswith(" raised Local: mine | NoneType")
    assert "was killed by SIGKILL" in lines[3]
    assert "exited with code 0 before the function returned" in lines[4]
    assert "exited with code 7" in lines[5]
    assert lines[6].startswith("InvalidRequest: this is rank ") and "2 ranks would each start a run" in lines[6]
    assert lines[7].startswith("[<module 'posixpath'")


SAVED = """
import os, signal, threading
import muster

class Count:
    def __init__(self, saves):
        self.saves, self.step, self.begun = saves, 0, []

    def __call__(self, steps):
        self.begun.append(self.step)
        while self.step < steps:
            self.step += 1
            if self.step == 3 and os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGUSR1)  # as before the end of a job
        return self.begun

    def checkpoint(self, steps):
        return {"self": self, "none": None, "number": 7, "lock": lambda lock=threading.Lock(): lock}[self.saves]

for saves in ("self", "none", "number", "lock"):
    try:
        print(muster.run(Count(saves), 5, np=2, max_restarts=1, restart_delay=0, show_output=False))
    except TypeError as error:
        print(error)
"""


def test_an_object_with_checkpoint_continues_in_the_next_attempt(program: Program) -> None:
    """Also when it restarts without a scheduler. All ranks have the state of rank 0."""
    assert program(SAVED).stdout.splitlines() == [
        "[[0, 3], [0, 3]]",
        "[[0], [0]]",
        "checkpoint() returned int: neither a callable, nor None",
        "cannot pickle what checkpoint() returned: checkpoint.<default>[0]: cannot pickle '_thread.lock' object",
    ]


def test_a_script_runs_and_its_failure_is_raised(program: Program, script: Callable[..., Path]) -> None:
    script("import sys; print(sys.argv[1:]); sys.exit(len(sys.argv) > 2)", "train.py")
    text = """
import muster
assert muster.run("train.py", "one", np=2) == [None, None]
try:
    muster.run("train.py", "one", "two")
except muster.RemoteError as error:
    assert error.rank == 0 and "exited with code 1" in str(error), error
try:
    muster.run("trian.py")
except muster.MusterError as error:
    print(error)
"""
    done = program(text)
    assert ["['one', 'two']", "[0] ['one']", "[1] ['one']"] == sorted(done.stdout.splitlines())[:3]
    assert "script not found: trian.py" in done.stdout and "did you mean `train.py`?" in done.stdout


AROUND = """
import asyncio, os, threading, time
import muster

def rank():
    return int(os.environ["RANK"])

async def several():
    runs = [muster.submit(rank, np=2), muster.submit(rank, np=1)]
    return await asyncio.gather(*runs)

assert asyncio.run(several()) == [[0, 1], [0]]

async def fails():
    try:
        await muster.submit(lambda: 1 / 0)
    except ZeroDivisionError as error:
        return error

assert isinstance(asyncio.run(fails()).__cause__, muster.RemoteError)

async def stops():
    try:
        await asyncio.wait_for(muster.submit(lambda: next(iter(()))), 120)
    except muster.RemoteError as error:
        return str(error)

assert "StopIteration" in asyncio.run(stops())

async def too_long():
    run = muster.submit(time.sleep, 600, grace=1)
    try:
        await asyncio.wait_for(run, 0.2)
    except asyncio.TimeoutError:
        return run

assert asyncio.run(too_long()).wait(120).state == "interrupted"

found = []
thread = threading.Thread(target=lambda: found.extend(muster.run(rank, np=2)))
thread.start()
thread.join()
assert found == [0, 1]

with muster.Executor(np=1, show_output=False) as executor:
    futures = [executor.submit(pow, base, 2) for base in range(2)]
    assert [future.result() for future in futures] == [0, 1]
    assert executor.run_of(futures[1]).results() == [1]
    failing = executor.submit(pow, 0, -1)
    assert isinstance(failing.exception(), ZeroDivisionError)

def meets(own, other, scale=1):
    open(f"met {own}", "w").close()
    while not os.path.exists(f"met {other}"):
        time.sleep(0.01)
    return own * scale

with muster.Executor(max_workers=2, show_output=False) as executor:
    together = executor.map_array(meets, (1, 2), (2, 1))  # one after the other, they would wait for ever
    assert [future.result(120) for future in together] == [1, 2]
    try:
        executor.map_array(meets, (1, 2), (2, 1), (3, 3), (4, 4))
    except muster.MusterError as error:
        assert "cannot call meets(own, other, scale=1)" in str(error), error
    assert [] == executor.map_array(meets, (), (1, 2))

for begins in (True, False):
    try:
        with muster.Executor(np=1, grace=1) as executor:
            sleeping, waiting = executor.submit(time.sleep, 1000), executor.submit(time.sleep, 1000)
            if begins:
                executor.run_of(sleeping)
            raise KeyError("mine")
    except KeyError:
        assert sleeping.done() and waiting.cancelled()

run = muster.submit(rank, np=2)
try:
    muster.submit(time.sleep, 600).result(timeout=0.01)
except TimeoutError as error:
    assert "is still running" in str(error)
assert run.results() == [0, 1] and run.result() == 0 and run.exception() is None and run.failures == []
print(*sorted(run.logs()))
"""


def test_from_asyncio_threads_and_as_an_executor(program: Program) -> None:
    program(AROUND)


LOOKS = """
import sys, time
import muster

def talk():
    for number in range(3):
        print("line", number, flush=True)
    print("bad", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.1)

run = muster.submit(talk, np=2, grace=1, name="talk", detach=sys.argv[1] == "detach")
seen = []
for line in run.logs(rank=1, follow=True):
    seen.append(line)
    if line == "bad":
        break
assert seen == ["line 0", "line 1", "line 2", "bad"], seen
assert run.status() == "running" and run.wait(0.01) is None
other = muster.attach("talk")
assert other.id == run.id
stacks = other.stacks()
assert sorted(stacks) == [0, 1] and "in talk" in stacks[0], stacks
other.kill()
assert run.wait(120).code != 0
assert not run.status().lives
assert list(other.logs(0, stream="err")) == ["bad"]
assert "[1] line 2" in list(other.logs())
try:
    other.results()
except muster.RemoteError as error:
    print(error)
print(run.id)
"""


def test_why_names_the_rank_that_does_not_come(program: Program) -> None:
    text = """
import time
import muster

def train():
    with muster.init() as rank:
        import torch.distributed as dist
        muster.progress(7, 9)
        if rank.rank == 1:
            time.sleep(1000)
        dist.barrier()

run = muster.submit(train, np=2, grace=1)
while "has not entered barrier" not in str(why := run.why()):  # before that, one may still be on its way to join
    time.sleep(0.2)
assert why.ranks == (1,) and why.live and len(why.evidence) == 2, why
assert "rank 1 has not entered barrier" in str(why) and "The last reported step is 7/9." in str(why), why
run.kill()
after = run.why()
assert after.ranks == (1,) and not after.live, (after, after.evidence)
print(run.id)
"""
    program(text)


def test_show_ps_top_and_the_report_have_the_step_that_ranks_report(program: Program) -> None:
    text = """
import json, pathlib, subprocess, sys, time
import muster

def train():
    import os
    muster.progress(3, 10) if os.environ["RANK"] == "0" else muster.progress(4)
    print("reported", flush=True)
    time.sleep(600)

run = muster.submit(train, np=2, grace=1)
seen = set()
for line in run.logs(follow=True):
    seen.add(line)
    if len(seen) == 2:
        break

def told(*words):
    return subprocess.run([sys.executable, "-m", "muster", *words], capture_output=True, text=True, check=True).stdout

print(told("show", run.id))
print(told("top", "--once", run.id))
print(told("ps"))
assert [3, 10] == [json.loads(told("ps", "--json"))[0][name] for name in ("step", "steps")]
assert "step 3 of 10 (30%)" in pathlib.Path(told("report", run.id).strip()).read_text()
run.kill()
print(told("ps"))
assert "step 3 of 10 (30%)" in pathlib.Path(told("report", run.id).strip()).read_text()
"""
    lines = program(text).stdout.splitlines()
    assert "command  train(), called from Python with --np 2 --grace 1" in lines, lines[:4]
    head = next(number for number, line in enumerate(lines) if line.startswith("RANK "))
    assert ["STEP", "3/10", "4"] == [line.split()[-1] for line in lines[head : head + 3]]
    assert "step 3 of 10 (30%)" in lines
    listed = [line.split()[2:4] for line in lines if " fork " in line]
    assert [["running", "3/10"], ["interrupted", "3/10"]] == listed, lines


@pytest.mark.parametrize("how", ["attached", "detach"])
def test_a_running_run_is_looked_into_and_killed_from_elsewhere(program: Program, how: str) -> None:
    done = program(LOOKS, how)
    assert set() == carriers(done.stdout.split()[-1])


LEAVES = """
import os, sys, time
import muster

def train():
    print("up", flush=True)
    time.sleep(1000)

if sys.argv[1] == "run":
    muster.run(train, np=2, grace=1)
else:
    run = muster.submit(train, np=2, grace=1)
    next(run.logs(0, follow=True))
    print("[0] up", flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("mine")
    run.wait()
"""


@pytest.mark.parametrize("how", ["run", "raise", "wait"])
def test_nothing_is_left_after_ctrl_c_or_an_exception(env: dict[str, str], tmp_path: Path, how: str) -> None:
    (tmp_path / "program.py").write_text(LEAVES)
    argv = [sys.executable, "program.py", how]
    caller = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert caller.stdout is not None and caller.stderr is not None
    assert "up" in caller.stdout.readline()
    started = family(caller.pid) if how != "raise" else set()
    if how != "raise":
        assert started
        caller.send_signal(signal.SIGINT)
    _, said = caller.communicate(timeout=120)
    assert ("RuntimeError: mine" if how == "raise" else "KeyboardInterrupt") in said
    assert 0 != caller.returncode
    run_id = next((tmp_path / "muster home" / "runs").iterdir()).name
    until(lambda: not living(started) and not carriers(run_id), "everything has ended")


def test_another_python_is_refused_before_anything_is_unpickled(program: Program, tmp_path: Path) -> None:
    """The header of another caller is written into the file of the run, as the machine has only one Python."""
    text = """
import json, os
import muster
from muster.python import starting
plain = starting.packed
def packed(*given):
    data = plain(*given)
    length = int.from_bytes(data[:8], "big")
    header = {**json.loads(data[8:8 + length]), **json.loads(os.environ["CHANGED"])}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "big") + text + data[8 + length:]
starting.packed = packed
try:
    muster.run(print, "never", show_output=False)
except RuntimeError as error:
    print(error)
"""
    own = ".".join(map(str, sys.version_info[:2]))
    for changed, words in (
        ({"python": [3, 7]}, f"Python {own} in this rank, 3.7 in the caller"),
        ({"torch": "1.0"}, "in this rank, 1.0 in the caller"),
    ):
        done = program(f"import os; os.environ['CHANGED'] = {json.dumps(changed)!r}\n" + text)
        assert words in done.stdout, done.stdout + done.stderr


def test_a_function_that_others_could_have_written_is_not_read(program: Program) -> None:
    text = """
import os
import muster
from muster.runner.context import RunContext
plain = RunContext.new_directory
def new_directory(self):
    run = plain(self)
    os.chmod(run.path / "function", 0o666)
    return run
RunContext.new_directory = new_directory
try:
    muster.run(print, "never")
except muster.RemoteError as error:
    print(error)
"""
    done = program(text)
    assert "other users can write" in done.stdout
    assert "never" not in done.stdout


def test_ranks_are_told_of_progress_and_place(program: Program, tmp_path: Path) -> None:
    text = """
import os
import muster

def train():
    log = muster.get_logger()
    with muster.init() as rank:
        import torch, torch.distributed as dist
        total = torch.ones(1, device=rank.device)
        dist.all_reduce(total)
        for step in range(5):
            muster.progress(step + 1, 5)
        log.info("from %d", rank.rank)
        log.warning("careful")
        assert rank.is_main == (rank.rank == 0)
        return rank.rank, rank.world_size, rank.local_world_size, rank.backend, str(rank.device), total.item()

found = muster.run(train, np=2)
assert found == [(0, 2, 2, "gloo", "cpu", 2.0), (1, 2, 2, "gloo", "cpu", 2.0)], found
with muster.init() as rank:
    assert (rank.rank, rank.world_size, rank.launcher) == (0, 1, "none")
    import torch.distributed as dist
    assert dist.get_world_size() == 1
assert not dist.is_initialized()
"""
    done = program(text)
    assert "[0] from 0" in done.stdout and "from 1" not in done.stdout
    assert ["[0] WARNING rank 0: careful", "[1] WARNING rank 1: careful"] == sorted(done.stderr.splitlines())[:2]
    path = next((tmp_path / "muster home" / "runs").glob("*/attempt_0/rank_00001.progress"))
    assert path.read_text().split()[:2] == ["5", "5"]


USER = """
from __future__ import annotations
import asyncio
import muster

def train(lr: float) -> dict[str, float]:
    return {"loss": lr}

results: list[dict[str, float]] = muster.run(train, lr=0.1, hosts="n[1-2]", nproc_per_node=4, show_output=False)
run: muster.Run[dict[str, float]] = muster.submit(train, 0.1, slurm=True, nnodes=2, nproc_per_node=8, time="4:00:00")
loss: float = run.result(timeout=3.0)["loss"]
nothing: list[None] = muster.run("train.py", "--lr", "0.1", env={"A": "1"}, python="/opt/python")
state: muster.RunState = run.status()
options: muster.RunKeywords = {"np": 2, "grace": "5s"}
muster.run(train, 0.1, **options)
with muster.Executor(np=2) as executor:
    future = executor.submit(train, 0.1)
    loss = future.result()["loss"]

async def main() -> None:
    found: list[dict[str, float]] = await run

asyncio.run(main())
with muster.init() as rank:
    muster.progress(rank.rank, 10)
"""

WRONG = """
import muster
muster.run(print, nproc_per_node=[1])
muster.run("train.py", sync="yes")
muster.rnu(print)
muster.Executor(nproc_per_nod=3)
"""


@pytest.mark.slow
def test_a_users_file_is_clean_under_strict_mypy_and_mistakes_are_found(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    for name, status, words in (
        ("user.py", 0, ["Success"]),
        # one error in each line
        (
            "wrong.py",
            1,
            ["wrong.py:3: error", ":4: error", '"rnu"', 'did you mean "nproc_per_node"', "Found 4"],
        ),
    ):
        done = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert status == done.returncode, done.stdout + done.stderr
        assert all(word in done.stdout for word in words), done.stdout


def test_tracebacks_show_the_lines_of_the_user_and_not_those_of_muster(program: Program) -> None:
    text = """
import os, signal, threading, time, traceback
import muster

def train():
    raise ValueError("bad label")

def sleeps():
    open("up", "w").close()
    time.sleep(600)

def interrupted():
    def when_up():
        while not os.path.exists("up"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=when_up).start()
    muster.run(sleeps, grace=1)

def remote():
    muster.run(train)

def refused():
    muster.run(train, nproc_per_node=0)

def signalled():
    muster.run(lambda: os.kill(os.getpid(), 9))

def not_met():
    muster.init("no such backend")

for call in (remote, refused, signalled, interrupted, not_met):
    try:
        call()
    except BaseException as error:
        found = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        ours = [name for name in found if "muster/" in name.rpartition("/src/")[2] and "/torch/" not in name]
        print(call.__name__, type(error).__name__, len(ours), len(found) - len(ours) >= 2)
        remote = error if isinstance(error, muster.RemoteError) else error.__cause__
        if isinstance(remote, muster.RemoteError):
            text = str(remote)
            assert remote.run in text and f"on {remote.host}" in text and f"rank {remote.rank}" in text, text
            assert f"log: {remote.log}" in text and os.path.exists(remote.log), text
"""
    done = program(text)
    expected = [
        "remote ValueError 1 True",
        "refused InvalidRequest 1 True",
        "signalled RemoteError 1 True",
        "interrupted KeyboardInterrupt 1 True",
        "not_met AssertionError 1 True",
    ]
    assert expected == [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))], done.stderr


ROLES = """
import os
import muster

def train():
    return int(os.environ["RANK"]), sorted(muster.roles())

def bad(text):
    raise ValueError(text)

script = muster.Role("script.py", launcher="exec")
trainer = muster.Role(train, nproc_per_node=2, launcher="exec")
found = muster.run(roles={"script": script, "trainer": trainer}, show_output=False)
assert found == {"script": [None], "trainer": [(0, ["script", "trainer"]), (1, ["script", "trainer"])]}, found
run = muster.submit(roles={"trainer": trainer, "bad": muster.Role(bad, "by itself", launcher="exec")})
try:
    run.results_by_role()
except ValueError as error:
    cause = error.__cause__
    assert (str(error), cause.rank) == ("by itself", 2), cause
    assert "rank 2 (bad:0) on " in str(cause), cause
else:
    raise SystemExit("no error")
"""


def test_functions_and_scripts_are_roles_of_one_run(program: Program, tmp_path: Path) -> None:
    """Their ranks are numbered from 0 in each role, and their results do not mix."""
    (tmp_path / "script.py").write_text("print('a script')")
    program(ROLES)
