"""Options that apply only to Flux, and the names `flux batch` has for them."""

from __future__ import annotations

from muster.config import values
from muster.config.record import Options, flag, repeated
from muster.schedulers import SchedulerOptions, Unlike

_GROUP = "Flux"


class RUN(Options):
    """Options of `muster run` and `muster plan` for Flux."""

    flux = flag(
        ("--flux",),
        "run as a Flux batch job on `--nnodes` nodes; inside one, run on its nodes (not tried on a real Flux)",
        group=_GROUP,
    )
    flux_opt = repeated(
        ("--flux-opt",),
        "any other option of `flux batch`, e.g. `urgency=20`; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )


OPTIONS = SchedulerOptions(
    run=RUN,
    program="flux batch",
    names={"account": ("--bank",)},
    unlike={"-q": Unlike("--queue"), "-n": Unlike("--np")},
    borrows=("time", "queue", "account", "gpus_per_node", "cpus_per_task", "exclusive", "constraint"),
    instead={
        "partition": "choose a queue with `--queue NAME`",
        "qos": "choose a queue with `--queue NAME`, or an urgency with `--flux-opt urgency=20`",
        "project": "charge a bank with `--account NAME`",
        "mem": "leave it out: Flux allocates cores, GPUs and nodes; `--exclusive` takes whole nodes",
        "nodelist": "use `--constraint host:n[1-2]`",
        "reservation": "leave it out: Flux has none",
        "gres": "use `--gpus-per-node N`",
        "gpus_per_task": "use `--gpus-per-node N`",
        "resource": "use `--constraint PROPERTY`, and `--time` for the time limit",
        "chunk": "use `--constraint PROPERTY`",
        "place": "use `--exclusive` for whole nodes",
        "pe": "leave it out: `-N` and `-g` give the nodes and their cores",
        "slots": "use `--cpus-per-task N`, the cores of each node",
        "signal_before": "with `--time`, ranks that handle SIGUSR1 get it 120s before the limit",
        "dependency": "use `--after RUN`, or `--flux-opt dependency=afterok:ID`",
        "mail_type": "use `--on-end COMMAND`",
        "mail_user": "use `--on-end COMMAND`",
        "comment": "use `--flux-opt setattr=user.comment=TEXT`",
        "output": "each rank has its log: `muster logs RUN --rank N`",
        "error": "each rank has its log: `muster logs RUN --rank N --stderr`",
        "requeue": "leave it out: muster does not continue jobs of Flux",
        "expedite": "leave it out: muster does not continue jobs of Flux",
        "wait_all_nodes": "leave it out: Flux starts a job when it has all of its nodes",
        "distribution": "leave it out: ranks are in order, node by node",
    },
)
