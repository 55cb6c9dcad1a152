"""Every external launcher on this machine: first failure, exit codes that they hide, kill, no leftovers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from canaries import Canaries
from waiting import until

from muster.launchers import LAUNCHERS

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed_sum.py"

TRAINING = EXAMPLE.with_name("train_ddp.py")

HERE = [name for name, row in LAUNCHERS.items() if row.foreign and "local" in row.places]
PROGRAMS = [name for name in HERE if name not in ("spawn", "ray")]
"""Ray takes half a minute for each; spawn supports only Python, and importing torch is slow."""


def some(names: list[str], *now: str) -> list[Any]:
    """Return all launchers as parameters; for `make test` only the named ones, the others for `make lab-test`."""
    return [pytest.param(name, marks=[] if name in now else [pytest.mark.lab]) for name in names]


@pytest.fixture(autouse=True)
def own_tmp(muster: Any, tmp_path: Path) -> Path:
    """A temporary directory for this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    muster.env["TMPDIR"] = str(folder)
    return folder


def others(muster: Any) -> list[str]:
    """Return processes that mention the directory of this test."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            words = Path(f"/proc/{entry}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if os.fsencode(str(muster.home)) in environ and words and int(entry) != os.getpid():
            found.append(f"{entry} {words!r}")
    return found


def agent_of(muster: Any) -> int:
    """Return the pid of the agent. Its parent, the guard, has the same name, and so has a child that is to be another
    program in a moment."""
    alike = {int(line.split()[0]) for line in others(muster) if "exec(f.read" in line and "setup" not in line}
    above = {pid: parent for pid in alike if (parent := parent_of(pid)) in alike}
    (agent,) = [pid for pid, guard in above.items() if guard not in above]
    return agent


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_output_of_a_launcher_is_shown_while_its_ranks_are_awaited(muster: Any, tmp_path: Path) -> None:
    """Open MPI, for example, waits for ever after some of its errors."""
    program = tmp_path / "waits"
    program.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo Open MPI && exit\necho ----\necho bad name >&2\nexec sleep 999\n"
    )
    program.chmod(0o755)
    words = ["--launcher", "mpirun", "--launcher-args", str(program), "-g", "2", "--", "true"]
    with open(tmp_path / "said", "w") as said:
        process = muster.start("run", *words, stderr=said)
    told = "no ranks from mpirun yet; its output: bad name"
    until(lambda: told in (tmp_path / "said").read_text(), "the launcher's words are shown")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert 130 == process.returncode


# real Ray is tested by the guide from-ray
@pytest.mark.parametrize("launcher", some(HERE, *(name for name in HERE if name != "ray")))
def test_the_same_script_under_each(muster: Any, own_tmp: Path, launcher: str, canaries: Canaries) -> None:
    # deepspeed's own log files, and its options after the script, as in tutorials
    config = str(EXAMPLE.with_name("ds_config.json"))
    more = ["--launcher-args", "--enable_each_rank_log logs"] if launcher == "deepspeed" else []
    behind = ["--deepspeed", f"--deepspeed_config={config}"] if launcher == "deepspeed" else []
    done = muster("run", "--launcher", launcher, *more, "-g", "2", str(EXAMPLE), *behind, timeout=240)
    assert 0 == done.returncode, done.stderr
    for rank in range(2):
        assert f"[{rank}] rank {rank} of 2 on " in done.stdout
        if launcher == "deepspeed":
            (log,) = (muster.cwd / "logs").glob(f"*_rank{rank}.log")
            assert f"rank {rank} of 2 on " in log.read_text()
    assert "[0] the sum of 0 to 1 is 1, as it should be" in done.stdout
    assert f"launcher {launcher}" in done.stderr
    assert "orphaned" not in done.stderr
    until(lambda: not others(muster), "nothing is left")
    assert [] == list(own_tmp.glob("muster-*"))


@pytest.mark.parametrize("launcher", some(["fork", "torchrun", "deepspeed"], "fork", "torchrun"))
def test_a_training_under_each(muster: Any, launcher: str) -> None:
    done = muster("run", "--launcher", launcher, "-g", "2", str(TRAINING), "--epochs", "1", timeout=240)
    assert (0, True) == (done.returncode, "[0] epoch 0: loss 0.5500 on 2 ranks" in done.stdout), done.stderr


def test_an_agent_that_is_killed_leaves_nothing(muster: Any, own_tmp: Path) -> None:
    process = muster.start("run", "--launcher", "torchrun", "-g", "2", "--", "sh", "-c", "echo $RANK; sleep 600")
    until(lambda: muster.home.exists() and all(wrote(muster, rank) for rank in range(2)), "both run")
    (shim,) = own_tmp.glob("muster-*/rank.pyz")
    os.kill(agent_of(muster), signal.SIGKILL)
    assert 125 == process.wait(timeout=120)
    process.communicate()
    until(lambda: not others(muster), "no process is left")
    until(lambda: not shim.parent.exists(), "the parent of the agent removes its directory")
    assert muster.newest().name not in muster("clean").stdout, "runs of other tests may have left something"


@pytest.mark.slow
@pytest.mark.lab
def test_ray_tells_a_status_too(muster: Any, script: Any) -> None:
    text = "import os, sys, time\nrank = int(os.environ['RANK'])\ntime.sleep(600 * (1 - rank))\nsys.exit(7)"
    done = muster("run", "--launcher", "ray", "-g", "2", str(script(text)), timeout=240)
    assert 7 == done.returncode, done.stderr
    assert "rank 1 failed first" in done.stderr
    until(lambda: not others(muster), "nothing is left")


RAISES = """
import time

def main(rank, word, *more):
    if rank == 1:
        raise ValueError(word, *more)
    time.sleep(600)
"""


def test_spawn_reports_an_exit_code_and_a_traceback(muster: Any, script: Any) -> None:
    """The function gets values for words that are Python literals, as from `mp.spawn(main, args=…)`."""
    script(RAISES, "fn.py")
    done = muster("run", "--launcher", "spawn", "-g", "2", "fn:main", "a bad batch", "2", "None", "1e-3x", timeout=240)
    assert 1 == done.returncode, done.stderr
    assert "rank 1 failed first" in done.stderr
    assert "ValueError: ('a bad batch', 2, None, '1e-3x')" in done.stderr
    assert "muster-" not in muster.log(1, "err").decode(), "no frame of ours"
    until(lambda: not others(muster), "nothing is left")


SELF = """
import os
import torch.multiprocessing as mp

def work(index, world):
    rank = int(os.environ["NODE_RANK"]) + index
    print(f"rank {rank} of {world} at {os.environ['MASTER_PORT']}\\n", end="", flush=True)

if __name__ == "__main__":
    mp.spawn(work, args=(int(os.environ["WORLD_SIZE"]),), nprocs=int(os.environ["NPROC_PER_NODE"]))
"""


def test_a_script_that_spawns_by_itself_is_started_once(muster: Any, script: Any) -> None:
    done = muster("run", "--launcher", "spawn", "-g", "2", str(script(SELF)), timeout=120)
    assert 0 == done.returncode, done.stderr
    assert ["[0] rank 0 of 2 at", "[0] rank 1 of 2 at"] == sorted(
        line.rpartition(" ")[0] for line in done.stdout.splitlines()
    )


@pytest.mark.parametrize("launcher", PROGRAMS)
def test_who_failed_first_and_how(muster: Any, launcher: str) -> None:
    # messages that could also be caused by the end of a peer: muster waits for a better cause, launchers do not
    who_failed(muster, launcher, "{ echo 'no data: Connection refused' >&2; exit 7; }", 7, "exit status 7")


@pytest.mark.parametrize("launcher", some(PROGRAMS, "torchrun", "mpirun"))
def test_which_signal_ended_a_rank(muster: Any, launcher: str) -> None:
    who_failed(muster, launcher, "kill -SEGV $$", 139, "SIGSEGV")


def who_failed(muster: Any, launcher: str, ends: str, status: int, says: str) -> None:
    """Check that muster reports this end of rank 1 of two."""
    # a rank that its launcher has not started yet could not be terminated
    meets = "touch up$RANK; until [ -e up0 ] && [ -e up1 ]; do sleep 0.02; done"
    line = ["--", "sh", "-c", f"{meets}; [ $RANK = 1 ] && {ends}; sleep 600"]
    done = muster("run", "--launcher", launcher, "-g", "2", *line, timeout=240)
    assert status == done.returncode, done.stderr
    assert "rank 1 failed first" in done.stderr
    assert says in done.stderr
    assert re.search("rank 0: terminated by (muster|the launcher) ", done.stderr), done.stderr
    until(lambda: not others(muster), "nothing is left")


@pytest.mark.parametrize("launcher", some(PROGRAMS, "torchrun", "mpirun"))
def test_kill(muster: Any, launcher: str) -> None:
    process = muster.start("run", "--launcher", launcher, "-g", "2", "--", "sh", "-c", "echo $RANK; sleep 600")
    until(lambda: muster.home.exists() and all(wrote(muster, rank) for rank in range(2)), "both run")
    done = muster("kill", "last")
    assert 0 == done.returncode, done.stderr
    assert 137 == process.wait(timeout=120)
    process.communicate()
    until(lambda: not others(muster), "nothing is left")


def wrote(muster: Any, rank: int) -> bool:
    return any((muster.home / "runs").glob(f"*/attempt_0/rank_{rank:05d}.out")) and bool(muster.log(rank))


def test_what_the_plan_shows_is_what_ran(muster: Any, own_tmp: Path) -> None:
    """The launcher's command line, with late values filled in."""
    line = ["--launcher", "torchrun", "-g", "2", "--", "sh", "-c", "tr '\\0' '\\n' </proc/$PPID/cmdline; echo; sleep 1"]
    planned = json.loads(muster("plan", "--json", *line).stdout)["commands"][0]["argv"]
    done = muster("run", "--prefix", "", "--ranks", "0", *line, timeout=240)
    assert 0 == done.returncode, done.stderr
    run = muster.newest()
    log = (run / "events.jsonl").read_text()
    assert '"joined"' in log
    python, unbuffered, shim, name = done.stdout.splitlines()[:4]
    assert (sys.executable, "-u", run.name) == (python, unbuffered, name)
    assert Path(shim).name == "rank.pyz" and Path(shim).parents[1] == own_tmp
    assert planned[:3] == [{"late": "MUSTER_PYTHON"}, "-m", "torch.distributed.run"]
    assert planned[-2] == {"late": "MUSTER_RANK"}


def test_fewer_ranks_than_were_asked_for_are_a_failure(muster: Any) -> None:
    """accelerate 1.15 with `--cpu` starts one rank, and exits with 0."""
    line = ["--launcher", "accelerate", "--launcher-args", "--cpu", "-g", "2", "--", "true"]
    done = muster("run", *line, timeout=240)
    assert 125 == done.returncode, done.stderr
    assert "never registered (0 of 2 ranks did)" in done.stderr


def test_one_rank_alone(muster: Any) -> None:
    """accelerate starts a single rank differently."""
    done = muster("run", "--launcher", "accelerate", "-g", "1", str(EXAMPLE), timeout=240)
    assert (0, True) == (done.returncode, "[0] the sum of 0 to 0 is 0, as it should be" in done.stdout), done.stderr


def test_a_program_that_cannot_be_started_is_no_kill(muster: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    done = muster("run", "--launcher", "mpirun", "-g", "2", "--", str(broken), timeout=240)
    assert 125 == done.returncode, done.stderr
    assert f"error: cannot start {broken}: No such file or directory" in done.stderr


def test_all_ranks_see_the_gpus_of_their_machine(muster: Any) -> None:
    """submitit hides the GPUs from its tasks, and deepspeed renumbers them."""
    show = ["--prefix", "", "--", "sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}"]
    for launcher in ("submitit", "deepspeed"):
        done = muster("run", "--launcher", launcher, "-g", "2", *show, timeout=240)
        assert ["unset", "unset"] == done.stdout.split(), done.stderr
        done = muster("run", "--launcher", launcher, "-g", "2", "--gpus", "2,3", *show, timeout=240)
        assert ["2,3", "2,3"] == done.stdout.split(), done.stderr


def test_ranks_do_not_outlive_their_agent(muster: Any) -> None:
    """Detached, so that no terminal ends what the agent left; torchrun's workers do not die with their parent."""
    line = ["--launcher", "torchrun", "-g", "2", "--", "sh", "-c", "echo $RANK; sleep 600"]
    assert 0 == muster("run", "-d", *line, timeout=240).returncode
    until(lambda: all(wrote(muster, rank) for rank in range(2)), "both run")
    # its parent is one more process of that name, which kills what an agent leaves
    agent = agent_of(muster)
    os.kill(agent, signal.SIGKILL)
    until(lambda: not [line for line in others(muster) if "sleep" in line], "the ranks have ended")
    until(lambda: not others(muster), "nothing is left")


def test_a_launcher_that_cannot_start_ranks_says_why(muster: Any) -> None:
    done = muster("run", "--launcher", "torchrun", "--launcher-args", "--no-such", "-g", "2", "--", "true", timeout=240)
    assert 125 == done.returncode
    assert "never registered (0 of 2 ranks did): torchrun on" in done.stderr
    assert "unrecognized arguments: --no-such" in done.stderr


def test_more_ranks_than_were_asked_for_are_refused(muster: Any) -> None:
    line = ["--launcher", "torchrun", "--launcher-args", "--nproc-per-node=3", "-g", "2", "--", "sleep", "60"]
    done = muster("run", *line, timeout=240)
    assert 125 == done.returncode, done.stderr
    assert "torchrun started a world of 3, requested: 2 ranks" in done.stderr
    until(lambda: not others(muster), "nothing is left")


def test_all_ranks_are_started_again(muster: Any, tmp_path: Path) -> None:
    line = ["--", "sh", "-c", "[ -e again ] && exit 0; [ $RANK = 1 ] && touch again && exit 3; sleep 600"]
    done = muster("run", "--launcher", "torchrun", "--max-restarts", "1", "-g", "2", *line, timeout=240)
    assert 0 == done.returncode, done.stderr


SAVES = """
import os, pathlib, signal, sys, time

def save(*_):
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(0)

signal.signal(signal.SIGINT, save)
print("on", flush=True)
pathlib.Path("on " + os.environ["RANK"]).touch()  # a handler that prints must not interrupt another print
time.sleep(600)
"""


def test_a_rank_that_handles_the_signal_has_its_grace_period(muster: Any, script: Any) -> None:
    """Ctrl-C: the launcher does not shorten the ranks' grace period."""
    process = muster.start("run", "--launcher", "torchrun", "-g", "2", str(script(SAVES)))
    until(lambda: all((Path(muster.cwd) / f"on {rank}").exists() for rank in range(2)), "both run")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert 130 == process.returncode
    assert 2 == out.count("saved")
