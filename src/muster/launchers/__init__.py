"""How the ranks are started: a job and its nodes become a plan. One file, one function and one row per launcher."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from muster.core.model import Job, Node, Plan
from muster.errors import InvalidRequest
from muster.runtimes import python_inside
from muster.schedulers import SCHEDULERS, typed


class Launcher(NamedTuple):
    """A row of the table."""

    module: str
    """The module of this package that defines `plan(job, nodes, run_id)`; it is imported when a plan is made."""
    says: str
    """What starts the ranks, for users."""
    foreign: bool = True
    """True if a program that is not part of muster starts the ranks."""
    package: str = ""
    """The package it needs beside torch, as a pip requirement, with the version that was tested."""
    program: str = ""
    """A program that must be installed."""
    transports: tuple[str, ...] = ("local", "ssh")
    """The transports it supports for hosts that were not allocated by a scheduler."""
    schedulers: tuple[str, ...] | None = None
    """The schedulers in whose jobs it works; None for all."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where it works, for users."""
        return (*self.transports, *(SCHEDULERS if self.schedulers is None else self.schedulers))

    def works(self, job: Job) -> bool:
        """Return whether it can start the ranks of this job."""
        return job.transport in self.transports if not job.scheduler else job.scheduler in self.places


def make_plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return the plan of the job's launcher. Raises `InvalidRequest`."""
    launcher = LAUNCHERS[job.launcher]
    if not launcher.works(job):
        needs = f"add `{typed(launcher.schedulers[0])}`, or " if launcher.schedulers and not job.scheduler else ""
        hint = f"{needs}use `--launcher torchrun`"
        raise InvalidRequest(f"--launcher {job.launcher} is not available here: it {launcher.says}", hint)
    if job.launcher_args and not launcher.foreign:
        raise InvalidRequest(f"--launcher-args: the built-in launcher {job.launcher} takes none", "leave them out")
    plan: Plan = import_module(f"muster.launchers.{launcher.module}").plan(
        job._replace(python=python_inside(job)), nodes, run_id
    )
    return plan._replace(job=job)


LAUNCHERS: dict[str, Launcher] = {
    "fork": Launcher("fork", "forks all ranks of a node from one preloaded interpreter", foreign=False),
    "exec": Launcher("plain", "starts one interpreter per rank", foreign=False),
    "torchrun": Launcher("torchrun", "starts one torchrun per node"),
    "launch": Launcher("torch_launch", "starts one `python -m torch.distributed.launch` per node"),
    "spawn": Launcher("spawn", "spawns the ranks of a node with torch.multiprocessing"),
    "srun": Launcher("srun", "starts one Slurm task per rank", program="srun", transports=(), schedulers=("slurm",)),
    "mpirun": Launcher("mpirun", "starts the ranks with mpirun of Open MPI or MPICH", program="mpirun"),
    "accelerate": Launcher("accelerate", "starts one `accelerate launch` per node", package="accelerate==1.15.0"),
    "deepspeed": Launcher("deepspeed", "starts one `deepspeed` per node", package="deepspeed==0.19.8"),
    "submitit": Launcher(
        "submitit",
        "submits the ranks to the local or the Slurm executor of submitit",
        package="submitit==1.5.4",
        transports=("local",),
        schedulers=("slurm",),
    ),
    "ray": Launcher("ray", "starts a Ray cluster, and runs the ranks in a TorchTrainer", package="ray[train]==2.60.0"),
}

OTHER_NAMES = {
    **dict.fromkeys(("mpiexec", "mpi", "openmpi", "mpich", "orterun", "prun"), "mpirun"),
    **dict.fromkeys(("torch", "torch.distributed.run", "elastic"), "torchrun"),
    **dict.fromkeys(("python", "none", "plain"), "exec"),
    "torch.distributed.launch": "launch",
    "slurm": "srun",
    "mp": "spawn",
}
"""What a launcher may be called elsewhere, for hints."""
