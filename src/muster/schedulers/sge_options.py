"""Options that apply only to Grid Engine, and the names qsub has for them."""

from __future__ import annotations

from muster.config import values
from muster.config.record import SHARED, Options, flag, optional, repeated
from muster.schedulers import SchedulerOptions, Unlike

_GROUP = "Grid Engine"


class RUN(Options):
    """Options of `muster run` and `muster plan` for Grid Engine."""

    sge = flag(
        ("--sge",),
        "run as a Grid Engine job on `--nnodes` nodes; inside a job, run on its nodes",
        group=_GROUP,
    )
    pe = optional(
        ("--pe",),
        "parallel environment to request slots from",
        "NAME",
        values.text,
        "one whose allocation rule fits",
        group=_GROUP,
    )
    slots = optional(
        ("--slots",),
        "slots per node, which are cores in most clusters",
        "N",
        values.positive,
        "one per rank",
        group=_GROUP,
    )
    queue = optional(("--queue",), "queue to submit to, e.g. `gpu.q`", "NAME", values.text, group=SHARED)
    project = optional(("--project",), "project to charge", "NAME", values.text, group=SHARED)
    resource = repeated(
        ("--resource",),
        "resources per slot, e.g. `h_vmem=8G`, or `gpu=1` where the cluster calls a GPU so; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )
    sge_opt = repeated(
        ("--sge-opt",),
        "any other option of qsub, e.g. `M=ann@example.org`; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )


OPTIONS = SchedulerOptions(
    run=RUN,
    program="qsub",
    # not -q, which is --quiet of muster
    names={"project": ("-P",), "resource": ("-l",)},
    unlike={"-q": Unlike("--queue")},
    borrows=("time",),
    instead={
        "partition": "choose a queue with `--queue NAME`",
        "account": "charge a project with `--project NAME`, or use `--sge-opt A=NAME`",
        "qos": "choose a queue with `--queue NAME`, or a priority with `--sge-opt p=-100`",
        "mem": "use `--resource h_vmem=8G`, per slot; `qconf -sc` lists the cluster's resources",
        "nodelist": "use `--resource hostname='n1|n2'`",
        "constraint": "request a resource with `--resource NAME=VALUE`; `qconf -sc` lists them",
        "comment": "use `--sge-opt ac=comment=TEXT`",
        "reservation": "use `--sge-opt ar=ID`",
        "gpus_per_node": "request GPUs per slot: `--resource gpu=1`; `qconf -sc` tells what the cluster calls them",
        "gres": "request GPUs per slot: `--resource gpu=1`; `qconf -sc` tells what the cluster calls them",
        "gpus_per_task": "request GPUs per slot: `--resource gpu=1`; `qconf -sc` tells what the cluster calls them",
        "dependency": "use `--sge-opt hold_jid=1234`",
        "mail_type": "use `--sge-opt m=ea`",
        "mail_user": "use `--sge-opt M=ADDRESS`",
        "cpus_per_task": "use `--slots N`: the slots of a node are its cores in most clusters",
        "exclusive": "use `--resource exclusive=true` where the cluster has such a resource",
        "signal_before": "with `--time`, ranks that handle SIGUSR1 get it 120s before",
        "output": "each rank has its log: `muster logs RUN --rank N`",
        "error": "each rank has its log: `muster logs RUN --rank N --stderr`",
        "place": "choose a parallel environment with `--pe NAME`",
        "chunk": "use `--resource NAME=VALUE`, per slot",
        "expedite": "leave it out: muster does not continue jobs of Grid Engine",
        "wait_all_nodes": "leave it out: Grid Engine starts a job when it has all of its nodes",
        "distribution": "leave it out: ranks are in order, node by node",
        "requeue": "leave it out: muster does not continue jobs of Grid Engine",
    },
)
