"""A run seen from another terminal, while it runs and afterwards."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RUN_ID, RunProcesses, newest
from waiting import until

Script = Callable[..., Path]

HOLD = ("--", "sh", "-c", "echo ready; until [ -e go ]; do sleep 0.02; done; exit 5")

DEEP = """
import os, threading, time
import torch, torch.distributed as dist

def blocked_in_a_collective():
    dist.barrier()

def busy_outside():
    while not os.path.exists("go"):
        time.sleep(0.02)
    dist.barrier()

def waiting_for_a_lock():
    threading.Thread(target=in_a_thread, daemon=True).start()
    with open("locked", "w"):
        busy_outside()

def in_a_thread():
    time.sleep(1000)

dist.init_process_group("gloo")
dist.barrier()
print("ready", flush=True)
[blocked_in_a_collective, busy_outside, waiting_for_a_lock][dist.get_rank()]()
print("went on")
"""


def test_stacks_tells_the_function_of_each_rank_and_the_ranks_go_on(
    muster: Any, script: Script, tmp_path: Path
) -> None:
    with RunProcesses(muster, "run", "-g", "3", str(script(DEEP, "deep.py"))) as run:
        run.wrote("ready", range(3))
        until((tmp_path / "locked").exists, "rank 2 waits")
        until(lambda: "blocked_in_a_collective" in _stacks(muster)[0], "rank 0 is in the barrier")
        for _ in range(2):  # repeated: reported messages are not reported twice
            found = _stacks(muster)
            assert [0, 1, 2] == sorted(found)
            assert "in barrier" in found[0] and "in busy_outside" not in found[0]
            assert 1 == found[1].count("in busy_outside") and "in blocked_in_a_collective" not in found[1]
            assert "in in_a_thread" in found[2] and "in waiting_for_a_lock" in found[2]
            assert 'deep.py", line' in found[1]
        assert [1] == sorted(_stacks(muster, "last", "--rank", "1"))
        (tmp_path / "go").touch()
        status, out, _ = run.end()
        assert 0 == status
        assert {f"[{rank}] went on" for rank in range(3)} <= set(out.splitlines())
    late = muster("stacks", "last")
    assert (2, True) == (late.returncode, "has no running ranks" in late.stderr)


def _stacks(muster: Any, *words: str) -> dict[int, str]:
    """Return what `muster stacks` reports, by rank."""
    done = muster("stacks", *words)
    assert 0 == done.returncode, done.stderr
    pieces = re.split(r"^rank (\d+)(?: \(.*\))?: ?", done.stdout, flags=re.M)
    return {int(rank): text for rank, text in zip(pieces[1::2], pieces[2::2])}


def test_stacks_tells_of_ranks_that_cannot_answer(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", *HOLD) as run:
        run.wrote("ready", range(2))
        done = muster("stacks")
        assert 0 == done.returncode
        for rank, pid in run.ranks().items():
            assert f"rank {rank} (pid {pid}) is not a Python process that muster prepared" in done.stdout
        (tmp_path / "go").touch()
        assert 5 == run.end()[0]


def test_stacks_tells_of_a_stopped_rank_that_it_does_not_answer(muster: Any, script: Script) -> None:
    path = str(script("import time; print('ready', flush=True); time.sleep(1000)"))
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "exec", path) as run:
        run.wrote("ready", range(2))
        stopped = run.ranks()[1]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: "T" == Path(f"/proc/{stopped}/stat").read_text().rpartition(")")[2].split()[0], "it is stopped")
        found = _stacks(muster)
        os.kill(stopped, signal.SIGCONT)
        assert f"no stack: stopped by a signal (SIGSTOP) (pid {stopped})" == found[1].strip()
        assert "script.py" in found[0]
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]


def test_ps_show_and_wait_tell_of_a_run_while_it_runs_and_after(muster: Any, script: Script, tmp_path: Path) -> None:
    assert f"no runs in {muster.home}\n" == muster("ps").stdout
    with RunProcesses(muster, "run", "-g", "2", "--name", "mine", *HOLD) as run:
        run.wrote("ready", range(2))
        (row,) = muster("ps").stdout.splitlines()[1:]
        assert [run.id, "mine", "2", "running"] == row.split()[:4]
        assert row.endswith("  exec      sh -c 'echo ready; until [ -e go ]; do sleep 0.02; done; exit 5'")
        (record,) = json.loads(muster("ps", "--json").stdout)
        assert ("running", None, "mine") == (record["state"], record["code"], record["name"])
        assert ("exec", ["sh", "-c"], str(tmp_path)) == (record["launcher"], record["program"][:2], record["cwd"])
        early = muster("wait", "mine", "--timeout", "0.1")
        assert (124, f"{run.id} is running\n") == (early.returncode, early.stderr)
        assert "state    running" in muster("show", "mine").stdout.splitlines()
        waiter = muster.start("wait", run.id)
        (tmp_path / "go").touch()
        assert 5 == run.end()[0]
        told, _ = waiter.communicate(timeout=120)
        assert (5, True) == (waiter.returncode, "failed first" in told)
    assert 5 == muster("wait", "mine", "--timeout", "0").returncode
    (row,) = muster("ps").stdout.splitlines()[1:]
    assert [run.id, "mine", "2", "failed", "5"] == row.split()[:5]
    shown = json.loads(muster("show", "--json").stdout)
    assert ("failed", 5, 2) == (shown["state"], shown["code"], len(shown["outcome"]["exits"]))


def test_show_tells_what_ranks_use(muster: Any, script: Script) -> None:
    text = "import os, subprocess, torch\n"
    text += "while os.environ['RANK'] == '0': pass\n"
    text += "subprocess.run(['sleep', '1000'])"
    with RunProcesses(muster, "run", "-g", "2", str(script(text))) as run:
        pids = run.ranks()

        def now() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(muster("show", "--json").stdout)["now"]["ranks"]
            return found

        busy, idle = until(lambda: (ranks := now())[0]["cpu"] > 10 and ranks[1]["children"] and ranks, "they are at it")
        assert (pids[0], 0, pids[1], 1) == (busy["pid"], busy["children"], idle["pid"], idle["children"])
        assert idle["peak"] >= idle["memory"]
        assert busy["cpu"] > idle["cpu"] and idle["memory"] > 20 << 20 > idle["children_memory"] > 0
        lines = muster("show").stdout.splitlines()
        assert "launcher fork, 2 ranks" in lines
        assert any(re.fullmatch(r"python   /.*python\S* \(Python 3\.\d+\.\d+, torch 2\.\S+\)", line) for line in lines)
        row = next(line for line in lines if line.startswith("1  "))
        assert re.fullmatch(
            rf"1 +{os.uname().nodename} +{pids[1]} +[\d.]+ [MG]iB +[\d.]+ [MG]iB +\d+% +1, [\d.]+ MiB", row
        )
        os.kill(run.agent(), signal.SIGSTOP)  # it does not answer, and is not waited for
        stopped = muster("show")
        os.kill(run.agent(), signal.SIGCONT)
        assert (0, True) == (stopped.returncode, "\nunknown: no answer from the agent of " in stopped.stdout)
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]
    ended = muster("show").stdout
    assert "  PID  " not in ended and "PEAK RSS" in ended, "what they used, and no longer what they use"


def test_show_tells_the_start_by_phase(muster: Any, script: Script) -> None:
    muster("run", "-g", "2", "--cwd", "/", str(script("print('out')")), "--lr", "a b")
    lines = muster("show").stdout.splitlines()
    assert f"command  muster run -g 2 --cwd / {script('')} --lr 'a b'" in lines
    assert any(line.startswith("cwd      / on ") for line in lines)
    spans = {words: float(length) for line in lines for length, words in re.findall(r"^ +([\d.]+)  (.*)", line)}
    phases = [
        "start muster",
        "look at the Python of the ranks",
        "start Python",
        "import torch and --preload modules",
        "after the imports, before the first rank",
        "start the ranks",
        "until the first rank printed something",
        "until all ranks had printed something",
        "total",
    ]
    assert phases == list(spans)
    *each, whole = spans.values()
    assert sum(each) == pytest.approx(whole, abs=0.01)


def test_a_run_is_found_by_id_name_beginning_and_last(muster: Any) -> None:
    for word in ("one", "two"):
        muster("run", "--name", word, "--", "echo", word)
    first, second = sorted((muster.home / "runs").iterdir(), key=lambda path: _job(path)["time"])

    def found(which: str) -> str:
        done = muster("show", which)
        return done.stdout.split()[1] if done.returncode == 0 else done.stderr

    assert first.name == found(first.name) == found("one")
    assert second.name == found("two") == found("last")
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first.name, second.name))
    common = "".join(letter for letter, _ in pairs)
    unique = second.name[: len(common) + 1]
    assert second.name == found(unique)
    both = muster("show", common)
    assert 2 == both.returncode
    assert re.fullmatch(
        rf"error: `{common}` is ambiguous: it matches 2 runs: {RUN_ID}, {RUN_ID}\nhint: use the id of one of them\n",
        both.stderr,
    )
    none = muster("logs", "nothing")
    assert 2 == none.returncode
    assert none.stderr.startswith("error: run not found: `nothing`\nhint: newest runs: ")
    muster("run", "--name", "one", "--", "true")
    assert newest(muster).name == found("one")


def _job(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "job.json").read_text())
    return found


def test_of_several_runs_of_a_name_the_living_one_is_meant(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "--name", "twin", *HOLD) as run:
        run.wrote("ready")
        again = muster("run", "--name", "twin", "--", "true")
        assert (0, True) == (again.returncode, f"{run.id} has the same name, twin, and has not ended" in again.stderr)
        assert f"{run.id} " in muster("show", "twin").stdout
        (tmp_path / "go").touch()
        run.end()
    assert f"{muster.newest().name} " in muster("show", "twin").stdout
    assert "same name" not in muster("run", "--name", "twin", "--", "true").stderr


def test_prune_asks_on_a_terminal(muster: Any) -> None:
    muster("run", "--", "true")
    for answer, left in (("n", 1), ("y", 0)):
        ours, theirs = os.openpty()
        words = muster.argv("prune", "--keep", "0")
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, env=muster.env, cwd=muster.cwd)
        os.close(theirs)
        os.write(ours, answer.encode() + b"\n")
        assert 1 - (answer == "y") == process.wait(timeout=120)
        os.close(ours)
        assert left == len(list((muster.home / "runs").iterdir()))


def test_homes_are_found_and_paths_are_absolute(muster: Any, tmp_path: Path) -> None:
    """A relative MUSTER_HOME, also for ranks of plain Python and for `-d`; `~`; and no HOME."""
    (tmp_path / "script.py").write_text("print('ran')")
    env = {**muster.env, "MUSTER_HOME": "relative", "HOME": str(tmp_path)}
    done = muster("run", "--launcher", "exec", "script.py", env=env)
    assert (0, True) == (done.returncode, "ran" in done.stdout), done.stderr
    detached = muster("run", "-q", "-d", "--name", "away", "script.py", env=env)
    assert (0, "") == (detached.returncode, detached.stderr)
    assert re.fullmatch(RUN_ID + "\n", detached.stdout), "its id, for scripts"
    assert 0 == muster("wait", "away", env=env).returncode
    env["MUSTER_HOME"] = "~/relative"
    assert "away" in muster("ps", env=env).stdout
    assert not (tmp_path / "~").exists()
    (tmp_path / "muster.toml").write_text('[run]\nrun_dir = "~/tilde"\n')
    assert 0 == muster("run", "--", "true", env=env).returncode
    assert 1 == len(list((tmp_path / "tilde" / "runs").iterdir()))
    (tmp_path / "muster.toml").unlink()
    bare = {name: value for name, value in muster.env.items() if name not in ("HOME", "MUSTER_HOME")}
    planned = muster("plan", "script.py", env=bare)
    assert f"{pwd.getpwuid(os.getuid()).pw_dir}/.muster/runs" in planned.stdout


def test_old_runs_are_deleted_at_the_start_of_a_new_one_where_that_is_wanted(muster: Any, tmp_path: Path) -> None:
    runs = muster.home / "runs"

    def names() -> list[str]:
        return [json.loads((path / "job.json").read_text())["name"] for path in sorted(runs.iterdir())]

    with RunProcesses(muster, "run", "--name", "live", *HOLD) as run:
        run.wrote("ready")
        for name in ("a", "b"):
            muster("run", "--name", name, "--", "true")
        first = sorted(runs.iterdir())[1].name
        done = muster("run", "--name", "c", "--keep-runs", "2", "--", "true")
        assert ["live", "b", "c"] == names(), "the oldest one lives"
        assert re.search(
            rf"^muster: deleted 1 old run \(\d+ KiB; --keep-runs, --keep-size\): {first}$", done.stderr, re.M
        ), done.stderr
        lost = sorted(runs.iterdir())[1]
        (lost / "outcome.json").unlink()  # as for a run that another terminal is just starting
        (tmp_path / "muster.toml").write_text('[run]\nkeep_size = "1K"\n')
        done = muster("run", "-q", "--name", "d", "--", "true")
        assert (["live", "b", "d"], "") == (names(), done.stderr)
        (tmp_path / "go").touch()
        run.end()


def test_rm_and_prune_delete_what_has_ended_and_refuse_what_runs(muster: Any, tmp_path: Path) -> None:
    muster("run", "--name", "old", "--", "true")
    with RunProcesses(muster, "run", "--name", "live", *HOLD) as run:
        run.wrote("ready")
        refused = muster("rm", "old", "live")
        assert 2 == refused.returncode
        assert (
            f"error: cannot delete {run.id}: it is running\nhint: terminate it with `muster kill {run.id}`\n"
            == refused.stderr
        )
        assert 2 == len(list((muster.home / "runs").iterdir()))
        assert "deleted 0 runs\n" == muster("prune", "--older-than", "1h").stdout  # nothing to ask about
        listed = muster("prune", "--older-than", "0", "--dry-run").stdout.splitlines()
        assert (["old", "would delete 1 run"], 2) == ([listed[0].split()[1], listed[1]], len(listed))
        assert "deleted 0 runs\n" == muster("prune", "--keep", "2").stdout
        unsaid = muster("prune", "--older-than", "30")
        assert (2, True) == (unsaid.returncode, "a duration with a unit, such as `30d`" in unsaid.stderr)
        assert 2 == len(list((muster.home / "runs").iterdir()))
        unasked = muster("prune", "--older-than", "0")  # no answer does not mean yes
        assert (2, listed[:1]) == (unasked.returncode, unasked.stdout.splitlines())
        assert (
            "error: cannot ask for confirmation to delete 1 run: no terminal\n"
            "hint: use --yes, or list the runs with --dry-run\n"
        ) == unasked.stderr
        assert 2 == len(list((muster.home / "runs").iterdir()))
        assert ["deleted 1 run"] == muster("prune", "--older-than", "0", "--yes").stdout.splitlines()[1:]
        assert [run.path] == list((muster.home / "runs").iterdir())
        (tmp_path / "go").touch()
        run.end()
    deleted = muster("rm", "live")
    assert (0, f"deleted {run.id}\n") == (deleted.returncode, deleted.stdout)
    assert [] == list((muster.home / "runs").iterdir())
    assert 2 == muster("rm").returncode
    assert 2 == muster("prune").returncode


@pytest.mark.parametrize("ended", [False, True], ids=["not ended", "ended"])
def test_after_a_restart_of_the_machine_and_from_another_one_no_run_is_running(muster: Any, ended: bool) -> None:
    muster("run", "--", "sh", "-c", "exit 5")
    path = newest(muster)
    if not ended:
        (path / "outcome.json").unlink()
    job = _job(path)
    for change, state, why in (
        ({"boot": "another"}, "lost", "the machine rebooted during the run"),
        ({"host": "elsewhere"}, "unknown", "it was started on elsewhere; run this command there"),
    ):
        # its own pid, reused by another process
        mine = {"pid": os.getpid(), "pid_started": Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]}
        (path / "job.json").write_text(json.dumps({**job, **mine, **change}))
        (record,) = json.loads(muster("ps", "--json").stdout)
        shown = muster("show").stdout.splitlines()
        waited = muster("wait")
        if ended:
            assert ("failed", 5) == (record["state"], waited.returncode)
            continue
        assert (state, why) == (record["state"], record["why"])
        assert f"state    {state}: {why}" in shown
        killed = muster("kill", path.name)
        if state == "lost":
            assert (125, f"{path.name} is {state}: {why}\n") == (waited.returncode, waited.stderr)
            assert (0, f"{path.name} has already ended (lost: {why})\n") == (killed.returncode, killed.stdout)
        else:
            said = f"error: the state of {path.name} is unknown: {why}"
            for done in (waited, killed, muster("stacks"), muster("rm", path.name)):
                assert (3, "", said) == (done.returncode, done.stdout, done.stderr.splitlines()[0])
            assert f"{path.name}: no answer: {why}" == muster("ps").stdout.splitlines()[-1]
    if not ended:
        assert "deleted 0 runs\n" == muster("prune", "--older-than", "0").stdout
