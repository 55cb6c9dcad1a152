"""Scripts of the corpus by their own launchers, and the line that `muster adopt` prints: the ranks see the same."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster
from waiting import until

CORPUS = Path(__file__).parent / "corpus"
DUMP = """
import json, os, socket, sys
def one(*names):
    return next(os.environ[name] for name in names if name in os.environ)
rank = one("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
seen = {"rank": rank, "size": one("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"), "host": socket.gethostname()}
seen["local"] = one("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
seen["argv"], seen["cwd"] = sys.argv[1:], os.getcwd()
seen["chosen"] = {name: value for name, value in os.environ.items() if name.startswith("CHOSEN_")}
seen["threads"] = os.environ.get("OMP_NUM_THREADS")
with open(os.path.join(os.environ["DUMP_TO"], rank + ".json"), "x") as file:
    json.dump(seen, file)
"""
SPAWNS = """
import os, runpy, sys
import torch.multiprocessing as mp
def work(rank, size):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    runpy.run_path("dump.py", run_name="__main__")
if __name__ == "__main__":
    size = 2
    mp.spawn(work, args=(size,), nprocs=size)
"""


class Scripts:
    """The corpus in a directory that all hosts share, and what its ranks write."""

    def __init__(self, there: LabCluster):
        self.there = there
        for path in CORPUS.iterdir():
            shutil.copy(path, there.folder)
        there.script(DUMP, "dump.py")
        there.script("export CHOSEN_SOURCED='by a file'\n", "env.sh")
        there.script('{"train_batch_size": 4}', "ds.json")
        there.script(SPAWNS, "spawns.py")
        bin_of = str(Path(sys.executable).parent)
        usual = there.lab.environment()
        self.env = {**usual, **there.env, "PATH": f"{bin_of}:{usual['PATH']}"}
        self.env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def run(self, argv: list[str], to: str, ranks: int) -> list[dict[str, Any]]:
        """Run something, and return what the ranks saw."""
        folder = self.there.folder / to
        folder.mkdir()
        # ssh passes nothing on; a file does
        env = {**self.env, "DUMP_TO": str(folder)}
        done = self.there.lab.run("head", argv, env=env, cwd=str(self.there.folder), timeout=240)
        logs = "".join(path.read_text() for path in self.there.folder.glob("*.out"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        until(lambda: len(list(folder.glob("*.json"))) == ranks, f"{ranks} ranks have written: {done.stderr}{logs}")
        return sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda seen: seen["rank"])

    def change(self, name: str, *pairs: tuple[str, str]) -> None:
        """Change a script where the lab is another machine than the one it was written for."""
        path = self.there.folder / name
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture
def scripts(there: LabCluster) -> Scripts:
    return Scripts(there)


PYTHON = sys.executable
SSH = "DUMP_TO"
CASES: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "standalone.sh": (2, []),
    "xargs_tmux.sh": (4, [("-e OMP_NUM_THREADS=1", "-e OMP_NUM_THREADS=1 -e DUMP_TO=$DUMP_TO")]),
    "ssh_loop.sh": (
        4,
        [
            ("torchrun", f"{PYTHON} -m torch.distributed.run"),
            ("CHOSEN_MODE=quick", "DUMP_TO=$DUMP_TO CHOSEN_MODE=quick"),
        ],
    ),
    "mpirun.sh": (4, [("-x OMP_NUM_THREADS=1", "-x OMP_NUM_THREADS=1 -x DUMP_TO")]),
    "srun_python.sbatch": (4, []),
    "srun_torchrun.sbatch": (4, []),
    "srun_torchrun_expr.sbatch": (4, []),
    # the task expands its node's number, and not the batch script
    "srun_accelerate.sbatch": (
        4,
        [
            (
                "srun accelerate launch",
                "srun bash -c 'exec accelerate launch \"$@\" --machine_rank=$SLURM_NODEID dump.py --backend=gloo' x",
            ),
            ("  --machine_rank=$SLURM_NODEID \\\n", ""),
            (" \\\n  dump.py \\\n  --backend=gloo", ""),
        ],
    ),
    "submitit_job.py": (
        4,
        [
            ("train.py", "dump.py"),
            ("tasks_per_node=4, gpus_per_node=4", "tasks_per_node=2"),
            ("AutoEx", "SlurmEx"),
            ("timeout_min=10", "time=10"),
            ("tasks_per_node", "ntasks_per_node"),
            ("name=", "job_name="),
            ("result()", "results()"),
        ],
    ),
    # deepspeed's own ssh passes on what is in its file
    "deepspeed_include.sh": (4, []),
    "deepspeed_hostfile.sbatch": (4, []),
    # without GPUs: each task takes a core
    "ray.sbatch": (
        4,
        [
            ("#SBATCH --gpus-per-node=4\n", ""),
            ("--ntasks-per-node=4", "--ntasks-per-node=2"),
            ("--num-cpus=0", "--num-cpus=2"),
        ],
    ),
    "rank_loop.sh": (2, []),
    "spawn.sbatch": (2, [("#SBATCH --gpus-per-node=2\n", ""), ("train.py", "spawns.py")]),
    "launch_in_task.sbatch": (4, [("#SBATCH --partition=main\n#SBATCH --account=team\n", "")]),
}
CHEAP = ("standalone.sh", "srun_python.sbatch")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CHEAP else [pytest.mark.lab]) for name in CASES]
)
def test_the_ranks_see_the_same(scripts: Scripts, there: LabCluster, name: str):
    ranks, changes = CASES[name]
    if name.startswith("deepspeed"):
        lines = (
            f"DUMP_TO={there.folder / 'original'}\nOMP_NUM_THREADS=1\nCHOSEN_MODE=quick\nPATH={scripts.env['PATH']}\n"
        )
        there.script(lines, ".deepspeed_env")
    if name.startswith("ray"):
        scripts.change("ray_train.py", ("num_gpus=1", "num_cpus=1"), ("train.py", f"{there.folder}/dump.py"))
    if name != "srun_accelerate.sbatch":
        scripts.change(name, *changes)
    done = there.muster("adopt", name, "--json")
    assert done.returncode == 0, done.stderr
    (launch,) = json.loads(done.stdout)["launches"]
    if name == "srun_accelerate.sbatch":
        scripts.change(name, *changes)
    batch = name.endswith(".sbatch")
    start = ["sbatch", "--wait"] if batch else [PYTHON if name.endswith(".py") else "bash"]
    original = scripts.run([*start, name], "original", ranks)
    line = launch["command"]
    line = re.sub(r"--env DUMP_TO(=\S+)? ", "", line)
    line = line.replace("muster run", f"{PYTHON} -m muster run --env DUMP_TO", 1)
    adopted = scripts.run(["bash", "-c", line], "adopted", ranks)
    for found in (adopted, original):  # they are two jobs, which may get other nodes
        names = sorted({seen["host"] for seen in found})
        for seen in found:
            seen["argv"] = [re.sub("^job-[0-9]+$", "job-N", word) for word in seen["argv"]]
            seen["host"] = f"node {names.index(seen['host'])}" if "--slurm" in line else seen["host"]
    if name == "ray.sbatch":  # Ray places the tasks as it likes, and gives them no local ranks
        assert len({seen["host"] for seen in adopted}) == 2
        for seen in (*adopted, *original):
            del seen["local"], seen["host"]
    if "the node that arrives first" in launch["understood"]["rank 0"]:
        # c10d numbers the nodes as they arrive: the ranks of each node are compared
        assert sorted(seen["rank"] for seen in original) == sorted(seen["rank"] for seen in adopted)
        for found in (adopted, original):
            found.sort(key=lambda seen: (seen["host"], seen["local"]))
            for seen in found:
                del seen["rank"]
    assert adopted == original
