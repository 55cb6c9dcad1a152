"""Translation of a run's options to a request for qsub, and the choice of a parallel environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from muster.config.record import Options
from muster.core.layout import check_sizes
from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.schedulers.scheduler import After, Allocation, Answer, Ask, JobTerms, Request, Wish
from muster.schedulers.sge_options import RUN

OURS = {
    "N": "--name",
    "pe": "--pe",
    "o": "",
    "e": "",
    "j": "",
    "wd": "--cwd",
    "cwd": "--cwd",
    "b": "",
    "r": "",
    "C": "",
    "S": "",
    "V": "--env",
    "v": "--env",
    "t": "",
    "terse": "",
    "notify": "",
    "sync": "",
    "shell": "",
    "@": "",
}
"""The options of qsub that muster sets itself, each with the option of muster to use instead; empty for none."""

_TABLE = "sge"
"""Table of muster.toml with options under qsub's names."""

_WARN_BEFORE = 120.0
"""Seconds before the time limit at which ranks that handle SIGUSR1 get it; at most a quarter of the limit."""


def request(wish: Wish, options: Options) -> Request:
    """Return the request for qsub, without a parallel environment unless one is named; raises `InvalidRequest`."""
    if wish.gpus is not None:
        raise InvalidRequest(
            f"--gpus {wish.gpus}: Grid Engine counts GPUs per slot, not per job",
            "use `--resource gpu=1`, one GPU for each slot; `qconf -sc` tells what the cluster calls them",
        )
    if wish.spares:
        raise InvalidRequest(
            f"--spare-nodes {wish.spares}: a job of Grid Engine does not survive the loss of a node", "leave it out"
        )
    nodes, slots = _size(wish, options.value(RUN.slots))
    waits = ",".join(_ended_however(one) for one in wish.after)
    return Request(
        name=job_name(wish.name),
        nodes=nodes,
        options=(*_options(options), *([("hold_jid", waits)] if waits else [])),
        output=_output(wish.run_dir),
        tasks=slots,
    )


def _ended_however(one: After) -> str:
    """Return a job to wait for. Raises `InvalidRequest` if it matters how it ends."""
    if one.how != "any":
        raise InvalidRequest(
            f"--after: Grid Engine starts a job when job {one.job} has ended, however that was",
            "use `--after RUN:any`",
        )
    return one.job


def _options(options: Options) -> Iterable[tuple[str, str]]:
    """Yield the options of qsub (name, value) that the user has set; `-l` may occur several times."""
    table = {name: "" if value is True else str(value) for name, value in options.table_of(_TABLE).items()}
    more = dict(item.lstrip("-").partition("=")[::2] for item in options.value(RUN.sge_opt))
    for name in (*table, *more):
        if name in OURS:
            hint = f"use `{OURS[name]}` of muster" if OURS[name] else "muster needs that option itself"
            raise InvalidRequest(f"--sge-opt {name}: muster sets this option of qsub itself", hint)
    for option, name in ((RUN.pe, "pe"), (RUN.queue, "q"), (RUN.project, "P")):
        if options.given(option):
            table.pop(name, None)
            yield name, str(options.value(option))
    for resource in options.value(RUN.resource):
        yield "l", resource
    yield from {"w": "e", **table, **more}.items()


def _size(wish: Wish, chosen: int | None) -> tuple[int | None, int]:
    """Return the number of nodes, None if Grid Engine chooses it, and the number of slots of all together."""
    each = int(wish.each) if wish.each is not None and wish.each.isdigit() else None
    nodes, ranks = wish.nodes, wish.ranks
    if nodes is not None:
        check_sizes(nodes, wish.each, ranks, f"-N {nodes}")
    if nodes is None and ranks is not None:
        if chosen is None and each is None:
            return None, ranks
        nodes = -(-ranks // (each or chosen or 1))
    nodes = nodes or 1
    if each is None and ranks is not None:
        each = -(-ranks // nodes)
    if each is None and chosen is None and wish.each is not None:
        raise InvalidRequest(
            f"-g {wish.each}: the number of slots has to be known when a job is submitted to Grid Engine",
            "set the number of ranks per node, for example `-g 8`, or the slots per node with `--slots`",
        )
    return nodes, nodes * (chosen or each or 1)


def job_name(name: str) -> str:
    """Return a name that Grid Engine accepts: without blanks and special characters, and not beginning with a digit."""
    kept = re.sub(r"[^\w.,=+-]", "_", name) or "muster"
    return kept if re.match(r"[^\W\d]", kept) else f"_{kept}"


OUTPUTS = ("sge-%j.out",)
"""The batch script's output in the run directory; `%j` is the job id."""


def _output(folder: str) -> str:
    """Return the path for `-o`, which Grid Engine splits at commas and colons, and in which it replaces `$JOB_ID`."""
    return "/dev/null" if re.search(r"[,:$\n]", folder) else f"{folder}/sge-$JOB_ID.out"


# ---- the parallel environment ---------------------------------------------------------------------------------------


class ParallelEnvironment(NamedTuple):
    """A parallel environment of the cluster."""

    name: str
    slots: int
    rule: str
    """How slots are spread over nodes: a number per node, `$pe_slots` (all on one), `$fill_up` or `$round_robin`."""
    starts_tasks: bool
    """True if its jobs may start processes on their other nodes (`control_slaves`)."""


LIST = 'for name in $(qconf -spl); do qconf -sp "$name"; done'


def parallel_environments(out: str) -> list[ParallelEnvironment]:
    """Return the parallel environments in the output of `LIST`."""
    found = []
    for text in re.split(r"^(?=pe_name\s)", out, flags=re.MULTILINE):
        keys = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
        if "pe_name" in keys:
            slots = keys.get("slots", "0").strip()
            found.append(
                ParallelEnvironment(
                    keys["pe_name"].strip(),
                    int(slots) if slots.isdigit() else 0,
                    keys.get("allocation_rule", "").strip(),
                    keys.get("control_slaves", "").strip() == "TRUE",
                )
            )
    return found


def fitting(known: Iterable[ParallelEnvironment], nodes: int | None, slots: int) -> list[ParallelEnvironment]:
    """Return the parallel environments that give a job exactly so many nodes; any nodes if that is None."""
    if nodes is None:
        rules = ["$fill_up", "$round_robin", "$pe_slots"]
    else:
        rules = [*(["$pe_slots"] if nodes == 1 else []), str(slots // nodes)]
    usable = [one for one in known if one.starts_tasks and one.slots >= slots and one.rule in rules]
    return sorted(usable, key=lambda one: rules.index(one.rule))


def complete(request: Request) -> Ask[Request]:
    """Return the question for the parallel environments, whose answer is the request with the one that fits best."""

    def read(answer: Answer) -> Request:
        if "pe" in dict(request.options):
            return request
        known, slots = parallel_environments(answer.out), request.tasks or 1
        found = fitting(known, request.nodes, slots)
        if found:
            return request._replace(options=(*request.options, ("pe", found[0].name)))
        what = plural(slots, "slot")
        if request.nodes is not None:
            what = f"{plural(slots // request.nodes, 'slot')} on each of {plural(request.nodes, 'node')}"
        others = ", ".join(f"{one.name} ({one.rule})" for one in known if one.starts_tasks)
        raise InvalidRequest(
            f"no parallel environment of Grid Engine gives a job {what}",
            f"name one with --pe, or choose other sizes with -N and -g; allocation rules here: {others}"
            if others
            else "ask an administrator for one with `control_slaves TRUE`",
        )

    return Ask(("sh", "-c", LIST), read)


# ---- inside a job ---------------------------------------------------------------------------------------------------


def time_limit(options: Options) -> float | None:
    """Return the time limit in seconds that `--resource h_rt=…` sets; None for none."""
    for item in options.value(RUN.resource):
        for name, _, value in (part.partition("=") for part in item.split(",")):
            if name.strip() == "h_rt" and (found := seconds_of(value)) is not None:
                return found
    return None


def seconds_of(text: str) -> float | None:
    """Return `3600`, `1:00:00` or `::30` in seconds; None for `INFINITY` and other words."""
    parts = text.strip().split(":")
    if len(parts) > 3 or not any(parts) or not all(part.isdigit() or not part for part in parts):
        return None
    numbers = [int(part or 0) for part in parts]
    return float(sum(number * 60**power for power, number in enumerate(reversed(numbers))))


def terms(options: Options) -> JobTerms:
    """Return the terms that hold inside a job: ranks are warned before a time limit that was set here."""
    limit = time_limit(options)
    if limit is None:
        return JobTerms()
    return JobTerms(before=min(_WARN_BEFORE, limit / 4), chosen=True)


def check_inside(allocation: Allocation, options: Options) -> None:
    """Raise `InvalidRequest` for options that request slots, which a job already has."""
    made = [option for option in RUN.table if option.key != "sge" and options.typed(option)]
    if made:
        names = ", ".join(option.long_name for option in made)
        raise InvalidRequest(
            f"{names}: not available inside job {allocation.job}, which already has its nodes",
            "leave them out" if len(made) > 1 else "leave it out",
        )
