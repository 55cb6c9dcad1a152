"""What several schedulers have in common: questions, sizes, time limits, options of their submit programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

from muster.agent.bootstrap import shell_script
from muster.config.record import Option, Options
from muster.config.values import limit_of
from muster.core.layout import check_sizes
from muster.core.plurals import listed
from muster.errors import ControlError, InvalidRequest
from muster.linux.shell import join, quote
from muster.schedulers import takers
from muster.schedulers.scheduler import JOB_ID, After, Allocation, Ask, JobTerms, Refusal, Request, Wish

T = TypeVar("T")

WARN_BEFORE = 120.0
"""Seconds before the time limit at which ranks that handle SIGUSR1 get it; at most a quarter of the limit."""


def ask(argv: Sequence[str], read: Callable[[str], T]) -> Ask[T]:
    """Return a question that is answered on stdout."""
    return Ask(argv, lambda answer: read(answer.out))


def job_id(out: str) -> str:
    """Return the id of a submitted job, the last line: a site may print its own text before.

    In a federation sbatch prints `12;cluster`. Raises `ControlError` for anything that is no id: it will be passed to
    the command that cancels the job.
    """
    last = (out.strip().splitlines() or [""])[-1].partition(";")[0].strip()
    if not JOB_ID.fullmatch(last):
        raise no_id(last)
    return last


def no_id(said: str) -> ControlError:
    """Return the error for a submission whose output has no job id."""
    return ControlError(
        f"the job was submitted, but its id is unknown: the command printed `{said[:60]}`",
        "list your jobs, and cancel this one",
    )


def seconds_of(text: str) -> float | None:
    """Return `3600`, `1:00:00` or `::30` in seconds; None for `INFINITY` and other words."""
    parts = text.strip().split(":")
    if len(parts) > 3 or not any(parts) or not all(re.fullmatch("[0-9]{0,12}", part) for part in parts):
        return None
    numbers = [int(part or 0) for part in parts]
    return float(sum(number * 60**power for power, number in enumerate(reversed(numbers))))


def terms(options: Options) -> JobTerms:
    """Return the terms that hold inside a job with the time limit of `--time`."""
    return terms_of(time_limit(options))


def terms_of(limit: float | None) -> JobTerms:
    """Return the terms that hold inside a job: ranks are warned before a time limit, in seconds, that was set here."""
    return JobTerms() if limit is None else JobTerms(before=min(WARN_BEFORE, limit / 4), chosen=True)


def check_inside(name: str, allocation: Allocation, options: Options) -> None:
    """Raise `InvalidRequest` for options of the scheduler `name` that describe a new job, inside an existing one."""
    refuse_inside([option for option in options.table if name in takers(option)], allocation, options)


def refuse_inside(table: Iterable[Option[Any]], allocation: Allocation, options: Options) -> None:
    """Raise `InvalidRequest` if any of these options was typed, as they describe a new job."""
    made = [option.long_name for option in table if options.typed(option)]
    if made:
        hint = "leave them out" if len(made) > 1 else "leave it out"
        if "--time" in made:
            hint += "; to limit the duration of the run, use `--timeout 1h`"
        what = f"{', '.join(made)}: not available inside job {allocation.job}"
        raise InvalidRequest(f"{what}, which already has its nodes", hint)


def sizes(wish: Wish, chosen: int | None, title: str, option: str) -> tuple[int | None, int]:
    """Return the number of nodes, None if the scheduler chooses it, and the number of slots of all together.

    `chosen`: the slots of each node, by the `option` of this scheduler, whose name for users is `title`.
    """
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
            f"-g {wish.each}: the number of slots has to be known when a job is submitted to {title}",
            f"set the number of ranks per node, for example `-g 8`, or the slots per node with `{option}`",
        )
    return nodes, nodes * (chosen or each or 1)


class Size(NamedTuple):
    """What a job needs, where a scheduler counts cores and GPUs per node."""

    nodes: int | None
    """None if the scheduler chooses."""
    ranks: int
    each: int
    """Ranks on each node."""
    cores: int
    """Cores of each node."""
    gpus: int
    """GPUs of each node."""
    memory: int
    """Megabytes of each node; 0 for what the scheduler gives."""


def size_of(wish: Wish, options: Options, title: str, gpu_type: str) -> Size:
    """Return the size of a job by options that several schedulers have. Raises `InvalidRequest`.

    `gpu_type`: an example of an option that requests nodes with a type of GPU.
    """
    refuse_spares(wish, title)
    if wish.gpus is not None:
        raise InvalidRequest(
            f"--gpus {wish.gpus}: {title} counts GPUs per node, not per job", "use `--gpus-per-node N`"
        )
    cores, memory = value_of(options, "cpus_per_task"), value_of(options, "mem")
    kind, _, gpus = str(value_of(options, "gpus_per_node") or "").rpartition(":")
    if kind:
        raise InvalidRequest(
            f"--gpus-per-node {kind}:{gpus}: muster does not request a type of GPU from {title}",
            f"use `--gpus-per-node {gpus}`, and request nodes with this type, e.g. with `{gpu_type}`",
        )
    if wish.each in ("auto", "cpu"):
        per_node = (gpus if wish.each == "auto" else "") or str(cores or "")
        if not per_node:
            more = "`--gpus-per-node N` or " if wish.each == "auto" else ""
            raise InvalidRequest(
                f"-g {wish.each}: the number of cores of a node has to be known when a job is submitted to {title}",
                f"add {more}`--cpus-per-task N`, or set the number of ranks per node, for example `-g 8`",
            )
        wish = wish._replace(each=per_node)
    if wish.each == "gpu" or (wish.each is None and wish.ranks is None and gpus):
        if not gpus.isdigit():
            raise InvalidRequest("-g gpu: the number of GPUs of a node has to be known", "add `--gpus-per-node N`")
        wish = wish._replace(each=gpus)
    nodes, ranks = sizes(wish, None, title, "--cpus-per-task")
    for option, value in (("--gpus-per-node", gpus), ("--cpus-per-task", cores), ("--mem", memory)):
        if nodes is None and value:
            raise InvalidRequest(
                f"{option} {value}: it is counted per node, and the number of nodes is not set", "add `-N NODES`"
            )
    each = ranks // nodes if nodes is not None else 1
    return Size(nodes, ranks, each, int(cores or each), number(gpus), _requested_memory(str(memory or ""), title))


def request_of(wish: Wish, size: Size, options: Sequence[tuple[str, str]], output: str) -> Request:
    """Return the request for a job of this size with these options, which writes its output to this file."""
    return Request(plain_name(wish.name), size.nodes, tuple(options), output=output, tasks=size.ranks)


def _requested_memory(text: str, title: str) -> int:
    """Return the megabytes of `--mem`, where a number without a unit is megabytes; 0 if it is not given."""
    found = int(text) if re.fullmatch("[0-9]{1,15}", text) else megabytes(text)
    if text and not found:
        raise InvalidRequest(
            f"--mem {text}: not an amount of memory that can be requested from {title}", "write it like `64G`"
        )
    return found


def time_limit(options: Options) -> int | None:
    """Return the time limit of `--time` in seconds; None for that of the queue. Raises `InvalidRequest`."""
    text = str(value_of(options, "time") or "0")
    found = limit_of(text)
    if found is None:
        raise InvalidRequest(f"--time {text}: not a length of time", "leave it out for the limit of the queue")
    return int(found) or None


def script_of(
    said: str,
    env_file: str,
    setup: Sequence[str],
    command: Sequence[str],
    keep_python: bool,
    signals: str,
    caught: str = "USR1 USR2 INT TERM",
    end: str = "exit $?",
) -> str:
    """Return a batch script: the job's environment if it is in a file, the user's setup lines, and muster.

    `said` is the command line with the options, on one line. They are on that alone: lines of a user's setup that look
    like options must not be read as such. The first word of `command` is a Python; for `keep_python` see
    `shell_script`. `signals` begins the remark about signals, as in `NAME may signal`; `caught` are those that the
    script survives, `end` are its last lines, after the exit status of muster.
    """
    file = quote(env_file)
    start = shell_script(command, setup, keep_python, "error: ").rstrip() if setup else f"exec {join(command)}"
    return _HEAD.format(
        login=" -l" if setup else "",
        said=said,
        environment=f". {file} && rm -f {file}\n" if env_file else "",
        start=start,
        signals=signals,
        caught=caught,
        end=end,
    )


_HEAD = """#!/bin/bash{login}
# submitted with: {said}
{environment}# {signals} all processes of the job; muster decides what to do
trap : {caught}
(
{start}
)
{end}
"""


def own_options(
    table: Mapping[str, Any], typed: Sequence[str], ours: Mapping[str, str], option: str, program: str
) -> list[tuple[str, str]]:
    """Return options of the submit program (name, value): those of a table of muster.toml, and those `typed`.

    A typed name takes the place of the table's; it may be typed several times. Raises `InvalidRequest` for those that
    muster sets itself, `ours`.
    """
    own = [item.lstrip("-").partition("=")[::2] for item in typed]
    named = {name for name, _ in own}
    kept = [(name, "" if value is True else str(value)) for name, value in table.items() if name not in named]
    found = [*kept, *own]
    for name, _ in found:
        refuse_ours(name, ours, option, program)
    return found


def refuse_ours(name: str, ours: Mapping[str, str], option: str, program: str) -> None:
    """Raise `InvalidRequest` if muster sets the option `name` of the submit program itself.

    `ours`: these options, each with the options of muster to use instead, separated by commas; empty for none.
    """
    if name in ours:
        instead = listed((f"`{word}`" for word in filter(None, ours[name].split(", "))), "or")
        hint = f"use {instead} of muster" if instead else "leave it out: muster sets it"
        raise InvalidRequest(f"{option} {name}: muster sets this option of {program} itself", hint)


def values_under(names: Mapping[str, str], options: Options) -> list[tuple[str, str]]:
    """Return the values of the options with these keys, as far as they are given, under the names that go with them."""
    found = ((name, value_of(options, key)) for key, name in names.items())
    return [(name, str(value)) for name, value in found if value]


def dashed(options: Iterable[tuple[str, str]]) -> list[str]:
    """Return options as words: `-N name -V`."""
    return [word for name, value in options for word in (f"-{name}", *([value] if value else []))]


def refusal(err: str, before: str, hints: Iterable[tuple[str, str]]) -> Refusal:
    """Return why a submit program rejected a job: the last line of its `err` without the pattern `before`.

    `hints` has texts, the first of which that occurs in `err` decides the hint.
    """
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    words = re.sub(before, "", lines[-1]) if lines else "no error message"
    return Refusal(words, next((hint for said, hint in hints if said in err), None))


def refuse_spares(wish: Wish, title: str) -> None:
    """Raise `InvalidRequest`: the jobs of this scheduler do not survive the loss of a node."""
    if wish.spares:
        raise InvalidRequest(
            f"--spare-nodes {wish.spares}: a job of {title} does not survive the loss of a node", "leave it out"
        )


def ended(after: Sequence[After], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the scheduler's name for how a job has to end, and the job."""
    return ((names[one.how], one.job) for one in after)


def plain_name(name: str, most: int = 200) -> str:
    """Return a job name without characters that schedulers reject, not beginning with a digit."""
    kept = re.sub(r"[^\w.,=+-]", "_", name)[:most] or "muster"
    return kept if re.match(r"[^\W\d]", kept) else f"_{kept}"[:most]


def failed_steps(said: str) -> dict[str, str]:
    """Return the hosts on which a step has failed, and how, as `fanned_out` prints it."""
    return dict(re.findall(r"^step: (\S+): (exit status \d+)$", said, re.MULTILINE))


_FAN_OUT = r"""
host_variable=$1 drop=$2 hosts=$3 tasks=; shift 3
first=@FIRST@
trap '' USR1 USR2
trap 'trap "" TERM; kill -TERM 0' TERM
last=${!#}
[ -d "$last" ] || last=$HOME
file=$(mktemp "$last/.env.XXXXXX") || exit 1
trap 'rm -f "$file"' EXIT
for name in $(compgen -e); do
  [[ $name =~ ^($drop)$ ]] || declare -p "$name"
done >"$file"
for host in $hosts; do
  (
    trap - EXIT
    if [ "$host" = "$first" ]; then
      export "$host_variable=$host"
      (exec "$@" </dev/null)
    else
      @START@ /bin/bash -c 'trap "" USR1 USR2; . "$1"; export "$2=$3"; shift 3; exec "$@" </dev/null' \
        bash "$file" "$host_variable" "$host" "$@"
    fi
    code=$?
    [ $code = 0 ] || echo "step: $host: exit status $code" >&2
    exit $code
  ) &
  tasks="$tasks $!"
done
code=0
for task in $tasks; do wait "$task" || code=$?; done
exit $code
"""


def fanned_out(
    start: str, variable: str, drop: str, first: str, hosts: Sequence[str], command: Sequence[str]
) -> list[str]:
    """Return a command that starts another one on each host of a job, with the environment of this process.

    `start`: shell words that start a program on `$host`. `variable`: gets the name of the host. `drop`: pattern of
    variables that each host has for itself. `first`: the host where this is run, as a shell word; no task is started
    there. The environment is passed in a file that only the user can read, in the directory that is the last word of
    the command, or at home: command lines and what schedulers pass are visible to other users.
    """
    script = _FAN_OUT.replace("@START@", start).replace("@FIRST@", first)
    return ["bash", "-c", script, "bash", variable, drop, " ".join(hosts), *command]


def over_ssh(variable: str, host: str, command: Sequence[str]) -> list[str]:
    """Return a command that starts another one on a host of a job by ssh, with stdin: many clusters allow that to users
    with a job there, and no program of the scheduler does."""
    words = join(["env", f"{variable}={host}", *command])
    return ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", "--", host, words]


def value_of(options: Options, key: str) -> Any:
    """Return the value of an option by its key; None if there is no such option, or it is not given."""
    option = options.option(key)
    return options.value(option) if option is not None and options.given(option) else None


def counted(names: Iterable[str]) -> dict[str, int]:
    """Return how often each name occurs, in the order of their first occurrence: a file that lists a host once for each
    slot."""
    found: dict[str, int] = {}
    for name in filter(None, map(str.strip, names)):
        found[name] = found.get(name, 0) + 1
    return found


def number(value: Any) -> int:
    """Return the whole number of a value; 0 for other words."""
    found = re.match("[0-9]{1,15}", str(value).strip())
    return int(found[0]) if found else 0


def megabytes(text: str) -> int:
    """Return the megabytes of `256gb`, `16384kb` or `23.5G`; 0 for words."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]*)?)([kmgt]?)b?", text.strip(), re.IGNORECASE)
    return int(float(found[1]) * 1024.0 ** ("bkmgt".index((found[2] or "b").lower()) - 2)) if found else 0
