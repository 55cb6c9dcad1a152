"""Translation of a run's options to a request for sbatch, and to the terms that hold inside a job."""

from __future__ import annotations

import math

from muster.config.record import Option, Options
from muster.config.values import Warn, limit_of
from muster.core.layout import check_sizes
from muster.errors import InvalidRequest
from muster.schedulers import slurm_batch, slurm_jobs, slurm_values
from muster.schedulers._shared import refuse_inside, refuse_ours
from muster.schedulers.scheduler import Allocation, JobTerms, Request, Wish
from muster.schedulers.slurm_options import RUN

_PASSED = (
    *(RUN.partition, RUN.account, RUN.qos, RUN.time, RUN.mem, RUN.nodelist, RUN.constraint, RUN.comment),
    *(RUN.gpus_per_node, RUN.gres, RUN.cpus_per_task, RUN.reservation, RUN.dependency, RUN.mail_type, RUN.mail_user),
    RUN.wait_all_nodes,
)
"""Options that are passed to sbatch under the same name."""

_TABLE = "slurm"
"""Table of muster.toml with options under sbatch's names."""


def request(wish: Wish, options: Options) -> Request:
    """Return the request for sbatch; raises `InvalidRequest`."""
    wanted = {name: _word(value, f"[{_TABLE}] {name}") for name, value in options.table_of(_TABLE).items()}
    for option in _PASSED:
        if options.given(option):
            wanted[option.key.replace("_", "-")] = str(options.value(option))
    if options.value(RUN.expedite) and not options.value(RUN.requeue):
        raise InvalidRequest("--expedite requires --requeue", "add `--requeue 5`")
    if options.value(RUN.exclusive):
        wanted["exclusive"] = ""
    if wish.gpus is not None:
        wanted["gpus"] = wish.gpus
    wanted.update(_gpus_of_ranks(wish, options))
    for item in options.value(RUN.slurm_opt):
        name, _, value = item.partition("=")
        wanted[name.lstrip("-").replace("_", "-")] = value
    for name in wanted:
        refuse_ours(name, slurm_batch.OURS, "--slurm-opt", "sbatch")
        if name in ("clusters", "cluster", "M"):
            raise InvalidRequest(
                f"--slurm-opt {name}: muster submits to the cluster of this machine only",
                "run muster on a login node of that cluster",
            )
    said = {name: value for name, value in wanted.items() if value is not None}
    _check_warning(options, said.get("time", ""))
    nodelist = said.get("nodelist", "")
    nodes, tasks = _size(wish, nodelist)
    if wish.spares and nodes is not None:
        nodes += wish.spares
        said["no-kill"] = ""  # the job keeps running on its other nodes when it loses one
    said.update(slurm_batch.dependencies(wish.after, said.get("dependency", "")))
    unsaid = tasks is None and not said.keys() & {"cpus-per-task", "exclusive", "cpus-per-gpu"}
    if unsaid and wish.each is not None and wish.each.isdigit():
        said["cpus-per-task"] = wish.each  # a core for each rank unless requested otherwise
    return Request(
        name=wish.name,
        nodes=nodes,
        options=tuple(said.items()),
        output=slurm_batch.output_in(wish.run_dir, bool(wish.array)),
        before=math.ceil(_warning(options).seconds),
        requeue=("expedite" if options.value(RUN.expedite) else "yes") if options.value(RUN.requeue) else "",
        tasks=tasks,
        nodelist=_named(options.value(RUN.nodelist) or ""),
        array=wish.array,
    )


def _named(nodelist: str) -> tuple[str, ...]:
    """Return the nodes of a list; empty for a path, which sbatch reads as a file of names."""
    return () if "/" in nodelist else tuple(slurm_values.unfold_nodes(nodelist))


def _warning(options: Options) -> Warn:
    """Return the warning that ranks get before the time limit. Raises `InvalidRequest`."""
    found = options.value(RUN.signal_before)
    most = slurm_jobs.LONGEST_WARNING
    if found.seconds > most:
        raise InvalidRequest(
            f"--signal-before {found.seconds:g}s: Slurm sends signals at most {most}s before the time limit",
            f"use `--signal-before {most}s` or less",
        )
    return found


def _check_warning(options: Options, limit: str) -> None:
    """Raise `InvalidRequest` if ranks would get the warning as soon as they start."""
    whole = limit_of(limit)
    before = _warning(options).seconds
    if options.given(RUN.signal_before) and whole is not None and before >= whole:
        raise InvalidRequest(
            f"--signal-before {before:g}s with a time limit of {whole:g}s: ranks would get the signal "
            "as soon as the job starts",
            f"use less than {whole:g}s, or a longer --time",
        )


def _word(value: object, what: str) -> str | None:
    """Convert a value from muster.toml for sbatch: empty for an option without a value, None to omit the option."""
    if isinstance(value, bool):
        return "" if value else None
    if isinstance(value, (dict, list)):
        raise InvalidRequest(f"{what}: not a single value", "write a string, as after the option of sbatch")
    return str(value)


def _gpus_of_ranks(wish: Wish, options: Options) -> dict[str, str]:
    """Return sbatch's options for `--gpus-per-task 1`: sbatch's task is the agent of a node, the user's is a rank."""
    each = options.value(RUN.gpus_per_task)
    if each is None:
        return {}
    if each != 1:
        raise InvalidRequest(
            f"--gpus-per-task {each}: only 1 is supported",
            "use `-g RANKS --gpus-per-node GPUS`: every rank sees all GPUs of its node",
        )
    if wish.each is not None and wish.each.isdigit():
        return {"gpus-per-node": wish.each}
    if wish.ranks is not None:
        return {"gpus": str(wish.ranks)}
    raise InvalidRequest("--gpus-per-task 1 requires the number of ranks", "add `-g RANKS_PER_NODE` or `-n RANKS`")


def _size(wish: Wish, nodelist: str) -> tuple[int | None, int | None]:
    """Return (nodes, tasks) to request; None for what Slurm chooses."""
    nodes = wish.nodes
    if nodes is None and nodelist:
        nodes = len(_named(nodelist)) or None
    ranks, each = wish.ranks, wish.each
    if nodes is not None:
        check_sizes(nodes, each, ranks, f"-N {nodes}" if wish.nodes is not None else f"--nodelist {nodelist}")
    if nodes is None and ranks is not None and each is not None and each.isdigit():
        return -(-ranks // int(each)), None
    if ranks is not None and each is None:
        return nodes, ranks
    if nodes is None and wish.gpus is not None:
        return None, None
    return nodes or 1, None


def terms(options: Options) -> JobTerms:
    """Return the terms that hold inside a job, whoever submitted it. Raises `InvalidRequest`."""
    warning = _warning(options)
    return JobTerms(
        signal=warning.signal,
        before=warning.seconds,
        chosen=options.given(RUN.signal_before),
        requeue=options.value(RUN.requeue),
        output=options.value(RUN.output) or "",
        error=options.value(RUN.error) or "",
    )


_HOLD_INSIDE = (RUN.slurm, RUN.nodelist, RUN.signal_before, RUN.requeue, RUN.output, RUN.error)


def check_inside(allocation: Allocation, options: Options) -> None:
    """Raise `InvalidRequest` for options that request nodes, which an allocation already has."""
    asking: list[Option[object]] = [option for option in RUN.table if option not in _HOLD_INSIDE]
    asking += [option for option in options.table if option.key == "gpus"]
    refuse_inside(asking, allocation, options)
    if options.typed(RUN.requeue):
        raise InvalidRequest(
            f"--requeue: muster cannot requeue job {allocation.job}, which it did not submit",
            "submit the run from outside the job, or use `#SBATCH --requeue`",
        )
