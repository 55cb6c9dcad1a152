"""Options of `muster run`, in real runs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

import pytest
from canaries import Canaries
from running import EXAMPLE, RunProcesses, log, newest, outcome
from waiting import until

Script = Callable[..., Path]

TELL = """
import json, os, sys
told = {"rank": os.environ["RANK"], "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
told["prefix"], told["executable"] = sys.prefix, sys.executable
print(json.dumps(told))
"""


def told(muster: Any, rank: int = 0) -> dict[str, Any]:
    """Return what TELL has recorded in a rank of the newest run."""
    found: dict[str, Any] = json.loads(log(muster, rank))
    return found


# ---- programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_the_example_sums_on_four_ranks(muster: Any, launcher: str, canaries: Canaries) -> None:
    done = muster("run", "-g", "4", "--launcher", launcher, str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 3 is 6, as it should be" in done.stdout.splitlines()
    for rank in range(4):
        assert f"[{rank}] rank {rank} of 4 on {socket.gethostname()}, local rank {rank}, cpu, gloo" in done.stdout
    first, *_, last = done.stderr.splitlines()
    assert f"4 ranks, launcher {launcher}, " in first
    assert re.fullmatch(r"muster: all 4 ranks succeeded in \d+(\.\d)?s", last)


def test_the_example_works_alone(muster: Any, env: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, EXAMPLE], env={**env, "MASTER_PORT": port}, cwd=tmp_path, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stderr
    assert "the sum of 0 to 0 is 0, as it should be" in done.stdout


@pytest.mark.parametrize("launcher", ["fork", "exec", "torchrun"])
def test_process_names_tell_ranks_apart(muster: Any, script: Script, launcher: str) -> None:
    """`ps` and `top` show the names."""
    done = muster(
        "run", "--launcher", launcher, "-g", "2", str(script("print(open('/proc/self/comm').read(), end='')"))
    )
    assert {"[0] rank 0", "[1] rank 1"} == set(done.stdout.splitlines()), done.stderr


def test_a_command_is_any_program_and_no_store_is_started_for_it(muster: Any) -> None:
    done = muster("run", "-g", "2", "--", "sh", "-c", 'echo "$RANK of $WORLD_SIZE: $1"', "sh", "a b")
    assert 0 == done.returncode, done.stderr
    assert {"[0] 0 of 2: a b", "[1] 1 of 2: a b"} == set(done.stdout.splitlines())
    assert [] == list(newest(muster).glob("node_*/store.log"))


def test_a_command_that_asks_for_the_store_finds_one(muster: Any) -> None:
    done = muster("run", "-g", "2", "--", sys.executable, str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 1 is 1, as it should be" in done.stdout.splitlines()
    assert 1 == len(list(newest(muster).glob("node_*/store.log")))


def test_no_python_is_the_same_as_two_dashes(muster: Any) -> None:
    done = muster("run", "--no-python", "sh", "-c", "echo plain")
    assert (0, "[0] plain\n") == (done.returncode, done.stdout)


# ---- the environment of a rank ---------------------------------------------------------------------------------------


def test_a_module_by_fork_finds_its_arguments_folder_variables_and_preloaded_modules(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script("", "there/package/__init__.py")
    script("import early, os; assert early.pid != os.getpid()\n" + TELL, "there/package/mod.py")
    script("import os; pid = os.getpid()", "lib/early.py")
    env.update(PYTHONPATH=str(tmp_path / "lib"), FROM_HERE="yes it is", OTHER="old")
    words = ["--cwd", "there", "--env", "FROM_HERE", "--env", "OTHER=new=er", "--preload", "json", "--preload", "early"]
    setup = [
        "--setup",
        "export X=1",
        "--setup",
        "echo words of a login shell; echo more >&2",
        "--setup",
        "export Y=$X$X",
    ]
    done = muster("run", "-g", "2", *words, *setup, "--name", "mine", "-m", "package.mod", "--lr", "0.1")
    assert 0 == done.returncode, done.stderr
    for rank in range(2):
        found = told(muster, rank)
        assert ["--lr", "0.1"] == found["argv"]
        assert str(tmp_path / "there") == found["cwd"]
        assert ("yes it is", "new=er") == (found["env"]["FROM_HERE"], found["env"]["OTHER"])
        assert ("1", "11") == (found["env"]["X"], found["env"]["Y"])
    assert "words of a login shell" not in done.stdout
    assert "(mine)" in muster("show", "mine").stdout


def test_a_failing_line_of_setup_is_reported_and_nothing_runs(muster: Any, tmp_path: Path) -> None:
    done = muster("run", "--setup", "module load nothing", "--", "touch", "ran")
    assert 125 == done.returncode
    assert "--setup failed" in done.stderr
    assert "--setup failed: module load nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_wrap_puts_words_before_each_rank(muster: Any, script: Script) -> None:
    done = muster("run", "-g", "2", "--wrap", "env WRAPPED={rank}of{world_size}", str(script(TELL)))
    assert 0 == done.returncode, done.stderr
    assert ["0of2", "1of2"] == [told(muster, rank)["env"]["WRAPPED"] for rank in range(2)]
    assert "launcher exec" in done.stderr


def _venv(folder: Path) -> Path:
    """Create a virtual environment without torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def test_the_python_is_the_given_one_then_the_active_environment_then_the_one_beside_the_script(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    beside, active, given = (_venv(tmp_path / name) for name in ("project/.venv", "active", "given"))
    path = str(script(TELL, "project/script.py"))

    def chosen(*words: str) -> tuple[str, str]:
        done = muster("run", "--launcher", "exec", *words, path)
        assert 0 == done.returncode, done.stderr
        return told(muster)["prefix"], done.stderr.splitlines()[0]

    (tmp_path / ".venv").symlink_to(active)
    for words, variables, prefix, why in (
        ((), {}, beside, ".venv next to the script"),
        ((), {"VIRTUAL_ENV": str(active)}, active, "the active virtual environment"),
        ((), {"CONDA_PREFIX": str(active)}, active, "the active conda environment"),
        (("--python", "given/bin/python"), {"VIRTUAL_ENV": str(active)}, given, "--python"),
    ):
        muster.env = {**env, **variables}
        found, line = chosen(*words)
        assert (str(prefix), True) == (found, why in line), line
    path = str(script(TELL, "elsewhere/script.py"))
    muster.env = env
    found, line = chosen()
    assert (str(tmp_path / ".venv"), True) == (found, ".venv in the working directory" in line), line
    (tmp_path / ".venv").unlink()
    found, line = chosen()
    assert (sys.prefix, True) == (found, "the Python of muster" in line), line


NAMES = """
import json, os, sys, torch
json.dump({"env": dict(os.environ), "threads": torch.get_num_threads()}, open(sys.argv[1] + os.environ["RANK"], "w"))
"""


def test_ranks_find_all_that_torchrun_gives_them(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    del env["OMP_NUM_THREADS"]
    path = str(script(NAMES))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", path, "torchrun"]
    subprocess.run(torchrun, env=env, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert 0 == muster("run", "-g", "2", path, "fork").returncode
    for rank in "01":
        theirs, ours = (json.loads((tmp_path / (name + rank)).read_text())["env"] for name in ("torchrun", "fork"))
        names = set(theirs) - set(env)
        assert {"RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} <= names
        assert set() == names - set(ours)
        chosen = {"MASTER_PORT", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE", "OMP_NUM_THREADS"}
        assert {name: theirs[name] for name in names - chosen} == {name: ours[name] for name in names - chosen}


def test_ranks_share_the_cores_unless_a_number_of_threads_is_set(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    path = str(script(NAMES))
    cores = len(os.sched_getaffinity(0))

    def threads(*words: str) -> tuple[str, int]:
        done = muster("run", *words, path, "told")
        assert 0 == done.returncode, done.stderr
        found = json.loads((tmp_path / "told0").read_text())
        return found["env"]["OMP_NUM_THREADS"], found["threads"]

    del env["OMP_NUM_THREADS"]
    assert (str(cores), cores) == threads()
    assert ("1", 1) == threads("--env", "OMP_NUM_THREADS=1", "--launcher", "exec")


# ---- stdin, and output -----------------------------------------------------------------------------------------------


def test_one_rank_reads_stdin_and_the_others_find_it_empty(muster: Any, script: Script) -> None:
    text = "line\n" * 100_000  # more than any pipe holds
    path = str(script("import sys; text = sys.stdin.read(); print(len(text), text[:4], text[-5:-1])"))
    done = muster("run", "-g", "2", "--stdin", "1", path, stdin=None, input=text)
    assert 0 == done.returncode, done.stderr
    assert {"[0] 0", "[1] 500000 line line"} == {line.rstrip() for line in done.stdout.splitlines()}


@pytest.mark.parametrize("launcher", ["fork", "exec", "torchrun"])
def test_a_single_rank_has_the_stdin_of_muster(muster: Any, script: Script, launcher: str) -> None:
    text = "import sys; print(input(), sys.stdin.seekable(), sys.stdin.isatty(), len(sys.stdin.read()))"
    done = muster("run", "--launcher", launcher, "-g", "1", str(script(text)), stdin=None, input="y\n" * 200_000)
    assert (0, "[0] y False False 399998\n") == (done.returncode, done.stdout), done.stderr


DEBUGGED = """
import os, sys, termios, time
x = 42
breakpoint()
settings = termios.tcgetattr(0)
settings[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, settings)
print("silent", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
os.kill(os.getpid(), 9)
"""

SHELL = """
"$@"
echo "status $?"
read -t 0 && echo "the shell reads what was typed"
stty -a | grep -qw -e -echo && echo "the terminal is silent"
echo over
"""


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_a_single_rank_can_be_debugged_on_a_terminal(
    muster: Any, script: Script, tmp_path: Path, launcher: str
) -> None:
    path = str(script(DEBUGGED))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        line = muster.argv("run", "--launcher", launcher, "-g", "1", path)
        os.execvpe("bash", ["bash", "-c", SHELL, "bash", *line], muster.env)
    seen = b""

    def until_shown(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            assert select.select([terminal], [], [], 120)[0], seen.decode()
            seen += os.read(terminal, 4096)

    try:
        until_shown(b"(Pdb) ")
        os.write(terminal, b"p x * 2\n")
        until_shown(b"84")
        os.write(terminal, b"c\n")
        until_shown(b"silent")
        os.write(terminal, b"echo for the rank\n")
        (tmp_path / "go").touch()
        until_shown(b"over")
        assert b"status 137" in seen, seen.decode()
        assert b"the shell reads" not in seen and b"terminal is silent" not in seen, seen.decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_several_ranks_that_ask_are_told_who_can_read(muster: Any, script: Script) -> None:
    done = muster("run", "--launcher", "exec", "-g", "2", str(script("input()")), stdin=None, input="y\n" * 2)
    assert 1 == done.returncode
    assert re.search("^hint: .*`--stdin 0`", done.stderr, re.M), done.stderr


def test_a_script_that_can_be_read_only_once_is_read_for_all_ranks(muster: Any, script: Script) -> None:
    """A script from stdin, and from a shell's `<(…)`; a terminal is not a script."""
    path = script('import os, sys; print(os.environ["RANK"], sys.argv[1:], repr(sys.stdin.read()))')
    expected = {f"[{rank}] {rank} ['a'] ''" for rank in (0, 1)}
    for first, launcher in (("-", "fork"), ("/dev/stdin", "exec")):
        done = muster("run", "--launcher", launcher, "-g", "2", first, "a", stdin=None, input=path.read_text())
        assert (0, expected) == (done.returncode, set(done.stdout.splitlines())), done.stderr
    words = ["bash", "-c", '"$@" <(cat script.py) a', "bash", *muster.argv("run", "--launcher", "exec", "-g", "2")]
    done = subprocess.run(words, env=muster.env, cwd=muster.cwd, capture_output=True, text=True)
    assert (0, expected) == (done.returncode, set(done.stdout.splitlines())), done.stderr
    ours, theirs = os.openpty()
    done = muster("run", "-", stdin=theirs)
    assert (2, True) == (done.returncode, "cannot read script -: it is a terminal" in done.stderr)
    os.close(ours)
    os.close(theirs)


def test_stdin_may_be_a_file(muster: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text\n" * 50_000)
    with open(tmp_path / "in") as file:
        done = muster("run", "-g", "2", "--stdin", "0", "--", "wc", "-c", stdin=file)
    assert {"[0] 250000", "[1] 0"} == set(done.stdout.splitlines())


def test_the_run_ends_with_status_124_when_its_time_is_over(muster: Any) -> None:
    done = muster("run", "-g", "2", "--timeout", "10", "--", "sleep", "1000")
    assert 124 == done.returncode
    assert "reached --timeout of 10s: sending SIGTERM to 2 ranks" in done.stderr
    assert ("timed out", 124) == tuple(outcome(muster)[key] for key in ("state", "code"))


def test_prefix_ranks_and_quiet_choose_what_is_shown_and_all_is_kept(muster: Any) -> None:
    says = ["--", "sh", "-c", "echo out $RANK; echo err $RANK >&2"]
    done = muster("run", "-g", "3", "--ranks", "0,2", "--prefix", "{rank}/{local_rank}/{node}@{host}> ", *says)
    host = socket.gethostname()
    assert {f"{rank}/{rank}/0@{host}> out {rank}" for rank in (0, 2)} == set(done.stdout.splitlines())
    assert {f"{rank}/{rank}/0@{host}> err {rank}" for rank in (0, 2)} <= set(done.stderr.splitlines())
    assert "err 1" not in done.stderr
    assert (b"out 1\n", b"err 1\n") == (log(muster, 1), log(muster, 1, "err"))
    done = muster("run", "-g", "3", "--quiet", *says)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert b"out 2\n" == log(muster, 2)


def test_quiet_tells_a_failure(muster: Any) -> None:
    done = muster("run", "--quiet", "--", "sh", "-c", "echo out; echo why >&2; exit 6")
    assert (6, "") == (done.returncode, done.stdout)
    assert "rank 0 failed, " in done.stderr


FAIL_AFTER_THE_OTHER = r"""
echo out $RANK
[ $RANK = 1 ] || { touch said; exec sleep 1000; }
until [ -e said ]; do sleep 0.02; done
printf '\377' >&2
exit 4
"""


def test_json_gives_only_json_lines_and_the_last_is_the_outcome(muster: Any) -> None:
    done = muster("run", "-g", "2", "--json", "--tee", "3", "--", "sh", "-c", FAIL_AFTER_THE_OTHER)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert ("", 4) == (done.stderr, done.returncode)
    assert ("outcome", "failed", 4) == tuple(events[-1][key] for key in ("event", "state", "code"))
    begun = next(event for event in events if event["event"] == "begin")
    assert newest(muster).name == begun["run"]
    output = [(event["rank"], event["stream"], event["text"]) for event in events if event["event"] == "output"]
    assert {(0, "out", "out 0\n"), (1, "out", "out 1\n"), (1, "err", "\udcff")} == set(output)


# ---- restarts --------------------------------------------------------------------------------------------------------

RESTART = """
import os, signal, time
import torch, torch.distributed as dist
attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
dist.init_process_group("gloo")
total = torch.tensor(1.0)
dist.all_reduce(total)
print(f"attempt {attempt} sum {total.item():g} of {os.environ['TORCHELASTIC_MAX_RESTARTS']}")
dist.barrier()  # else a rank that is still inside the sum loses it with rank 1, and prints nothing
if attempt == 0 and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dist.all_reduce(total)
print("through")
"""


def test_a_killed_rank_is_recovered_from_with_gloo(muster: Any, script: Script) -> None:
    done = muster("run", "-g", "3", "--max-restarts", "2", str(script(RESTART)))
    assert 0 == done.returncode, done.stderr
    for rank in range(3):
        assert b"attempt 0 sum 3 of 2\n" == log(muster, rank, attempt=0)
        assert b"attempt 1 sum 3 of 2\nthrough\n" == log(muster, rank, attempt=1)
    assert "rank 1 failed: killed by SIGKILL; restarting all ranks (restart 1 of 2)\n" in done.stderr
    assert "all 3 ranks succeeded" in done.stderr.splitlines()[-1]
    assert (0, 1, "succeeded") == tuple(outcome(muster)[key] for key in ("code", "attempt", "state"))


SAME = """
import os, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
if os.environ["RANK"] == "2":
    raise ValueError(f"bad label {os.getpid()}")
dist.barrier()
"""


def test_a_rank_that_fails_twice_in_the_same_way_is_not_restarted(muster: Any, script: Script) -> None:
    """The next attempt would fail, too; the values in the message may differ."""
    path = script(SAME, "same.py")
    done = muster("run", "-g", "3", "--max-restarts", "9", str(path))
    assert 1 == done.returncode
    said = "not restarted: rank 2 failed in the same way twice in the first minute: ValueError (same.py:6)"
    assert said in done.stderr, done.stderr
    assert "hint: --always-restart uses all of --max-restarts" in done.stderr
    result = outcome(muster)
    assert (1, {"rank": 2, "before": 2, "exception": "ValueError", "place": "same.py:6"}) == (
        result["attempt"],
        result["repeated"],
    )


def test_restarts_in_a_row_are_delayed(muster: Any) -> None:
    text = "[ $TORCHELASTIC_RESTART_COUNT = 3 ] || exit 7"
    words = ("--always-restart", "--restart-delay", "0.5")
    done = muster("run", "--max-restarts", "3", *words, "--", "sh", "-c", text)
    assert 0 == done.returncode, done.stderr
    told = [line.partition("; ")[2] for line in done.stderr.splitlines() if "restarting" in line]
    assert [
        "restarting all ranks (restart 1 of 3)",
        "restarting all ranks in 0.5s (restart 2 of 3)",
        "restarting all ranks in 1s (restart 3 of 3)",
    ] == told
    assert outcome(muster)["duration"] >= 1.5


def test_ctrl_c_during_the_delay_ends_the_run(muster: Any) -> None:
    words = ("--always-restart", "--restart-delay", "1h")
    with RunProcesses(muster, "run", "--max-restarts", "3", *words, "--", "sh", "-c", "exit 7") as run:
        until(lambda: any(event["delay"] for event in run.events("do restarting")), "the restart is delayed")
        run.process.send_signal(2)
        assert 130 == run.end()[0]
        assert 2 == run.outcome()["attempt"]


def test_after_the_last_restart_the_status_is_that_of_the_last_attempt(muster: Any) -> None:
    text = "echo $TORCHELASTIC_RESTART_COUNT; exit $((5 + TORCHELASTIC_RESTART_COUNT))"
    done = muster("run", "--max-restarts", "2", "--restart-delay", "0", "--", "sh", "-c", text)
    assert 7 == done.returncode
    assert [b"0\n", b"1\n", b"2\n"] == [log(muster, 0, attempt=attempt) for attempt in range(3)]
    assert re.search(r"rank 0 failed, .* after the start \(after 2 restarts\)", done.stderr)
    assert 2 == outcome(muster)["attempt"]


def test_an_interrupted_run_is_not_started_again(muster: Any) -> None:
    with RunProcesses(muster, "run", "--max-restarts", "3", "--", "sh", "-c", "echo ready; exec sleep 1000") as run:
        run.wrote("ready")
        run.process.send_signal(2)
        assert 130 == run.end()[0]
        assert 0 == run.outcome()["attempt"]


# ---- command lines of torchrun ---------------------------------------------------------------------------------------


def test_a_line_of_torchrun_works(muster: Any, script: Script) -> None:
    line = (
        "--nproc_per_node=2 --nnodes=1:1 --node_rank 0 --standalone --max_restarts=0 --tee 3 -r 3 --rdzv-backend c10d"
    )
    done = muster("run", *line.split(), "--rdzv_endpoint=localhost:0", "--log_dir", "logs", str(script(TELL)), "--lr=1")
    assert 0 == done.returncode, done.stderr
    assert (["--lr=1"], ["--lr=1"]) == (told(muster, 0)["argv"], told(muster, 1)["argv"])
    assert "2" == told(muster)["env"]["WORLD_SIZE"]
    assert (
        "muster: warning: --tee has no effect: the output of each rank is always both written to files and shown"
        in done.stderr.splitlines()
    )
    assert sum("has no effect" in line for line in done.stderr.splitlines()) == 5
    quiet = muster("run", "-q", "--tee", "3", "--", "true")
    assert (0, "", "") == (quiet.returncode, quiet.stdout, quiet.stderr)


def test_the_variables_of_torchrun_count_below_what_is_typed(muster: Any, env: dict[str, str]) -> None:
    env["PET_NPROC_PER_NODE"], env["PET_MAX_RESTARTS"] = "2", "1"
    done = muster("run", "--", "sh", "-c", "echo $WORLD_SIZE $TORCHELASTIC_MAX_RESTARTS")
    assert {"[0] 2 1", "[1] 2 1"} == set(done.stdout.splitlines())
    assert "[0] 1 1\n" == muster("run", "-g1", "--", "sh", "-c", "echo $WORLD_SIZE $TORCHELASTIC_MAX_RESTARTS").stdout


def test_the_zone_of_a_terminal_changes_neither_the_order_of_runs_nor_their_times(muster: Any) -> None:
    for zone in ("Asia/Tokyo", "America/New_York", "UTC"):
        muster.env["TZ"] = zone
        assert 0 == muster("run", "--name", zone.replace("/", "-"), "--", "true").returncode
    assert ["UTC", "America-New_York", "Asia-Tokyo"] == [
        run["name"] for run in json.loads(muster("ps", "--json").stdout)
    ]
    assert "UTC" in muster("show", "last").stdout
    muster.env["TZ"] = "America/New_York"
    (newest, *_) = json.loads(muster("ps", "--json").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d-0[45]:00", newest["started"])
    assert newest["time"] == datetime.fromisoformat(newest["started"]).timestamp() + newest["time"] % 1
    assert newest["started"][:19].replace("T", " ") in muster("ps").stdout
