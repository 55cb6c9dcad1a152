"""What starts the ranks of one node: torchrun, `accelerate launch` or `deepspeed`. The caller says where shell
variables stand."""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

from muster.core.model import ENDING, GRACE, ROLE
from muster.errors import InvalidRequest
from muster.export._shell import Sh, quote
from muster.export.wanted import Wanted


class Place(NamedTuple):
    """Shell text for what a launcher is told on a node."""

    node: str = '"$node"'
    address: str = '"$master"'
    port: str = '"$port"'
    python: str = '"$python"'
    hostfile: str = '"$hostfile"'


Groups = list[list[str]]
"""A command, with a list for each of its lines."""


class NodeLauncher(NamedTuple):
    """A launcher that is started once per node."""

    title: str
    """For users."""
    words: Callable[[Wanted, Place], Groups]
    before: Callable[[Wanted, str], list[str]] = lambda wanted, names: []
    """Lines that must come before it; the second argument is shell text that prints the hosts, one a line."""


def _program(wanted: Wanted, script: str = "", module: str = "-m", other: str = "--no-python") -> list[str]:
    of = wanted.job.program
    option = {"script": script, "module": module, "command": other}[of.kind]
    return [*([option] if option else []), *of.argv]


def launcher_env(wanted: Wanted, indent: str = "") -> list[str]:
    """Return the lines for settings that torchrun, and what is built on it, reads from the environment."""
    job = wanted.job
    lines = []
    if job.grace != GRACE:
        lines.append(f"{indent}export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={math.ceil(job.grace)}")
    if job.signals_to_handle != ",".join(ENDING):
        lines.append(f"{indent}export TORCHELASTIC_SIGNALS_TO_HANDLE={quote(job.signals_to_handle)}")
    return lines


def _torchrun(wanted: Wanted, place: Place) -> Groups:
    job, each = wanted.job, wanted.each("torchrun")
    more = [f"--max-restarts={job.max_restarts}"] if job.max_restarts else []
    more += [f"--role={job.role}"] if job.role != ROLE else []
    # the interpreter writes each rank's output to files, and shows it
    more += [f"--log-dir={job.log_dir.rstrip('/')}", "--tee=3"] if job.log_dir else []
    more += [f"--numa-binding={job.binding}"] if job.binding else []
    nodes = len(wanted.nodes)
    start = [Sh(place.python), "-m", "torch.distributed.run"]
    script = _program(wanted)
    if nodes == 1 and wanted.port is None and not wanted.address:
        # it chooses a free port by itself
        return [start, ["--standalone", f"--nproc-per-node={each}"], more, [*job.launcher_args], script]
    where = [f"--nnodes={nodes}", Sh(f"--node-rank={place.node}"), f"--nproc-per-node={each}"]
    meeting: list[str] = [Sh(f"--master-addr={place.address}"), Sh(f"--master-port={place.port}")]
    return [start, where, meeting, more, [*job.launcher_args], script]


def _accelerate(wanted: Wanted, place: Place) -> Groups:
    job, several = wanted.job, wanted.world_size > 1
    wanted.each("accelerate")
    # --multi_gpu goes through torchrun's code, with or without GPUs; --cpu would start a single rank
    kind = ["--multi_gpu", "--rdzv_backend=static"] if several else []
    sizes = [f"--num_machines={len(wanted.nodes)}", f"--num_processes={wanted.world_size}"]
    more = [f"--max_restarts={job.max_restarts}"] if job.max_restarts else []
    if job.program.kind == "command" and not several:
        raise InvalidRequest("accelerate starts one rank only as a Python script", "use `muster export torchrun`")
    return [
        [Sh(place.python), "-m", "accelerate.commands.launch"],
        # all of these are given, so that a configuration file in the home of the user changes nothing
        [*kind, "--mixed_precision=no", "--dynamo_backend=no"],
        [*sizes, Sh(f"--machine_rank={place.node}")],
        [Sh(f"--main_process_ip={place.address}"), Sh(f"--main_process_port={place.port}")],
        [*more, *job.launcher_args],
        _program(wanted, module="--module", other="--no_python"),
    ]


def _deepspeed(wanted: Wanted, place: Place) -> Groups:
    job = wanted.job
    # muster passes this argument to the script only with `--launcher deepspeed`
    plain = [] if job.launcher == "deepspeed" else ["--no_local_rank"]
    return [
        [Sh(place.python), "-m", "deepspeed.launcher.runner"],
        # --no_ssh: one launcher per node is started here, so nodes need no ssh between them
        [Sh(f"--hostfile={place.hostfile}"), "--force_multi", "--no_ssh", Sh(f"--node_rank={place.node}")],
        [Sh(f"--master_addr={place.address}"), Sh(f"--master_port={place.port}")],
        [*plain, *job.launcher_args],
        _program(wanted, module="--module", other="--no_python"),
    ]


_SIZE = ["# the only variable of torchrun about ranks that this launcher does not set"]


def _hostfile(wanted: Wanted, names: str) -> list[str]:
    """Return the lines that write DeepSpeed's file of hosts; `names` is empty if they are known now."""
    if names:
        each = wanted.each("deepspeed in a job of Slurm")
        return [
            *_SIZE,
            f"export LOCAL_WORLD_SIZE={each}",
            "hostfile=$(mktemp)",
            f"{names} | sed 's/$/ slots={each}/' >\"$hostfile\"",
        ]
    shares = [len(node.ranks) for node in wanted.nodes]
    size = [*_SIZE, f"export LOCAL_WORLD_SIZE={shares[0]}"] if len(set(shares)) == 1 else []
    rows = [quote(f"{node.host.name} slots={len(node.ranks)}") for node in wanted.nodes]
    return [*size, "hostfile=$(mktemp)", f"printf '%s\\n' {' '.join(rows)} >\"$hostfile\""]


TORCHRUN = NodeLauncher("torchrun", _torchrun)
ACCELERATE = NodeLauncher("accelerate launch", _accelerate)
DEEPSPEED = NodeLauncher("the launcher of DeepSpeed", _deepspeed, _hostfile)

__all__ = ["ACCELERATE", "DEEPSPEED", "TORCHRUN", "NodeLauncher", "Place", "launcher_env"]
