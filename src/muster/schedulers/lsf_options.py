"""Options that apply only to LSF, and the names bsub has for them."""

from __future__ import annotations

from muster.config import values
from muster.config.record import Options, flag, repeated
from muster.schedulers import SchedulerOptions, Unlike

_GROUP = "LSF"


class RUN(Options):
    """Options of `muster run` and `muster plan` for LSF."""

    lsf = flag(
        ("--lsf",),
        "run as an LSF job on `--nnodes` hosts; inside a job, run on its hosts (not tried on a real LSF)",
        group=_GROUP,
    )
    lsf_opt = repeated(
        ("--lsf-opt",),
        "any other option of bsub, e.g. `R=select[type==X86_64]`; repeatable",
        "NAME[=VALUE]",
        values.text,
        group=_GROUP,
    )


OPTIONS = SchedulerOptions(
    run=RUN,
    program="bsub",
    names={"project": ("-P",)},
    # -W is no other name of --time: bsub reads `-W 4:00` as hours and minutes
    unlike={"-q": Unlike("--queue"), "-n": Unlike("--np")},
    borrows=("time", "queue", "project", "mem", "gpus_per_node", "cpus_per_task", "exclusive", "nodelist"),
    instead={
        "partition": "choose a queue with `--queue NAME`",
        "account": "charge a project with `--project NAME`",
        "qos": "choose a queue with `--queue NAME`, or a service class with `--lsf-opt sla=NAME`",
        "constraint": "use `--lsf-opt 'R=select[NAME]'`",
        "reservation": "use `--lsf-opt U=NAME`",
        "gres": "use `--gpus-per-node N`",
        "gpus_per_task": "use `--gpus-per-node N`",
        "resource": "use `--lsf-opt 'R=rusage[NAME=VALUE]'`, and `--time` for the time limit",
        "chunk": "use `--lsf-opt 'R=rusage[NAME=VALUE]'`",
        "place": "leave it out: each host has as many slots as ranks; `--exclusive` takes whole hosts",
        "pe": "leave it out: `-N` and `-g` give the hosts and their slots",
        "slots": "use `--cpus-per-task N`, the cores of each host",
        "signal_before": "with `--time`, ranks that handle SIGUSR1 get it 120s before the limit",
        "dependency": "use `--after RUN`, or `--lsf-opt 'w=done(1234)'`",
        "mail_type": "use `--lsf-opt N` for a mail at the end",
        "mail_user": "use `--lsf-opt u=ADDRESS`",
        "comment": "use `--lsf-opt Jd=TEXT`",
        "output": "each rank has its log: `muster logs RUN --rank N`",
        "error": "each rank has its log: `muster logs RUN --rank N --stderr`",
        "requeue": "leave it out: muster does not continue jobs of LSF",
        "expedite": "leave it out: muster does not continue jobs of LSF",
        "wait_all_nodes": "leave it out: LSF starts a job when it has all of its hosts",
        "distribution": "leave it out: ranks are in order, host by host",
    },
)
