"""Runs on Slurm, the real one of the lab: handed in, inside an allocation, preempted, at the end of their time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from there import EXAMPLE, TICK, There
from waiting import until


@pytest.fixture(autouse=True)
def quiet(there: There) -> Iterator[None]:
    """No job of this test is left in the queue."""
    yield
    there.lab.run("head", ["scancel", "--user=root"])
    until(lambda: not queue(there), "the queue is empty")


def queue(there: There) -> list[str]:
    """The states of the jobs."""
    return there.lab.run("head", ["squeue", "--noheader", "--format=%T"]).stdout.split()


def test_a_run_is_handed_in_shown_and_its_status_given(there: There) -> None:
    done = there.muster("run", "--slurm", "-N", "3", "-g", "2", "--gpus-per-node", "2", "--time", "5", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 5 is 15, as it should be" in done.stdout
    for rank in range(6):
        assert f"rank {rank} of 6 on n{rank // 2 + 1}, local rank {rank % 2}" in done.stdout
    assert "is job " in done.stderr
    assert "all 6 ranks ended well" in done.stderr
    there.nothing_left()


def test_the_status_of_the_first_failing_rank_is_ours(there: There) -> None:
    text = "import os, sys, time\ntime.sleep(int(os.environ['RANK']))\nsys.exit(7 if os.environ['RANK'] == '1' else 0)"
    done = there.muster("run", "--slurm", "-N", "2", "-g", "1", "--launcher", "exec", there.script(text))
    assert 7 == done.returncode, done.stderr
    assert "rank 1 failed first" in done.stderr


def test_inside_an_allocation_that_was_made_for_something_else(there: There) -> None:
    """`--ntasks-per-node=2 --gpus-per-task=1` makes of a plain srun two tasks a node that see one GPU each."""
    env = {**there.lab.environment(), **there.env}
    made_for = ["salloc", "-Q", "-N3", "--ntasks-per-node=2", "--gpus-per-task=1"]
    show = ["--", "sh", "-c", "echo $RANK $WORLD_SIZE $SLURM_PROCID$SLURM_LOCALID $CUDA_VISIBLE_DEVICES"]
    line = there.argv("run", "--slurm", "-g", "2", "--prefix", "", *show)
    done = there.lab.run("head", [*made_for, *line], env=env, cwd=str(there.folder), timeout=90)
    assert 0 == done.returncode, done.stderr
    assert 6 == len(done.stdout.splitlines())
    assert {f"{rank} 6" for rank in range(6)} == {" ".join(line.split()[:2]) for line in done.stdout.splitlines()}
    there.nothing_left()


def test_inside_a_batch_script_of_the_person(there: There) -> None:
    words = " ".join(there.argv("run", "--slurm", "-g", "1", str(EXAMPLE)))
    text = f"#!/bin/bash\n#SBATCH -N2 -n4 -o {there.folder}/out\nexport MUSTER_HOME='{there.home}'\n{words}\n"
    script = there.folder / "job.sh"
    script.write_text(text)
    done = there.lab.run("head", ["sbatch", "--wait", str(script)], cwd=str(there.folder), timeout=90)
    assert 0 == done.returncode, (there.folder / "out").read_text()
    assert "[0] the sum of 0 to 1 is 1, as it should be" in (there.folder / "out").read_text()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--partition", "nosuch"), "Slurm refused the job: Invalid partition name specified"),
        (("--time", "soon"), "Slurm refused the job: Invalid --time specification"),
        (("--gpus-per-node", "9"), "Slurm refused the job: Requested node configuration is not available"),
        (("--nodelist", "n77"), "Slurm refused the job: Invalid node name specified"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(there: There, option: tuple[str, ...], says: str) -> None:
    done = there.muster("run", "--slurm", "-g", "1", *option, str(EXAMPLE))
    assert 2 == done.returncode
    assert says in done.stderr
    assert "hint: " in done.stderr
    assert [] == list((there.home / "runs").iterdir())


def test_from_the_login_node(there: There) -> None:
    """Detached; seen, asked, attached to, ended, while it waits and while it runs."""
    whole = ["--exclusive", "-N", "3", "-g", "1", there.script(TICK), "10000", "0.05"]
    assert 0 == there.muster("run", "--slurm", "-d", "--name", "first", *whole).returncode
    assert 0 == there.muster("run", "--slurm", "-d", "--name", "second", *whole).returncode
    states = until(lambda: {line.split()[1]: line for line in there.muster("ps").stdout.splitlines()[1:]}, "two runs")
    assert "pending" in states["second"]
    assert 0 == there.muster("kill", "second").returncode
    assert 137 == there.muster("wait", "second").returncode
    assert "it was cancelled (CANCELLED)" in there.muster("show", "second").stdout
    first = next(path for path in (there.home / "runs").iterdir() if '"first"' in (path / "job.json").read_text())
    until(lambda: list(first.glob("attempt_0/*.out")), "the first one runs")
    until(lambda: 3 == there.muster("stacks", "first").stdout.count("script.py"), "each rank says where it is")
    process = there.start("attach", "first")
    until(lambda: "step" in there.said(), "it shows lines")
    there.kill("head", "muster attach first$", signal.SIGTERM)
    assert 0 == process.wait(timeout=20)
    done = there.muster("kill", "first")
    assert (0, True) == (done.returncode, "ended" in done.stdout), done.stderr
    there.nothing_left()


def test_scancel_from_outside_ends_a_waiting_caller(there: There) -> None:
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "10000", "0.05")
    there.steps(2, 3)
    there.lab.run("head", ["scancel", "--user=root"])
    assert process.wait(timeout=60) in (137, 143), there.said()
    there.nothing_left()


def test_slurmctld_may_be_away_for_a_while(there: There) -> None:
    process = there.start("run", "--slurm", "-N", "2", "-g", "1", there.script(TICK), "150", "0.1")
    there.steps(2, 3)
    there.lab.fault("slurmctld-down")
    there.steps(2, 100)
    there.lab.clear()
    assert 0 == process.wait(timeout=60), there.said()


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


def test_a_training_that_is_preempted_twice_ends_like_one_that_is_not(there: There) -> None:
    script = there.script(TRAINING, "train.py")
    elsewhere = {"MUSTER_HOME": str(there.folder / "elsewhere")}
    plain = there.muster("run", "-g", "2", "--prefix", "", script, str(there.folder / "plain"), env=elsewhere)
    assert 0 == plain.returncode, plain.stderr
    expected = plain.stdout.splitlines()[-1]
    assert expected.startswith("parameters")
    line = ["-N", "2", "-g", "1", "--prefix", "", "--requeue", "5", script, str(there.folder / "state")]
    process = there.start("run", "--slurm", *line)
    for attempt in range(2):
        until(
            lambda a=attempt: there.log(0, attempt=a).count("step") > 20 if has_begun(there, a) else False, "it trains"
        )
        made_room = there.lab.run("head", ["srun", "-purgent", "-N3", "--exclusive", "true"], timeout=90)
        assert 0 == made_room.returncode, made_room.stderr
    assert 0 == process.wait(timeout=120), there.said()
    assert expected in there.said().splitlines()
    assert 3 == len(list(there.run.glob("attempt_*")))
    there.nothing_left()


def has_begun(there: There, attempt: int) -> bool:
    return there.home.exists() and os.path.exists(there.run / f"attempt_{attempt}" / "rank_00000.out")
