"""Options that apply only to PBS, and the names qsub has for them."""

from __future__ import annotations

from muster.config import values
from muster.config.record import Options, flag, optional, repeated
from muster.schedulers import SchedulerOptions, Unlike

_GROUP = "PBS"


class RUN(Options):
    """Options of `muster run` and `muster plan` for PBS."""

    pbs = flag(
        ("--pbs",),
        "run as a PBS job on `--nnodes` nodes; inside a job, run on its nodes (not tried on a real PBS)",
        group=_GROUP,
    )
    place = optional(
        ("--place",), "placement of chunks on nodes, e.g. `scatter:excl`", "PLACE", values.text, "scatter", group=_GROUP
    )
    chunk = repeated(
        ("--chunk",),
        "more resources of each node, e.g. `gpu_model=a100`; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )
    pbs_opt = repeated(
        ("--pbs-opt",),
        "any other option of qsub, e.g. `M=ann@example.org`; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )


OPTIONS = SchedulerOptions(
    run=RUN,
    program="qsub",
    names={"project": ("-P",), "account": ("-A",)},
    unlike={"-q": Unlike("--queue")},
    borrows=("time", "queue", "project", "account", "mem", "gpus_per_node", "cpus_per_task"),
    instead={
        "partition": "choose a queue with `--queue NAME`",
        "qos": "choose a queue with `--queue NAME`, or a priority with `--pbs-opt p=-100`",
        "nodelist": "use `--chunk host=NAME`",
        "constraint": "request a resource of each node with `--chunk NAME=VALUE`",
        "comment": "leave it out, or use `--name NAME`",
        "pe": "leave it out: `-N` and `-g` give the nodes and their cores",
        "reservation": "submit to the queue of the reservation with `--queue R123`",
        "gres": "use `--gpus-per-node N`, or `--chunk NAME=VALUE`",
        "gpus_per_task": "use `--gpus-per-node N`",
        "resource": "use `--chunk NAME=VALUE` for each node, `--time` for the time limit",
        "slots": "use `--cpus-per-task N`, the cores of each node",
        "signal_before": "with `--time`, ranks that handle SIGUSR1 get it 120s before the limit",
        "dependency": "use `--after RUN`, or `--pbs-opt W=depend=afterok:1234`",
        "mail_type": "use `--pbs-opt m=ae`",
        "mail_user": "use `--pbs-opt M=ADDRESS`",
        "exclusive": "use `--place scatter:excl`",
        "output": "each rank has its log: `muster logs RUN --rank N`",
        "error": "each rank has its log: `muster logs RUN --rank N --stderr`",
        "requeue": "leave it out: muster does not continue jobs of PBS",
        "expedite": "leave it out: muster does not continue jobs of PBS",
        "wait_all_nodes": "leave it out: PBS starts a job when it has all of its nodes",
        "distribution": "leave it out: ranks are in order, node by node",
    },
)
