"""Other launchers that start the ranks of first_sum.py: how each is called, on this machine and on hosts of the lab."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import BIN, HERE, PROGRAM, TORCHRUNX, Missing
from records import MUSTER

SCRIPTS = HERE / "scripts"
PYTHON = sys.executable

RUNX = """
import sys, torchrunx
hosts, each, here, script, *words = sys.argv[1:]
def rank(here, words):
    sys.path.insert(0, here)
    from first_sum import first_sum
    first_sum(*words)
launcher = torchrunx.Launcher(hostnames=hosts.split(","), workers_per_host=int(each), backend="gloo")
launcher.run(rank, here, words)
"""
"""A program of torchrunx's own interpreter: it is under GPL, and no module of this project imports it."""


class Command(NamedTuple):
    """A command with variables that it needs."""

    words: list[str]
    env: Mapping[str, str] = {}


class Start(NamedTuple):
    """What is to be started: `script` with its arguments, on `hosts` of the lab, or here if there are none."""

    ranks: int
    """On each host."""
    script: Sequence[str]
    folder: Path
    """A directory for files of the launcher."""
    hosts: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of ranks."""
        return self.ranks * max(1, len(self.hosts))


Peer = Callable[[Start], Command]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def rendezvous(start: Start) -> dict[str, str]:
    """Return the variables of torch for launchers that do not set them."""
    return {"MASTER_ADDR": start.hosts[0] if start.hosts else "127.0.0.1", "MASTER_PORT": str(free_port())}


def need(program: str) -> str:
    """Return the path of a program; raises `Missing`."""
    found = shutil.which(program, path=f"{BIN}:/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise Missing(f"{program} is not installed")
    return found


def need_module(name: str) -> None:
    """Raise `Missing` if a module is not installed."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed")


def muster(start: Start) -> Command:
    """`muster run`."""
    where = ["-H", ",".join(start.hosts)] if start.hosts else []
    return Command([PROGRAM, "run", *where, "-g", str(start.ranks), *start.script])


def torchrun(start: Start) -> Command:
    """`torchrun`; on hosts started by srun, one on each."""
    if not start.hosts:
        return Command([str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(start.ranks), *start.script])
    nodes = len(start.hosts)
    # -K: else the others would wait for minutes for the torchrun that has ended
    words = ["srun", "-K", f"-N{nodes}", "--ntasks-per-node=1", str(BIN / "torchrun"), f"--nnodes={nodes}"]
    words += [f"--nproc-per-node={start.ranks}", "--rdzv-backend=c10d"]
    return Command([*words, f"--rdzv-endpoint={start.hosts[0]}:{free_port()}", *start.script])


def accelerate(start: Start) -> Command:
    """`accelerate launch`. With `--cpu` or MULTI_CPU it starts a single rank, and with one rank it needs no group."""
    need_module("accelerate")
    words = [str(BIN / "accelerate"), "launch", "--num_machines=1", f"--num_processes={start.ranks}"]
    words += ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={free_port()}"]
    if start.ranks == 1:
        return Command([*words, *start.script], {"RANK": "0", "WORLD_SIZE": "1", **rendezvous(start)})
    return Command([*words, "--multi_gpu", *start.script])


def deepspeed(start: Start) -> Command:
    """The `deepspeed` launcher."""
    need_module("deepspeed")
    hostfile = start.folder / "hostfile"
    hostfile.write_text(f"localhost slots={start.ranks}\n")
    words = [str(BIN / "deepspeed"), f"--hostfile={hostfile}", "--force_multi", "--no_ssh", "--node_rank=0"]
    words += ["--no_local_rank"]  # an argument of the script otherwise
    return Command([*words, "--master_addr=127.0.0.1", f"--master_port={free_port()}", *start.script])


def torchrunx(start: Start) -> Command:
    """`torchrunx.Launcher.run`, by the Python that has it."""
    python = os.environ.get(TORCHRUNX, "")
    if not python:
        raise Missing(f"{TORCHRUNX} names no Python that has torchrunx")
    hosts = ",".join(start.hosts) or "localhost"
    words = [python, "-c", RUNX, hosts, str(start.ranks), str(SCRIPTS), *start.script]
    return Command(words, {"TORCHRUNX_LOG_DIR": str(start.folder / "torchrunx_logs")})


def spawn(start: Start) -> Command:
    """`torch.multiprocessing.spawn`."""
    program = str(SCRIPTS / "by_spawn.py")
    return Command([PYTHON, program, str(start.ranks), str(free_port()), *start.script[1:]])


def openmpi(start: Start) -> Command:
    """`mpirun` of Open MPI; over ssh on hosts."""
    env = rendezvous(start)
    words = [need("mpirun.openmpi"), "--allow-run-as-root", "--bind-to", "none", "-np", str(start.total)]
    if start.hosts:
        words += ["--host", ",".join(f"{host}:{start.ranks}" for host in start.hosts), "--mca", "plm", "rsh"]
        words += [word for name in (*env, "OMP_NUM_THREADS") for word in ("-x", name)]
    else:
        words += ["--oversubscribe"]
    return Command([*words, PYTHON, *start.script], env)


def mpich(start: Start) -> Command:
    """`mpirun` of MPICH; over ssh on hosts."""
    env = rendezvous(start)
    words = [need("mpirun.mpich"), "-n", str(start.total)]
    if start.hosts:
        words += ["-launcher", "ssh", "-ppn", str(start.ranks), "-hosts", ",".join(start.hosts)]
    return Command([*words, PYTHON, *start.script], env)


def srun(start: Start) -> Command:
    """`srun` alone."""
    words = ["srun", "-K", f"-N{len(start.hosts)}", f"--ntasks-per-node={start.ranks}", "--overcommit"]
    return Command([*words, PYTHON, *start.script], rendezvous(start))


def submitit(start: Start) -> Command:
    """`executor.submit` of submitit: a local job, or a job of Slurm."""
    need_module("submitit")
    nodes = str(max(1, len(start.hosts)))
    program = str(SCRIPTS / "by_submitit.py")
    return Command([PYTHON, program, nodes, str(start.ranks), str(start.folder / "submitit"), *start.script[1:]])


def ray(start: Start) -> Command:
    """`TorchTrainer` of Ray Train, with a cluster that is started for it."""
    need_module("ray")
    words = [PYTHON, str(SCRIPTS / "by_ray.py"), str(start.ranks), str(start.folder / "ray"), *start.script[1:]]
    return Command(words, {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"})


def monarch(start: Start) -> Command:
    """Monarch's local processes."""
    need_module("monarch")
    raise Missing("Monarch is installed, and the bench has no program for it")


LOCAL: Mapping[str, Peer] = {
    MUSTER: muster,
    "torchrun": torchrun,
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "torchrunx": torchrunx,
    "mp.spawn": spawn,
    "mpirun (Open MPI)": openmpi,
    "mpirun (MPICH)": mpich,
    "submitit": submitit,
    "Ray Train": ray,
    "Monarch": monarch,
}
"""Launchers on one machine."""

HOSTS: Mapping[str, Peer] = {
    MUSTER: muster,
    "srun + torchrun": torchrun,
    "srun": srun,
    "mpirun (Open MPI)": openmpi,
    "mpirun (MPICH)": mpich,
    "submitit": submitit,
    "torchrunx": torchrunx,
}
"""Launchers on several hosts."""
