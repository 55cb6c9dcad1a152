"""How a run ends: the exit code is that of the first rank that failed, and the report names it and the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable

import pytest
from running import SAME_WORDS, outcome

Script = Callable[..., Path]

MEET = """
import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
total = torch.ones(1)
dist.all_reduce(total)
"""

# Whether a peer falls by itself or is asked first is a matter of milliseconds.
EITHER = {r"(terminated by muster \(\w[\w ]*\)|failed afterwards \(lost peer\))": "TERMINATED OR FAILED AFTERWARDS"}


def report(stderr: str) -> str:
    """Return the report at the end: muster's output from its last message on."""
    return "muster: " + stderr.rpartition("\nmuster: ")[2]


def one_failure(muster: Any, golden: Any, name: str, status: int, *words: str) -> None:
    """Check that a run fails with this exit code and the golden report, and that `wait` and `show` agree."""
    done = muster("run", *words)
    assert status == done.returncode, done.stderr
    golden(name, report(done.stderr), {**SAME_WORDS, **EITHER})
    assert ("failed", status) == tuple(outcome(muster)[key] for key in ("state", "code"))


def test_a_rank_that_raises_is_named_and_not_its_peers_that_lose_it(muster: Any, script: Script, golden: Any) -> None:
    text = (
        MEET
        + "def step():\n    if rank == 1:\n        raise ValueError('bad batch')\n\nstep()\ndist.all_reduce(total)\n"
    )
    one_failure(muster, golden, "end-raises.txt", 1, "-g", "2", str(script(text, "train.py")))
    first = outcome(muster)["root_cause"]
    assert (1, 1, "raised") == (first["rank"], first["code"], first["failure"]["kind"])
    assert "ValueError: bad batch" == first["failure"]["summary"]
    waited = muster("wait", "last")
    assert (1, True) == (waited.returncode, "rank 1 failed first" in waited.stdout)
    assert "rank 1 failed first" in muster("show").stdout


def test_a_killed_rank_gives_128_and_its_signal(muster: Any, script: Script, golden: Any) -> None:
    text = MEET + "print('last words')\nif rank == 1:\n    os.kill(os.getpid(), 9)\ndist.all_reduce(total)\n"
    one_failure(muster, golden, "end-killed.txt", 137, "-g", "2", str(script(text, "train.py")))
    first = outcome(muster)["root_cause"]
    assert (1, None, 9) == (first["rank"], first["code"], first["signal"])
    assert b"last words\n" == (muster.newest() / "attempt_0" / "rank_00001.out").read_bytes()


def test_a_rank_that_exits_gives_its_own_status_without_torch_distributed(
    muster: Any, script: Script, golden: Any
) -> None:
    text = """
import os, sys, time
if os.environ["RANK"] == "2":
    print("no data in /data", file=sys.stderr)
    sys.exit(7)
time.sleep(1000)
"""
    one_failure(muster, golden, "end-exits.txt", 7, "-g", "3", str(script(text, "train.py")))


def test_a_syntax_error_in_all_ranks_is_reported_once(muster: Any, script: Script) -> None:
    done = muster("run", "-g", "2", str(script("print('so far')\nif True print(1)\n", "train.py")))
    assert 1 == done.returncode
    first, *others = report(done.stderr).splitlines()
    assert re.fullmatch(
        r"muster: all 2 ranks raised SyntaxError within \d+(\.\d)?s: invalid syntax \(train.py:2\)", first
    )
    assert any("if True print(1)" in line for line in others)
    assert 1 == sum("SyntaxError:" in line for line in others)
    assert "so far" not in done.stdout


@pytest.mark.parametrize(("end", "status"), [("sys.exit('text')", 1), ("os.abort()", 134), ("os._exit(255)", 255)])
def test_other_ends_are_the_shells(muster: Any, script: Script, end: str, status: int) -> None:
    assert status == muster("run", "--launcher", "exec", str(script(f"import os, sys\n{end}\n"))).returncode


SLOW = """
import atexit, threading, time
pids = torch.zeros(3, dtype=torch.int64)
pids[rank] = os.getpid()
dist.all_reduce(pids)
peers = [int(pid) for pid in pids if pid != os.getpid()]

def wait_for_peers():
    while any(os.path.exists(f"/proc/{{pid}}") for pid in peers):
        time.sleep(0.01)

{slow}
if rank == 1:
    try:
        raise RuntimeError("mine")
    finally:
        dist.destroy_process_group()
dist.all_reduce(total)
"""


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param("if rank == 1: atexit.register(wait_for_peers)", id="atexit"),
        pytest.param("if rank == 1: threading.Thread(target=wait_for_peers).start()", id="thread"),
    ],
)
def test_a_rank_that_raised_is_named_first_though_it_exits_after_its_peers(
    muster: Any, script: Script, slow: str
) -> None:
    done = muster("run", "-g", "3", str(script(MEET + SLOW.format(slow=slow))))
    found = outcome(muster)
    ends = {end["rank"]: end for end in found["exits"]}
    assert ends[1]["when"] > max(ends[0]["when"], ends[2]["when"]), "the peers were to end before it"
    assert "lost peer" == ends[0]["failure"]["kind"]
    assert (1, 1, "raised") == (found["code"], found["root_cause"]["rank"], found["root_cause"]["failure"]["kind"])
    assert "RuntimeError: mine" == found["root_cause"]["failure"]["summary"]
    assert "rank 1 failed first" in report(done.stderr)
    assert 1 == done.returncode


STARVED = """
import torch, torch.distributed as dist, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
dist.init_process_group("gloo")
total = torch.tensor(1.0)
for _ in range(4):
    dist.all_reduce(total)
workers = [t for t in os.listdir("/proc/self/task") if "runloop" in open(f"/proc/self/task/{t}/comm").read()]
for worker in workers:
    os.sched_setscheduler(int(worker), os.SCHED_IDLE, os.sched_param(0))
assert workers
dist.all_reduce(total)
"""


def test_a_rank_that_ends_right_after_a_collective_is_not_aborted(muster: Any, script: Script) -> None:
    """Its thread still has the tensor, gets no core, and would ask for the lock of an interpreter that is gone."""
    done = muster("run", "-g", "4", str(script(STARVED)))
    assert 0 == done.returncode, done.stderr


RECORD = """
import os
from torch.distributed.elastic.multiprocessing.errors import record

{decorator}
def main():
    if os.environ["RANK"] == "1":
        raise KeyError("no such column")

main()
"""


@pytest.mark.parametrize("decorator", ["@record", ""], ids=["with record", "without record"])
def test_the_error_file_that_the_user_set_is_written(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path, decorator: str
) -> None:
    env["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / "new folder" / "error.json")
    done = muster("run", "-g", "2", str(script(RECORD.format(decorator=decorator))))
    assert 1 == done.returncode, done.stderr
    message = json.loads((tmp_path / "new folder" / "error.json").read_text())["message"]
    assert "KeyError: 'no such column'" == message["message"]
    assert "in main" in message["extraInfo"]["py_callstack"]
    assert message["extraInfo"]["timestamp"].isdigit()
    assert "KeyError, exit status 1" in report(done.stderr)


def test_no_error_file_is_written_for_a_run_that_succeeds(muster: Any, env: dict[str, str], tmp_path: Path) -> None:
    env["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / "error.json")
    assert 0 == muster("run", "--", "true").returncode
    assert not (tmp_path / "error.json").exists()
