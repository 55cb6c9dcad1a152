"""Jobs that Slurm ends early: preemption, time limit, requeue, a node that crashes."""

from __future__ import annotations

import json
import os
import re
import signal
from datetime import datetime

import pytest
from job_queue import queue
from lab_cluster import STEPS_UNTIL_GO, TICK, LabCluster
from waiting import until

TRAINING = """
import json, os, signal, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank, path = dist.get_rank(), sys.argv[1]
torch.manual_seed(0)
model = torch.nn.Linear(8, 1, dtype=torch.float64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
step, asked = 0, []
if os.path.exists(path):
    state = torch.load(path)
    model.load_state_dict(state["model"]), optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
while step < 300:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    batch = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    loss = (model(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    step += 1
    print("step", step, flush=True)
    save = torch.tensor(float(len(asked)))
    dist.all_reduce(save)
    if save:
        if rank == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, path + ".part")
            os.replace(path + ".part", path)
        dist.barrier()
        sys.exit(9)
    time.sleep(0.02)
if rank == 0:
    print("parameters", json.dumps([parameter.tolist() for parameter in model.parameters()]))
"""


@pytest.mark.slow
def test_a_training_that_is_preempted_twice_ends_like_one_that_is_not(there: LabCluster) -> None:
    script = there.script(TRAINING, "train.py")
    elsewhere = {"MUSTER_HOME": str(there.folder / "elsewhere")}
    plain = there.muster("run", "-g", "2", "--prefix", "", script, str(there.folder / "plain"), env=elsewhere)
    assert 0 == plain.returncode, plain.stderr
    expected = plain.stdout.splitlines()[-1]
    assert expected.startswith("parameters")
    told = there.folder / "told"
    line = ["-N", "2", "-g", "1", "--prefix", "", "--requeue", "5", "--on-end", f"echo $MUSTER_STATUS >>{told}"]
    line += [script, str(there.folder / "state")]
    process = there.start("run", "--slurm", *line)
    for attempt in range(2):
        until(
            lambda a=attempt: there.log(0, attempt=a).count("step") > 20 if has_begun(there, a) else False, "it trains"
        )
        made_room = there.lab.run("head", ["srun", "-purgent", "-N3", "--exclusive", "true"], timeout=240)
        assert 0 == made_room.returncode, made_room.stderr
    assert 0 == process.wait(timeout=120), there.said()
    assert expected in there.said().splitlines()
    assert 3 == len(list(there.run.glob("attempt_*")))
    until(lambda: told.exists() and told.read_text() == "succeeded\n", "the end is told, once")
    there.nothing_left()


def has_begun(there: LabCluster, attempt: int) -> bool:
    return (
        any((there.home / "runs").glob("*/job.json")) and (there.run / f"attempt_{attempt}" / "rank_00000.out").exists()
    )


SAVES = """
import os, signal, sys, time
saved = "saved by an earlier attempt"
def save(*_):
    open(sys.argv[1], "w").write(saved)
    print("saving", flush=True)
    sys.exit(9)
if os.path.exists(sys.argv[1]):
    print(open(sys.argv[1]).read())
    sys.exit(0)
if os.environ["RANK"] == "0":
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.02)
    signal.signal(signal.SIGUSR1, save)
print("working", flush=True)
time.sleep(600)
"""
"""FILE GO: rank 0 saves on SIGUSR1, once there is GO; the others do not. A start that finds a saved file succeeds."""


@pytest.mark.slow
def test_before_the_time_limit_a_rank_that_handles_the_warning_can_save(there: LabCluster) -> None:
    """A job of one minute is warned soon: Slurm checks its clock every half minute. A rank that is still importing is
    warned as soon as it has a handler."""
    line = ["--time", "1", "--signal-before", "40", "--requeue", "1", "-N", "2", "-g", "1"]
    go = there.folder / "go"
    process = there.start("run", "--slurm", *line, there.script(SAVES), str(there.folder / "state"), str(go))
    warning = r"([123]?[0-9]|40)s left before the time limit: sending SIGUSR1 to ranks that handle it"
    until(lambda: re.search(warning, there.said()), "it is warned")
    go.touch()
    assert 0 == process.wait(timeout=180), there.said()
    assert "[0] saving" in there.said()
    assert "[0] saved by an earlier attempt" in there.said()
    assert "[1] saved by an earlier attempt" in there.said()
    assert 1 == there.said().count("[0] working")
    ends = [line for line in (there.run / "events.jsonl").read_text().splitlines() if '"ended"' in line]
    assert not [line for line in ends if '"rank": 1' in line and '"signal": 10' in line]


@pytest.mark.slow
def test_preempted_with_time_to_save(there: LabCluster) -> None:
    """In a partition with a grace time only the steps are signalled first, and not the batch script."""
    line = ["--partition", "spare", "--requeue", "1", "-N", "2", "-g", "1"]
    process = there.start("run", "--slurm", *line, there.script(SAVES), str(there.folder / "state"), "/")
    until(lambda: has_begun(there, 0) and "working" in there.log(0), "it works")
    made_room = there.lab.run("head", ["srun", "-purgent", "-N3", "--exclusive", "true"], timeout=240)
    assert 0 == made_room.returncode, made_room.stderr
    assert 0 == process.wait(timeout=120), there.said()
    assert "[0] saving" in there.said()
    assert "[0] saved by an earlier attempt" in there.said()
    there.nothing_left()


AGAIN = """
import os, sys, time
attempt = int(os.environ["SLURM_RESTART_COUNT"] if "SLURM_RESTART_COUNT" in os.environ else 0)
print("attempt", attempt, "begins", flush=True)
while not attempt or not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print("attempt", attempt, "ends", flush=True)
"""
"""GO: the first start waits until it is terminated, the second one succeeds once there is GO."""


@pytest.mark.slow
def test_output_of_an_attempt_that_ended_before_anyone_could_watch_is_shown(there: LabCluster) -> None:
    """As on a machine that is too busy for the terminal to connect in time."""
    go = there.folder / "go"
    process = there.start("run", "--slurm", "--requeue", "1", "-g", "1", there.script(AGAIN), str(go))
    until(lambda: "submitted to Slurm" in there.said(), "it is submitted")
    os.kill(there.lab.inside(process), signal.SIGSTOP)
    until(lambda: has_begun(there, 0) and "begins" in there.log(0), "it works")
    number = there.lab.run("head", ["squeue", "--noheader", "--format=%i"]).stdout.strip()
    assert 0 == there.lab.run("head", ["scontrol", "requeue", number]).returncode

    def begins_again() -> bool:
        there.lab.run("head", ["scontrol", "update", f"JobId={number}", "StartTime=now"])  # as the terminal would do
        return has_begun(there, 1) and "begins" in there.log(0, attempt=1)

    until(begins_again, "the second attempt works", 150)
    assert "begins" not in there.said()
    process.send_signal(signal.SIGCONT)  # nsenter has stopped with it, and continues it
    until(lambda: "attempt 1 begins" in there.said(), "the terminal shows the second attempt")
    go.touch()
    assert 0 == process.wait(timeout=120), there.said()
    shown = [line for line in there.said().splitlines() if line.startswith("[0]")]
    assert ["[0] attempt 0 begins", "[0] attempt 1 begins", "[0] attempt 1 ends"] == shown


def test_what_is_put_back_by_hand_comes_again(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "--requeue", "3", "-N", "2", "-g", "1", there.script(STEPS_UNTIL_GO))
    there.steps(2, 3)
    number = there.lab.run("head", ["squeue", "--noheader", "--format=%i"]).stdout.strip()
    assert 0 == there.lab.run("head", ["scontrol", "requeue", number]).returncode
    until(lambda: (there.run / "outcome.json").exists(), "the first attempt has ended")
    listed = there.muster("ps").stdout
    assert "running" in listed or "pending" in listed, "that was no end"
    assert 2 == there.muster("rm", "last").returncode
    (there.folder / "go").touch()
    assert 0 == there.muster("wait", "last").returncode
    assert 0 == process.wait(timeout=120), there.said()
    last = there.log(0, attempt=1).splitlines()[-1]
    assert last.startswith("step ")
    assert there.said().splitlines().count(f"[0] {last}") == 1 + there.log(0).splitlines().count(last)
    there.nothing_left()


@pytest.mark.slow
def test_a_node_that_crashes_is_left_out_of_the_next_attempt(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "--requeue", "3", "-N", "2", "-g", "1", there.script(TICK), "60", "0.1")
    there.steps(2, 3)
    there.lab.fault("crash", "n2")
    assert 0 == process.wait(timeout=180), there.said()
    assert "lost n2: " in there.said()
    assert "step 59" in there.log(0, attempt=there.last_attempt)


def test_without_restarts_a_crash_is_the_end(there: LabCluster) -> None:
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(2, 3)
    there.lab.fault("crash", "n2")
    assert 125 == process.wait(timeout=120), there.said()
    assert "lost n2: " in there.said()
    until(lambda: "RUNNING" not in queue(there), "the job is over")
    # muster ended it, and its nodes were not held until Slurm noticed the crash
    assert "JobState=NODE_FAIL" not in there.lab.run("head", ["scontrol", "show", "job"]).stdout


def test_an_agent_killed_before_it_has_connected_is_reported_at_once(there: LabCluster) -> None:
    """srun continues for the others, and would be waited for."""
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "1000", "0.05")
    there.kill("n2", r"muster\.pyz step")
    until(lambda: process.poll() is not None, "the run has ended", 150)
    assert 125 == process.returncode, there.said()
    assert "n2" in there.said()
    there.nothing_left()


LISTENS = """
import os, signal, sys, time
names = sys.argv[2:]
def heard(number, _):
    print("heard", number, flush=True)
for name in names:
    signal.signal(getattr(signal, name), heard)
print("listens", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""
"""FILE SIGNALS…: report each signal received, until there is FILE."""


@pytest.mark.parametrize("launcher", ["fork", "srun"])
def test_what_slurm_sends_goes_to_the_ranks_that_catch_it_and_ends_nothing(there: LabCluster, launcher: str) -> None:
    """`#SBATCH --signal=USR1@30`, without B:, and scancel send it to all tasks: to muster's agents."""
    go = there.folder / "go"
    caught = ["SIGUSR1", "SIGHUP", "SIGRTMIN"]
    line = ["-N", "2", "-g", "1", "--launcher", launcher, there.script(LISTENS), str(go), *caught]
    process = there.start("run", "--slurm", *line)
    until(lambda: 2 == there.said().count("listens"), "the ranks listen")
    (number,) = there.lab.run("head", ["squeue", "--noheader", "--format=%i"]).stdout.split()
    for name in ("USR2", "ALRM", "CONT", "URG", "28", "29", "40", "HUP", "34", "USR1"):
        there.lab.run("head", ["scancel", "-s", name, number])
    there.lab.run("head", ["scancel", "-b", "-s", "USR2", number])
    for heard in (1, 34, 10):
        until(lambda n=heard: 2 == there.said().count(f"heard {n}\n"), f"both ranks have heard {heard}")
    go.touch()
    assert 0 == process.wait(timeout=120), there.said()
    assert "broke" not in there.said()


SESSION = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("saving", flush=True))
print("up", flush=True)
while True:
    time.sleep(1)
"""


@pytest.mark.slow
def test_jobs_that_reach_their_time_limit(there: LabCluster) -> None:
    """A run and a session, both in jobs of one minute: ranks have all of it, and the result says why they ended.

    No rank is warned at once; one without a handler is left alone until Slurm ends it.
    """
    line = ["--time", "1", "-N", "2", "-g", "1", "--launcher", "exec", "--name", "whole"]
    text = LISTENS.replace("sys.argv[2:]", '["SIGUSR1"] if os.environ["RANK"] == "0" else []')
    process = there.start("run", "--slurm", *line, there.script(text), str(there.folder / "never"))
    held = there.muster("hold", "--slurm", "-N", "1", "-g", "1", "--time", "1", "--name", "dev")
    assert 0 == held.returncode, held.stderr
    run = there.start("run", "--on", "dev", there.script(SESSION, "session.py"))

    assert 124 == process.wait(timeout=240), there.said(0)
    assert re.search(r"(1[0-5]|[0-9])s left before the time limit", there.said(0)), there.said(0)
    assert 1 == there.said(0).count("heard 10")
    assert "the job reached its time limit" in there.said(0)
    (path,) = [path.parent for path in (there.home / "runs").glob("*/job.json") if '"whole"' in path.read_text()]
    number = json.loads((path / "job.json").read_text())["scheduler"]["job"]
    shown = there.lab.run("head", ["scontrol", "show", "job", number]).stdout
    (began,) = re.findall(r"StartTime=(\S+)", shown)
    # the agents saw them end, by the clock that the job's time is counted on
    ends = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    clock = json.loads((path / "controller.json").read_text())
    start = clock["began"] + clock["clock"]
    lasted = [start + end["t"] - datetime.fromisoformat(began).timestamp() for end in ends if end["event"] == "ended"]
    assert 2 == len(lasted) and min(lasted) > 57, (lasted, shown)

    assert 124 == run.wait(timeout=240), there.said(1)
    assert "saving" in there.said(1) and "the job reached its time limit" in there.said(1)
    until(lambda: not queue(there), "the jobs have ended")
    assert "the job reached its time limit" in there.muster("show", "dev").stdout
    assert {"timed out"} == {found["state"] for found in json.loads(there.muster("ps", "--json").stdout)}
    there.nothing_left()


def test_a_job_whose_submission_was_killed_before_it_was_recorded_is_found(there: LabCluster) -> None:
    """As if `muster run` was killed between sbatch and job.json: the job writes it when it starts."""
    done = there.muster("run", "-d", "--slurm", "-N", "1", "-g", "1", "--slurm-opt=--hold", "--", "echo", "here")
    assert 0 == done.returncode, done.stderr
    run = there.run
    record = run / "job.json"
    job = json.loads(record.read_text())["scheduler"]["job"]
    record.unlink()
    assert 0 == there.lab.run("head", ["scontrol", "release", job], timeout=240).returncode
    until((run / "outcome.json").exists, "the job has ended")
    assert job == json.loads(record.read_text())["scheduler"]["job"]
    shown = there.muster("show", "last")
    assert 0 == shown.returncode and "succeeded" in shown.stdout and "echo here" in shown.stdout, shown.stderr
