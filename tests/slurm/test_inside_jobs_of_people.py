"""muster inside what people have: array tasks, a terminal of srun, variables for other steps, options of sbatch."""

from __future__ import annotations

import shlex

from lab_cluster import LabCluster

SAY = ["--prefix", "", "--", "sh", "-c"]


def test_a_task_of_an_array_of_the_person(there: LabCluster) -> None:
    words = there.argv("run", "--slurm", "-g", "2", *SAY, "echo of $SLURM_ARRAY_TASK_ID: $RANK")
    text = f"#!/bin/bash\n#SBATCH -N2 --array=3,5 -o {there.folder}/out-%a\nexport MUSTER_HOME='{there.home}'\n"
    (there.folder / "job.sh").write_text(f"{text}{shlex.join(words)}\n")
    done = there.lab.run("head", ["sbatch", "--wait", str(there.folder / "job.sh")], cwd=str(there.folder), timeout=240)
    said = {task: (there.folder / f"out-{task}").read_text() for task in (3, 5)}
    assert 0 == done.returncode, said
    for task in (3, 5):
        assert {f"of {task}: {rank}" for rank in range(4)} <= set(said[task].splitlines())


def test_in_an_allocation_with_two_kinds_of_nodes_and_in_a_terminal_of_srun(there: LabCluster) -> None:
    env = {**there.lab.environment(), **there.env}

    def inside(made_for: list[str], *words: str, **more: str) -> tuple[int, str, str]:
        argv = [*made_for, *(f"{name}={value}" for name, value in more.items()), *there.argv("run", *words)]
        done = there.lab.run("head", argv, env=env, cwd=str(there.folder), timeout=240)
        return done.returncode, done.stdout, done.stderr

    code, _, said = inside(["salloc", "-Q", "-N1", ":", "-N1"], "--slurm", "-g", "1", "--", "true")
    assert 2 == code
    assert "is heterogeneous (SLURM_HET_SIZE=2), which muster does not support" in said
    het = ["salloc", "-Q", "-N1", ":", "-N1", "srun", "--het-group=1"]
    code, out, said = inside(het, "-g", "1", *SAY, "echo $RANK $(uname -n)")
    assert 0 == code and out.startswith("0 n"), said
    assert "heterogeneous (SLURM_HET_SIZE=2), which muster does not support: all ranks run on this machine" in said

    (there.folder / "hosts").write_text("n2\nn2\nn1\n")
    other = {"SLURM_HOSTFILE": str(there.folder / "hosts"), "SLURM_DISTRIBUTION": "arbitrary"}
    code, out, said = inside(
        ["salloc", "-Q", "-w", "n[1-2]", "env"], "--slurm", "-g", "2", *SAY, "echo $RANK $(uname -n)", **other
    )
    assert 0 == code, said
    assert ["0 n1", "1 n1", "2 n2", "3 n2"] == sorted(out.splitlines()), "these are for steps of the person"

    made_for = ["salloc", "-Q", "-w", "n[1-2]", "--ntasks-per-node=2", "--gpus-per-task=1"]
    code, out, said = inside(made_for, "--slurm", *SAY, "echo $RANK $(uname -n)")
    assert (0, ["0 n1", "1 n1", "2 n2", "3 n2"]) == (code, sorted(out.splitlines())), said

    line = shlex.join(["srun", "-N1", "-n1", "--pty", *there.argv("run", "-g", "2", *SAY, "echo $RANK $(uname -n)")])
    done = there.lab.run("head", ["script", "-qec", line, "/dev/null"], env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stdout
    assert {"0 n1", "1 n1"} <= set(done.stdout.replace("\r", "").splitlines())


def test_options_of_sbatch(there: LabCluster) -> None:
    known = [
        "--wait-all-nodes",
        "1",
        "--distribution",
        "block",
        "--comment",
        "a comment",
        "-c",
        "4",
        "--signal",
        "USR2@20",
    ]
    done = there.muster("run", "--slurm", "-N", "2", "-g", "2", *known, *SAY, "echo $RANK $SLURM_CPUS_PER_TASK")
    assert 0 == done.returncode, done.stderr
    assert ["0 2", "1 2", "2 2", "3 2"] == sorted(done.stdout.splitlines())
    expedited = there.muster("run", "--slurm", "-g", "1", "--requeue", "2", "--expedite", "--", "true")
    assert 2 == expedited.returncode
    assert "error: --expedite requires Slurm 25.11, and sbatch here is that of Slurm " in expedited.stderr
