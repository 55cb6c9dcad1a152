"""How the ranks are started: a job and its nodes become a plan. One file, one function, one row each."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from muster.errors import Impossible
from muster.model import Job, Node, Plan


class Launcher(NamedTuple):
    """A row of the table."""

    module: str
    """The file of this folder that has `plan(job, nodes, run_id)`; it is imported when a plan is made."""
    says: str
    """What starts the ranks, for people."""
    foreign: bool = True
    """A program that is not muster's starts them."""
    package: str = ""
    """What has to be installed beside torch, as pip knows it, with the version that was tried."""
    program: str = ""
    """A program that has to be there."""
    places: tuple[str, ...] = ("local", "ssh", "slurm")
    """The places at which it works."""


def make_plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """The plan of the job's launcher; raises `Impossible`."""
    launcher = LAUNCHERS[job.launcher]
    if job.place not in launcher.places:
        hint = (
            "add `--slurm`, or use `--launcher torchrun`" if "slurm" in launcher.places else "use `--launcher torchrun`"
        )
        raise Impossible(f"--launcher {job.launcher} does not work here: it {launcher.says}", hint)
    if job.launcher_args and not launcher.foreign:
        raise Impossible(f"--launcher-args: {job.launcher} is muster's own, and takes none", "leave them out")
    plan: Plan = import_module(f"muster.launchers.{launcher.module}").plan(job, nodes, run_id)
    return plan


LAUNCHERS: dict[str, Launcher] = {
    "fork": Launcher("fork", "forks ranks from one warmed interpreter a node", foreign=False),
    "exec": Launcher("exec", "starts one plain process a rank", foreign=False),
    "torchrun": Launcher("torchrun", "starts one torchrun a node"),
    "launch": Launcher("launch", "starts one `python -m torch.distributed.launch` a node"),
    "spawn": Launcher("spawn", "spawns the ranks of a node by torch.multiprocessing"),
    "srun": Launcher("srun", "starts one task of Slurm a rank", program="srun", places=("slurm",)),
    "mpirun": Launcher("mpirun", "starts the ranks by Open MPI's or MPICH's mpirun", program="mpirun"),
    "accelerate": Launcher("accelerate", "starts one `accelerate launch` a node", package="accelerate==1.15.0"),
    "deepspeed": Launcher("deepspeed", "starts one `deepspeed` a node", package="deepspeed==0.19.8"),
    "submitit": Launcher(
        "submitit",
        "submits the ranks by an executor of submitit, the local one or that of Slurm",
        package="submitit==1.5.4",
        places=("local", "slurm"),
    ),
    "ray": Launcher("ray", "starts a cluster of Ray, and a TorchTrainer on it", package="ray[train]==2.60.0"),
}
