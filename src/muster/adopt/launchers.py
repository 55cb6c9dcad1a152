"""How each launcher is told about ranks: its options in the terms of muster. One function and one row per launcher."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from muster.adopt.adoption import Launch
from muster.adopt.launcher import HOSTS_UNKNOWN, Place, Read, Reader, dropped, unread
from muster.adopt.mpi import mpirun
from muster.adopt.values import number, text
from muster.lint.model import Program


def _nodes(place: Place, asked: int | None) -> int | None:
    return asked if asked is not None else place.request.node_count if place.request else None


def _check_nodes(place: Place, option: str, asked: int | None) -> list[str]:
    if asked is not None and place.request and place.request.nodes not in (None, asked):
        return [
            f"{option} {asked} and the {place.request.nodes} nodes of the job differ; muster uses all nodes of the job"
        ]
    return []


def _each(program: Program, place: Place, default: str = "") -> str:
    word = program.value("--nproc-per-node")
    found = text(word, place.scope) if word is not None else default
    if found.isdigit() or found in ("gpu", "cpu", "auto"):
        return found
    return "gpu" if "GPU" in found.upper() else ""


_DROPPED_BY_TORCHRUN = (
    *("--nnodes", "--nproc-per-node", "--rdzv-id", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-conf", "--node-rank"),
    *(
        "--master-addr",
        "--master-port",
        "--standalone",
        "--max-restarts",
        "--log-dir",
        "--role",
        "--redirects",
        "--tee",
    ),
    *("--module", "--no-python", "--monitor-interval", "--start-method", "--use-env", "--local-addr"),
    "--local-ranks-filter",
)


def torchrun(program: Program, launch: Launch, place: Place) -> Read:
    """Read torchrun, or torch.distributed.launch, which passes `--local-rank` to each script."""
    asked = number(program.value("--nnodes"), place.scope)
    range_of = re.fullmatch(r"(\d+):(\d+)", text(program.value("--nnodes"), place.scope))
    changed = _check_nodes(place, "--nnodes", asked)
    if range_of:
        asked = int(range_of[2])
        changed.append(f"--nnodes {range_of[0]}: the number of nodes of a run is fixed, here to {range_of[2]}")
    if asked is None and program.has("--nnodes") and place.request is None:
        changed.append(f"--nnodes {text(program.value('--nnodes'), place.scope)}: {HOSTS_UNKNOWN}")
    alone = program.has("--standalone") or (not program.has("--nnodes") and place.request is None)
    nodes = 1 if alone else _nodes(place, asked)
    if place.request and place.request.nodes:
        nodes = place.request.nodes
    each = _each(program, place, "1")
    if not each:
        given = text(program.value("--nproc-per-node"), place.scope)
        changed.append(f"--nproc_per_node {given}: not known from this script; add `-g RANKS`")
    more: list[tuple[str, str]] = []
    restarts = number(program.value("--max-restarts"), place.scope)
    if restarts:
        more.append(("max-restarts", str(restarts)))
    for name in ("log-dir", "role"):
        word = program.value(f"--{name}")
        if word is not None and "$" in (value := text(word, place.scope)):
            changed.append(
                f"--{name} {value}: known only in the job; muster keeps the output of each rank with the run"
            )
        elif word is not None:
            more.append((name, value))
    changed += dropped(program, ("--rdzv-conf", "--local-addr"), place.scope)
    if program.has("--redirects", "--tee"):
        changed.append(
            "--redirects, --tee: `muster logs` shows the output of each rank, `--ranks` chooses what is printed"
        )
    if program.has("--local-ranks-filter"):
        changed.append("--local-ranks-filter counts local ranks; `--ranks 0` of muster shows one rank of all")
    kind = "module" if program.has("--module") else "command" if program.has("--no-python") else "script"
    launcher = "launch" if program.name == "torch.distributed.launch" and not program.has("--use-env") else ""
    if place.step is not None and place.request:
        tasks = number(place.step.value("--ntasks"), place.scope) or place.request.task_count
        tasks = place.request.tasks_per_node or tasks // place.request.node_count
        if tasks > 1:
            changed.append(
                f"srun starts torchrun {tasks} times per node, so there would be {tasks} times as many ranks; "
                "muster starts the ranks once"
            )
    endpoint = text(program.value("--rdzv-endpoint"), place.scope)
    port = _port(endpoint) or text(program.value("--master-port"), place.scope)
    left = unread(program, _DROPPED_BY_TORCHRUN)
    if left:
        launcher = launcher or "torchrun"
    return Read(
        launch._replace(
            kind=kind,
            nodes=nodes,
            each=each,
            launcher=launcher,
            launcher_args=left,
            options=(*launch.options, *more),
            by_arrival=text(program.value("--rdzv-backend"), place.scope) in ("c10d", "etcd-v2") and nodes != 1,
            port=port,
        ),
        program.operands,
        tuple(changed),
    )


def _port(endpoint: str) -> str:
    """Return the port of `HOST:PORT`, in which both may be shell text."""
    found = re.match(r"(?:\$\{[^}]*\}|\$\([^()]*(?:\([^()]*\)[^()]*)*\)|`[^`]*`|[^:])+:(.+)", endpoint)
    return found[1] if found else ""


def accelerate(program: Program, launch: Launch, place: Place) -> Read:
    """Read `accelerate launch`, whose `--num_processes` is the total of all machines."""
    machines, total = place.counted(program, "--num-machines"), place.counted(program, "--num-processes")
    changed = _check_nodes(place, "--num_machines", machines)
    nodes = _nodes(place, machines) or 1
    each = "gpu"
    if total is not None and total % nodes == 0:
        each = str(total // nodes)
        gpus = place.request.gpus_per_node if place.request else None
        if nodes > 1 and gpus and total == gpus:
            changed.append(
                f"--num_processes {total} is the total of {nodes} machines, so {each} per node; "
                f"if you meant one per GPU, use `-g {gpus}`"
            )
    elif total is not None:
        changed.append(f"--num_processes {total} cannot be shared equally by {nodes} machines")
    read: tuple[str, ...] = (
        "--num-machines",
        "--num-processes",
        "--machine-rank",
        "--main-process-ip",
        "--main-process-port",
    )
    read = (*read, "--multi-gpu", "--rdzv-backend", "--same-network", "--module", "--no-python", "--rdzv-conf")
    changed += dropped(program, ("--rdzv-conf",), place.scope)
    config = program.value("--config-file")
    if config is not None and not place.config and None in (machines, total):
        says = "is not here to be read; its numbers of machines and processes are not in the line"
        changed.append(f"--config_file {text(config, place.scope)} {says}")
    left = unread(program, (*read, "--max-restarts"))
    plain = all(word in ("--mixed-precision=no", "--dynamo-backend=no") for word in left)
    left = () if plain else tuple(_underscored(word) for word in left)
    restarts = number(program.value("--max-restarts"), place.scope)
    kind = "module" if program.has("--module") else "command" if program.has("--no-python") else "script"
    return Read(
        launch._replace(
            kind=kind,
            nodes=nodes,
            each=each,
            launcher="accelerate" if left else "",
            launcher_args=left,
            options=(*launch.options, *([("max-restarts", str(restarts))] if restarts else [])),
            port=text(program.value("--main-process-port"), place.scope),
        ),
        program.operands,
        tuple(changed),
    )


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


_PASSED_BY_DEEPSPEED = ("NCCL", "PYTHON", "MLFLOW", "MV2", "UCX")
"""Prefixes: `EXPORT_ENVS` of deepspeed/launcher/runner.py, and those of the accelerator."""


def deepspeed(program: Program, launch: Launch, place: Place) -> Read:
    """Read the launcher of DeepSpeed, which passes `--local_rank` to each script."""
    changed = []
    scope = place.scope
    gpus, nodes = number(program.value("--num-gpus"), scope), number(program.value("--num-nodes"), scope)
    if place.step is not None:
        changed.append("srun starts deepspeed in every task, and each would start all ranks; muster starts them once")
    read: tuple[str, ...] = (
        "--hostfile",
        "--include",
        "--exclude",
        "--num-gpus",
        "--num-nodes",
        "--master-addr",
        "--master-port",
    )
    read = (*read, "--enable-each-rank-log", "--no-ssh", "--node-rank", "--launcher", "--force-multi", "--module")
    read = (*read, "--no-python", "--no-local-rank", "--ssh-port", "--no-ssh-check")
    kind = "module" if program.has("--module") else "command" if program.has("--no-python") else "script"
    plain = program.has("--no-local-rank")
    found = launch._replace(
        kind=kind,
        launcher="" if plain else "deepspeed",
        launcher_args=tuple(_underscored(word) for word in unread(program, read)),
        port=text(program.value("--master-port"), scope),
    )
    kept = [name for name, _ in launch.env if name not in place.passed and not name.startswith(_PASSED_BY_DEEPSPEED)]
    if kept and (program.has("--hostfile", "--include") or place.request) and not program.has("--no-ssh"):
        prefixes = ", ".join(_PASSED_BY_DEEPSPEED)
        says = (
            f"deepspeed passes only variables that begin with {prefixes}, and those of .deepspeed_env, to other hosts"
        )
        changed.append(f"{', '.join(kept)}: {says}; muster passes all of --env")
    changed += dropped(program, ("--ssh-port", "--launcher"), scope)
    if program.has("--enable-each-rank-log"):
        changed.append("--enable_each_rank_log: muster always writes the output of each rank to files of its own")
    if place.request:
        each = gpus or place.request.gpus_per_node or place.request.tasks_per_node
        return Read(
            found._replace(nodes=place.request.node_count, each=str(each or "gpu")), program.operands, tuple(changed)
        )
    hostfile, include = program.value("--hostfile"), program.value("--include")
    hosts: tuple[str, ...] = ()
    if hostfile is None and include is not None:
        chosen = text(include, scope).split("@")
        hosts = tuple(item.partition(":")[0] for item in chosen)
        include = include if any(":" in item for item in chosen) else None
    return Read(
        found._replace(
            hosts=hosts,
            hostfile=text(hostfile, scope),
            include=text(include, scope),
            exclude=text(program.value("--exclude"), scope),
            nodes=nodes if hostfile is not None else None,
            each=str(gpus) if gpus else "" if hostfile is not None or include is not None else "gpu",
        ),
        program.operands,
        tuple(changed),
    )


def srun(program: Program, launch: Launch, place: Place) -> Read:
    """Read srun as the launcher of the ranks."""
    scope, request = place.scope, place.request
    counted = request.node_count if request and (request.nodes or request.tasks_per_node) else None
    nodes = number(program.value("--nodes"), scope) or counted
    each = number(program.value("--ntasks-per-node"), scope) or (request.tasks_per_node if request else None)
    total = number(program.value("--ntasks"), scope) or (request.tasks if request else None)
    if each is None and total is None:
        each = 1
    if each and total and not nodes:
        nodes = -(-total // each)
    if each and nodes and total == each * nodes:
        total = None
    elif each and nodes and total and total < each * nodes:
        each = None  # --ntasks-per-node is the most that a node gets
    found = launch._replace(nodes=nodes, each=str(each or ""), total=None if each else total)
    if not request:
        found = found._replace(scheduled=True)
    return Read(found, ())


class Row(NamedTuple):
    """A launcher."""

    title: str
    read: Reader
    python: bool = True
    """True if it starts Python scripts by itself."""


LAUNCHERS: Mapping[str, Row] = {
    "torchrun": Row("torchrun", torchrun),
    "torch.distributed.launch": Row("torch.distributed.launch", torchrun),
    "accelerate": Row("accelerate launch", accelerate),
    "deepspeed": Row("DeepSpeed's launcher", deepspeed),
    "mpirun": Row("mpirun", mpirun, python=False),
    "srun": Row("srun", srun, python=False),
}
"""By the name in the model of scripts; the first of these that is found decides, except that srun comes last."""
