"""A run as a script, or a manifest, that needs no muster. One file, one function and one row per kind."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from muster.config.options import RUN, RunOptions
from muster.config.record import Option
from muster.config.torchrun import IGNORED_TORCHRUN_OPTIONS
from muster.core.model import BUNDLED
from muster.errors import InvalidRequest
from muster.export._shell import check_secrets
from muster.export.wanted import Wanted
from muster.runtimes.container import ContainerOptions
from muster.schedulers.slurm_options import RUN as SLURM

Some = frozenset[Option[Any]]

_TORCHRUN: Some = frozenset(
    (
        *(RunOptions.max_restarts, RunOptions.role, RunOptions.grace, RunOptions.signals_to_handle),
        *(RunOptions.log_dir, RunOptions.numa_binding, RunOptions.master_addr, RunOptions.master_port),
    )
)
_SSH: Some = frozenset((RunOptions.hosts, RunOptions.hostfile, RunOptions.include, RunOptions.exclude, RunOptions.ssh))
_HOSTS = _SSH - {RunOptions.ssh}
_PORT: Some = frozenset((RunOptions.master_addr, RunOptions.master_port))
_BATCH: Some = frozenset(option for option in SLURM.table if option is not SLURM.signal_before)
_CONTAINER: Some = frozenset(ContainerOptions.table)
_POD: Some = frozenset((SLURM.slurm, SLURM.mem, SLURM.gpus_per_node, SLURM.cpus_per_task, SLURM.gres))


class Export(NamedTuple):
    """A row of the table."""

    says: str
    """What it writes, for users."""
    module: str
    launcher: str = "torchrun"
    """The external launcher of muster that starts the ranks in the same way; `--launcher` may name it."""
    nodes: tuple[str, ...] = ("hosts",)
    """Where its nodes come from: `hosts` (named, or this machine), `slurm` or `cluster`. The first is the default."""
    expresses: Some = frozenset()
    """The options that it expresses, beside those in `_ALL`."""
    image: bool = False
    """True if it needs a container image."""


EXPORTS: dict[str, Export] = {
    "bash": Export("torchrun on each node, started over ssh", "bash", expresses=_TORCHRUN | _SSH),
    "tmux": Export("torchrun in a tmux session on each node", "tmux", expresses=_TORCHRUN | _SSH),
    "torchrun": Export("one line for each node, to type there", "torchrun", expresses=_TORCHRUN | _HOSTS),
    "sbatch": Export(
        "a batch script for Slurm: torchrun on each node",
        "sbatch",
        nodes=("slurm",),
        expresses=_TORCHRUN | _BATCH | _CONTAINER,
    ),
    "srun": Export(
        "a batch script for Slurm: one task of srun per rank",
        "srun",
        "srun",
        ("slurm",),
        _BATCH | _PORT | _CONTAINER | {SLURM.signal_before},
    ),
    "accelerate": Export(
        "accelerate launch on each node, over ssh or in a job of Slurm",
        "accelerate",
        "accelerate",
        ("hosts", "slurm"),
        _SSH | _BATCH | _PORT | {RunOptions.max_restarts, RunOptions.grace, RunOptions.signals_to_handle},
    ),
    "deepspeed": Export(
        "DeepSpeed's launcher on each node, over ssh or in a job of Slurm",
        "deepspeed",
        "deepspeed",
        ("hosts", "slurm"),
        _SSH | _BATCH | _PORT,
    ),
    "mpirun": Export(
        "mpirun of Open MPI, on hosts or in a job of Slurm",
        "mpirun",
        "mpirun",
        ("hosts", "slurm"),
        _HOSTS | _BATCH | _PORT,
    ),
    "mpich": Export(
        "mpiexec of MPICH, on hosts or in a job of Slurm",
        "mpich",
        "mpirun",
        ("hosts", "slurm"),
        _HOSTS | _BATCH | _PORT,
    ),
    "submitit": Export("a Python program for submitit", "submitit", "submitit", ("slurm",), _BATCH),
    "ray": Export("a driver for `ray job submit`", "ray", nodes=("cluster",), expresses=_TORCHRUN | _POD),
    "kubernetes": Export(
        "a TrainJob of Kubeflow Trainer",
        "kubernetes",
        nodes=("cluster",),
        expresses=_POD
        | {RunOptions.max_restarts, RunOptions.grace, RunOptions.signals_to_handle, RunOptions.timeout}
        | {ContainerOptions.container},
        image=True,
    ),
    "jobset": Export(
        "a JobSet of Kubernetes",
        "jobset",
        nodes=("cluster",),
        expresses=_TORCHRUN | _POD | {RunOptions.timeout, ContainerOptions.container},
        image=True,
    ),
}

OTHER_NAMES = {
    **dict.fromkeys(("k8s", "kubectl", "kubeflow", "trainjob"), "kubernetes"),
    **dict.fromkeys(("ssh", "sh", "shell"), "bash"),
    **dict.fromkeys(("mpi", "openmpi"), "mpirun"),
    "mpiexec": "mpich",
    "slurm": "sbatch",
}
"""What a kind may be called elsewhere, for hints."""

_ALL: Some = frozenset(
    (
        *(RunOptions.nnodes, RunOptions.np, RunOptions.nproc_per_node, RunOptions.module, RunOptions.no_python),
        *(RunOptions.cwd, RunOptions.env, RunOptions.name, RunOptions.launcher, RunOptions.launcher_args),
        *(RunOptions.python, RunOptions.setup, RunOptions.help, RunOptions.profile, RunOptions.scheduler),
        *(RunOptions.gpus, RunOptions.run_dir, RunOptions.standalone),
    )
)
"""Options that every form expresses, or that say how this command works."""

_ONLY_MUSTER: dict[Option[Any], str] = {
    RunOptions.spare_nodes: "only muster replaces hosts",
    RunOptions.rendezvous: "only muster relays connections to the store",
    RunOptions.lease: "there is no controller that could be lost",
    RunOptions.sync: "copy the code to the hosts first",
    RunOptions.ship_env: "copy the environment to the hosts first",
    RunOptions.env_dir: "no environment is copied",
    RunOptions.no_code_check: "nobody compares the code of the hosts",
    RunOptions.snapshot: "the script is run where it is",
    RunOptions.code_limit: "no code is copied",
    RunOptions.preload: "only muster forks ranks from one interpreter",
    RunOptions.max_restarts: "this launcher restarts no ranks",
    RunOptions.always_restart: "only muster compares failures",
    RunOptions.restart_delay: "only muster delays restarts",
    RunOptions.grace: "this launcher has its own time before SIGKILL",
    RunOptions.signals_to_handle: "this launcher forwards its own signals",
    RunOptions.hang_timeout: "only muster watches for hangs",
    RunOptions.on_hang: "only muster watches for hangs",
    RunOptions.timeout: "use `timeout` of coreutils, or the time limit of the scheduler",
    RunOptions.detach: "start it with nohup, or use `muster export tmux`",
    RunOptions.stdin: "the stdin of all ranks is empty",
    RunOptions.log_dir: "this launcher writes no file per rank",
    RunOptions.numa_binding: "only muster and torchrun bind ranks by NUMA nodes",
    RunOptions.role: "only muster and torchrun set ROLE_NAME",
    RunOptions.on_end: "start the command after the script",
    RunOptions.main: "only muster runs several roles",
    RunOptions.after: "start it when those runs have ended, or use --dependency",
    RunOptions.resubmit: "only muster submits a job again",
    RunOptions.no_auto_preload: "only muster forks ranks from one interpreter",
    RunOptions.node_rank: "the form numbers the nodes",
    RunOptions.ssh: "this form does not start ssh by itself",
    SLURM.signal_before: "torchrun would be ended by the signal; `muster export srun` expresses it",
}
"""Why a form lacks an option."""
_VIEW: Some = frozenset(
    (
        *(RunOptions.ranks, RunOptions.prefix, RunOptions.tty, RunOptions.no_tty, RunOptions.quiet, RunOptions.json),
        *(RunOptions.show_env, RunOptions.keep_runs, RunOptions.keep_size),
    )
)
_SHOWN = "it is about what muster shows and keeps"
_SEVERAL: Some = frozenset(
    (RunOptions.sweep, RunOptions.array, RunOptions.chain, RunOptions.max_parallel, RunOptions.all_roles)
)
"""Options that make several runs, or a run of several programs."""


def dropped(row: Export, options: RunOptions) -> tuple[str, ...]:
    """Return a sentence for each given option that this kind does not express."""
    found = []
    for option in options.all_given():
        if option in row.expresses or option in _ALL or option not in RUN or not options.value(option):
            continue
        why = _ONLY_MUSTER.get(option) or IGNORED_TORCHRUN_OPTIONS.get(option)
        why = why or (_SHOWN if option in _VIEW else "this form has nothing like it")
        found.append(f"{option.long_name}: {why}")
    return tuple(found)


def check(kind: str, options: RunOptions) -> None:
    """Raise `InvalidRequest` for options that would change what ranks run, and that this kind cannot express."""
    row = EXPORTS[kind]
    if options.elsewhere and "hosts" not in row.nodes:
        source = "Slurm" if "slurm" in row.nodes else "the cluster"
        hint = "use `-N NODES`, or `--nodelist`" if "slurm" in row.nodes else "use `-N NODES`"
        raise InvalidRequest(f"`muster export {kind}` takes no hosts: {source} chooses the nodes", hint)
    if options.scheduled and row.nodes == ("hosts",):
        raise InvalidRequest(
            f"`muster export {kind}` writes nothing for Slurm", "use `muster export sbatch` or `muster export srun`"
        )
    several = [option.long_name for option in options.all_given() if option in _SEVERAL and options.value(option)]
    if several or options.on:
        raise InvalidRequest(
            f"{', '.join(several) or '--on'}: `muster export {kind}` writes one run, on hosts of its own",
            "leave it out, and export each run",
        )
    container = options.option("container")
    if container is not None and options.value(container) and not (row.image or _by_scheduler(row, options)):
        raise InvalidRequest(
            f"--container {options.value(container)}: `muster export {kind}` starts no container",
            "use `muster export kubernetes`, or sbatch or srun with `--container-runtime pyxis`",
        )
    if options.wrap:
        raise InvalidRequest(
            f"--wrap {options.wrap}: an exported form cannot fill in numbers of ranks",
            "write a script that starts your program, and export that: `muster export KIND -- ./wrapped.sh`",
        )
    if options.launcher not in (None, "fork", "exec", row.launcher):
        other = next((name for name, other in EXPORTS.items() if other.launcher == options.launcher), "")
        raise InvalidRequest(
            f"--launcher {options.launcher}: `muster export {kind}` starts ranks with {row.launcher}",
            f"use `muster export {other}`" if other else "leave out --launcher",
        )


def _by_scheduler(row: Export, options: RunOptions) -> bool:
    """Return whether the scheduler starts the container, with options of srun."""
    named = options.option("container_runtime")
    return (
        row.nodes == ("slurm",) and row.module != "submitit" and named is not None and options.value(named) == "pyxis"
    )


def text_of(kind: str, wanted: Wanted) -> str:
    """Return the text of a form. Raises `InvalidRequest` for what it cannot express."""
    of = wanted.job.program
    if of.source or of.argv[0].startswith(BUNDLED):
        raise InvalidRequest("a script from stdin cannot be exported", "write it to a file, and export that")
    if of.kind == "function":
        raise InvalidRequest(f"{of.argv[0]}: a function cannot be exported", "write a script that calls it")
    check_secrets(wanted)
    text: str = import_module(f"muster.export.{EXPORTS[kind].module}").text(wanted)
    return text
