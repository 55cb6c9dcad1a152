"""Translation of a run's options to a request for qsub, and the choice of a parallel environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from muster.config.record import Options
from muster.config.values import clock_of
from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.schedulers import _shared
from muster.schedulers.scheduler import After, Answer, Ask, JobTerms, Request, Wish
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


def request(wish: Wish, options: Options) -> Request:
    """Return the request for qsub, without a parallel environment unless one is named; raises `InvalidRequest`."""
    if wish.gpus is not None:
        raise InvalidRequest(
            f"--gpus {wish.gpus}: Grid Engine counts GPUs per slot, not per job",
            "use `--resource gpu=1`, one GPU for each slot; `qconf -sc` tells what the cluster calls them",
        )
    _shared.refuse_spares(wish, "Grid Engine")
    nodes, slots = _shared.sizes(wish, options.value(RUN.slots), "Grid Engine", "--slots")
    waits = ",".join(_ended_however(one) for one in wish.after)
    return Request(
        name=_shared.plain_name(wish.name),
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
    given = _shared.own_options(options.table_of(_TABLE), options.value(RUN.sge_opt), OURS, "--sge-opt", "qsub")
    for option, name in ((RUN.pe, "pe"), (RUN.queue, "q"), (RUN.project, "P")):
        if options.given(option):
            given = [one for one in given if one[0] != name]
            yield name, str(options.value(option))
    for resource in options.value(RUN.resource):
        yield "l", resource
    time_limit(options)  # raises if there are two
    if (limit := _shared.time_limit(options)) is not None:
        yield "l", f"h_rt={clock_of(limit)}"
    if not any(name == "w" for name, _ in given):
        yield "w", "e"
    yield from given


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
                    int(slots) if re.fullmatch("[0-9]{1,9}", slots) else 0,
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

    return Ask(("sh", "-c", LIST, "qconf"), read)


# ---- inside a job ---------------------------------------------------------------------------------------------------


def time_limit(options: Options) -> float | None:
    """Return the time limit in seconds that `--time` or `--resource h_rt=…` sets; None for none.

    Raises `InvalidRequest` if both do.
    """
    limit, resource = _shared.time_limit(options), _limit_in_resources(options)
    if limit is not None and resource is not None:
        raise InvalidRequest("--time cannot be combined with --resource h_rt=…", "leave out one of them")
    return resource if limit is None else float(limit)


def _limit_in_resources(options: Options) -> float | None:
    for item in options.value(RUN.resource):
        for name, _, value in (part.partition("=") for part in item.split(",")):
            if name.strip() == "h_rt" and (found := _shared.seconds_of(value)) is not None:
                return found
    return None


def terms(options: Options) -> JobTerms:
    """Return the terms that hold inside a job."""
    return _shared.terms_of(time_limit(options))
