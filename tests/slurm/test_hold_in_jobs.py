"""Sessions in jobs of the lab's Slurm: `muster hold --slurm`, runs on it, and how it ends."""

from __future__ import annotations

import json
from typing import Any

from job_queue import queue
from lab_cluster import LabCluster
from waiting import until

TRAIN = """
import os, socket
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_JOB_NUM_NODES", "TOLD")
values = [os.environ.get(name) for name in names]
print(socket.gethostname(), total.item(), *values, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
dist.destroy_process_group()
"""

WHERE = "import os, socket; print(socket.gethostname(), os.environ['RANK'])"

WAITS = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("saving", flush=True))
print("up", flush=True)
while True:
    time.sleep(1)
"""


def listed(there: LabCluster) -> dict[str, dict[str, Any]]:
    """Return what `muster ps` lists, by name, which is empty for a run on a session."""
    found = json.loads(there.muster("ps", "--json").stdout)
    return {run["name"]: run for run in found}


def test_runs_on_a_held_job(there: LabCluster) -> None:
    words = ("-N", "2", "-g", "2", "--gpus-per-node", "2", "--time", "10", "--name", "dev")
    held = there.muster("hold", "--slurm", *words)
    assert 0 == held.returncode, held.stderr
    assert "holding 4 ranks on n[1-2]" in held.stderr
    job = listed(there)["dev"]
    assert "held" == job["state"] and job["job_id"]
    script = there.script(TRAIN)
    for told in ("first", "second"):
        done = there.muster("run", "--on", "dev", "--env", f"TOLD={told}", script)
        assert 0 == done.returncode, done.stderr
        lines = sorted(line.partition(" ")[2] for line in done.stdout.splitlines() if " 4.0 " in line)
        assert [f"n{rank // 2 + 1} 4.0 {rank} {rank % 2} {rank // 2} 4 2 {told} 0,1" for rank in range(4)] == lines
        assert "preloaded interpreter" not in done.stderr
    assert job["job_id"] == listed(there)[""]["job_id"]
    for launcher in (["srun"], ["srun", "-N", "1"], ["mpirun"]):
        done = there.muster(
            "run", "--on", "dev", "--launcher", *launcher, "--prefix", "", there.script(WHERE, "where.py")
        )
        assert 0 == done.returncode, done.stderr
        assert ["n1 0", "n1 1", "n2 2", "n2 3"][: 2 if "-N" in launcher else 4] == sorted(done.stdout.splitlines())
    shell = there.muster("shell", "dev", "-w", "n2", input="hostname; echo $SLURM_JOB_ID\n")
    assert ["n2", job["job_id"]] == shell.stdout.split(), shell.stderr
    released = there.muster("release", "dev")
    assert 0 == released.returncode, released.stderr
    assert {"succeeded"} == {run["state"] for run in listed(there).values()}
    until(lambda: not queue(there), "the job has ended")
    ended = there.lab.run("head", ["scontrol", "show", "job", job["job_id"]]).stdout
    assert "JobState=COMPLETED" in ended
    there.nothing_left()


def test_the_end_of_its_job_ends_a_session_and_its_run(there: LabCluster) -> None:
    """While it is pending a run waits; ranks are warned of the time limit; scancel ends both, with the reason."""
    first = there.muster("hold", "--slurm", "-d", "-N", "3", "--exclusive", "--name", "first")
    assert 0 == first.returncode, first.stderr
    held = there.muster(
        *("hold", "--slurm", "-d", "-N", "1", "--exclusive", "-g", "1", "--time", "2", "--signal-before", "110"),
        *("--name", "dev"),
    )
    assert 0 == held.returncode, held.stderr
    there.start("run", "--on", "dev", there.script(WAITS))
    until(lambda: "is pending" in there.said(), "it tells that the session is pending")
    assert "dev: job " in there.said() and "; waiting" in there.said()
    assert "pending" == listed(there)["dev"]["state"]
    third = there.muster("hold", "--slurm", "-d", "-N", "3", "--exclusive", "--name", "third")
    assert 0 == third.returncode, third.stderr
    left = there.muster("release", "third")
    assert 0 == left.returncode and "released" in left.stdout, left.stderr
    assert "pending" != listed(there)["third"]["state"]
    released = there.muster("release", "first")
    assert 0 == released.returncode, released.stderr
    until(lambda: "saving" in there.said(), "the rank is warned of the time limit")
    assert "before the time limit: sending SIGUSR1 to ranks that handle it" in there.said()
    there.lab.run("head", ["scancel", listed(there)["dev"]["job_id"]])
    there.started[-1].wait(120)
    assert "the job was cancelled" in there.said()
    until(lambda: not queue(there), "the job has ended")
    states = {run["id"]: (run["state"], run["code"]) for run in json.loads(there.muster("ps", "--json").stdout)}
    assert [("killed", 137)] * 2 + [("succeeded", 0)] * 2 == sorted(states.values())
    assert "the job was cancelled" in there.muster("show", "dev").stdout
    there.nothing_left()


def test_a_node_that_is_lost_is_named(there: LabCluster) -> None:
    held = there.muster("hold", "--slurm", "-N", "2", "-g", "1", "--name", "dev")
    assert 0 == held.returncode, held.stderr
    run = there.muster("run", "--on", "dev", "-d", there.script(WAITS))
    assert 0 == run.returncode, run.stderr
    until(lambda: "up" in there.muster("logs", run.stdout.strip()).stdout, "the run has begun")
    there.kill("n2", "muster.pyz step")
    until(lambda: "held" not in there.muster("ps").stdout, "the session has ended")
    assert "lost n2" in there.muster("show", "dev").stdout
    assert "lost n2" in there.muster("show", run.stdout.strip()).stdout
    until(lambda: not queue(there), "the job has ended")
    until(lambda: not there.ours(), "all processes have ended")
    assert "n1" not in there.temporary(), "where the agent was not killed, everything is removed"
