"""Placement of ranks on nodes, and sets of ranks as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from muster.core.model import Host, Node, Rank
from muster.core.plurals import plural
from muster.errors import InvalidRequest


def layout(hosts: Iterable[tuple[Host, int]]) -> tuple[Node, ...]:
    """Number the ranks host by host, in the given order, each with its number of ranks. Raises `InvalidRequest`."""
    hosts = tuple(hosts)
    world = sum(count for _, count in hosts)
    if world > _MOST:
        raise InvalidRequest(f"world size {world} exceeds the maximum of {_MOST} ranks", "use fewer ranks")
    nodes: list[Node] = []
    first = 0
    for index, (host, count) in enumerate(hosts):
        ranks = tuple(
            Rank(
                rank=first + local,
                local_rank=local,
                node=index,
                world_size=world,
                local_world_size=count,
                nodes=len(hosts),
                cpus=host.cpus[local] if local < len(host.cpus) else (),
            )
            for local in range(count)
        )
        nodes.append(Node(index, host, ranks))
        first += count
    return tuple(nodes)


_MOST = 1_000_000


def fold(numbers: Iterable[int]) -> str:
    """Return a set of ranks as text: `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def unfold(text: str, what: str = "ranks") -> tuple[int, ...]:
    """Parse a set of ranks as written by `fold`, with parts in any order. Raises `InvalidRequest`."""
    numbers: list[int] = []
    for piece in text.replace(" ", "").split(","):
        first, dash, last = piece.partition("-")
        ends = (first, last) if dash else (first,)
        if not all(map(re.compile("[0-9]{1,18}").fullmatch, ends)) or (dash and int(last) < int(first)):
            raise InvalidRequest(f"invalid {what}: `{text}`", "write them as `0,4-7`")
        if int(last or first) > _MOST:
            raise InvalidRequest(f"invalid {what}: `{text}`: {last or first} is too large", f"the maximum is {_MOST}")
        numbers.extend(range(int(first), int(last if dash else first) + 1))
    return tuple(dict.fromkeys(numbers))


def named(ranks: Iterable[int]) -> str:
    """Return ranks for a sentence: `rank 3`, or `ranks 0-2,5`."""
    numbers = sorted(set(ranks))
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {fold(numbers)}"


def fill(template: str, values: Mapping[str, object], option: str) -> str:
    """Fill in `{rank}` and the like in the user's value of `option`. Raises `InvalidRequest`."""
    try:
        for _, name, spec, _ in Formatter().parse(template):
            if name is not None and (name not in values or re.search("[0-9]{4}", spec or "")):
                raise KeyError(name)  # also for a width that would fill the memory
        return template.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        known = ", ".join("{" + name + "}" for name in values)
        raise InvalidRequest(
            f"invalid placeholder in `{option} {template}`", f"use {known}; write a literal brace as `{{{{`"
        ) from None


class Starter(NamedTuple):
    """A launcher that may have started muster itself, as one of several processes unaware of each other."""

    name: str
    rank: str
    """Environment variable with the number of the process."""
    size: str
    """Environment variable with the number of processes."""
    command: str
    """Pattern of the command line of the launcher's process, which is the parent of what it starts."""
    needs: str = ""
    """Another environment variable that it sets."""


FOREIGN = (
    Starter("muster", "RANK", "WORLD_SIZE", r"^\S+ -I -S -c f=open\(0"),
    Starter(
        "torchrun",
        "RANK",
        "WORLD_SIZE",
        r"^(\S*python\S* (-\S+ )*)?(\S*/)?(torchrun|accelerate|deepspeed)( |$)"
        r"|^\S*python\S* (-\S+ )*-m (torch\.distributed\.(run|launch)|accelerate\.|deepspeed\.)",
    ),
    # a batch script has the number of tasks too, but is a single process outside of any step
    Starter("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", r"^(\S*/)?slurmstepd\b", needs="SLURM_STEP_ID"),
    Starter(
        "Open MPI's mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        r"^(\S*/)?(mpirun|mpiexec|orterun|orted|prte|prted|prterun)\b",
    ),
    Starter("MPICH's mpiexec", "PMI_RANK", "PMI_SIZE", r"^(\S*/)?(hydra_pmi_proxy|mpiexec|mpirun)\b"),
)

_SHELL = re.compile(r"^-?(\S*/)?(ba|da|z|k|fi|tc|c)?sh$")
_PYTHON = re.compile(r"^(\S*/)?python[\d.]*$")
_RUNNER = re.compile(r"\b(conda|mamba|micromamba|poetry|pipenv|uv|hatch|pdm|tox|nox|muster)\b")
"""Python programs that run another program, as a shell does; including muster itself."""


def started_by(env: Mapping[str, str], ancestors: Sequence[Sequence[str]]) -> tuple[str, int] | None:
    """Return the launcher that started this process as one of several, and their number; None otherwise.

    A launcher's environment variables alone prove nothing: a shell may have kept them, and children of a rank inherit
    them. So one of the `ancestors`' command lines, from the parent on, must be that launcher, with only shell scripts
    and the like between it and muster: no interactive shell and no training script.
    """
    for words in ancestors:
        line = " ".join(words)
        for starter in FOREIGN:
            told = env.get(starter.size, "")
            several = starter.rank in env and told.isdigit() and int(told) > 1
            if several and (not starter.needs or starter.needs in env) and re.search(starter.command, line):
                return starter.name, int(told)
        at_a_prompt = _SHELL.match(words[0]) and all(word.startswith("-") and word != "-c" for word in words[1:])
        if at_a_prompt or (_PYTHON.match(words[0]) and not _RUNNER.search(line)):
            return None
    return None


def check_sizes(nodes: int, each: str | None, total: int | None, source: str) -> None:
    """Raise `InvalidRequest` if `-n` ranks do not fit this many nodes with `-g` ranks each.

    `source` names the option that gives the number of nodes.
    """
    if total is None:
        return
    if total < nodes:
        raise InvalidRequest(
            f"-n {total} with {source}: {nodes} nodes require at least {nodes} ranks", f"use `-N {total}`"
        )
    if each is None or not each.isdigit():
        return
    if total > nodes * int(each):
        raise InvalidRequest(
            f"-n {total} with {source} and -g {each}: these nodes hold {plural(nodes * int(each), 'rank')}",
            "leave out one of them",
        )
    needed = -(-total // int(each))
    if needed < nodes:
        raise InvalidRequest(
            f"-n {total} with {source} and -g {each} leaves {plural(nodes - needed, 'node')} without a rank",
            f"use `-N {needed}`, or leave out one of them",
        )
