"""Ranks that a script starts one by one: `for r in 0 1; do RANK=$r python … & done`, or a line for each. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from muster.adopt.adoption import Argument, Launch, Remark
from muster.adopt.found import Found
from muster.adopt.passes import mark, values_of
from muster.adopt.values import word_of
from muster.export._shell import quote
from muster.lint.model import Block, Script

_RANK = re.compile(r"(LOCAL_|SLURM_)?(RANK|PROCID|LOCALID)|--(local[-_]|global[-_])?rank", re.IGNORECASE)
_COUNTS = re.compile(r"for\s*\(\(\s*(\w+)\s*=\s*0\s*;\s*\1\s*<\s*\$?\{?(\w+)\}?\s*;")
SAYS = "each pass of the loop is one rank: muster starts them all, and RANK, LOCAL_RANK and WORLD_SIZE tell them"


def over_ranks(found: Found, script: Script) -> Block | None:
    """Return the loop whose passes start the ranks 0, 1, … of one run on this machine, with their number written."""
    if found.program.name != "python" or found.outer or not found.command.background or not found.command.blocks:
        return None
    block = found.command.blocks[-1]
    if block.kind != "for" or any(other.kind in ("for", "while", "until") for other in found.command.blocks[:-1]):
        return None
    counted = _COUNTS.match(script.source.text, block.span.start)
    if counted:
        number = counted[2] if counted[2].isdigit() else _assigned(script, counted[2])
        block = block._replace(variable=counted[1], items=tuple(word_of(str(at)) for at in range(int(number or 0))))
    values = values_of(block)
    if len(values) < 2 or values != [str(at) for at in range(len(values))]:
        return None
    words = [word.shown for word in found.command.argv]
    told = [item.name for item in found.command.assignments if item.value and block.variable in item.value.names]
    told += [word for word, after in zip(words, words[1:]) if re.fullmatch(rf"\$\{{?{block.variable}\}}?", after)]
    told += [word.partition("=")[0] for word in words if re.search(rf"=\$\{{?{block.variable}\}}?$", word)]
    return block if any(_RANK.fullmatch(name) for name in told) else None


def _assigned(script: Script, name: str) -> str:
    values = {item.value.text if item.value is not None else None for item in script.assigned(name)}
    value = values.pop() if len(values) == 1 else None
    return value if value is not None and value.isdigit() and int(value) <= 1000 else ""


def as_ranks(launch: Launch, block: Block) -> Launch | None:
    """Return one pass, read with `mark(block)` for the variable of the loop, as a launch of all ranks."""
    return _with_rank(launch, mark(block), len(values_of(block)))


def _with_rank(launch: Launch, marked: str, count: int) -> Launch | None:
    elsewhere = repr(launch._replace(program=(), env=(), setup=()))
    if marked in elsewhere or any(marked in line and not _EXPORT.match(line) for line in launch.setup):
        return None
    env = [(name, value) for name, value in launch.env if marked not in value]
    per_rank = [f"{name}={value}" for name, value in launch.env if marked in value]
    program = [Argument(_expanded(word.shell, marked), marked in word.shell) for word in launch.program]
    if per_rank:
        python = {"script": ["python"], "module": ["python", "-m"]}.get(launch.kind, [])
        words = [Argument(_expanded(quote(item), marked), True) for item in per_rank]
        program = [Argument("env"), *words, *map(Argument, python), *program]
    kind = "command" if per_rank else launch.kind
    return launch._replace(program=tuple(program), env=tuple(env), kind=kind, each=str(count), nodes=1, launcher="")


_EXPORT = re.compile(r"export (\w+)=")


def _expanded(shell: str, marked: str) -> str:
    """Return a word with the rank in place of the mark: `'--rank={r}'` becomes `--rank="$RANK"`."""
    if marked not in shell:
        return shell
    words = shlex.split(shell) if "$" not in shell and "`" not in shell else []
    if len(words) != 1:
        return shell.replace(f"'{marked}'", '"$RANK"').replace(marked, "$RANK")
    return '"$RANK"'.join(quote(piece) if piece else "" for piece in words[0].split(marked))


def alike(pythons: Sequence[Found]) -> list[Found]:
    """Return the last Pythons of a script, if they are the ranks of one run: all but the last in the background."""
    chosen: list[Found] = []
    for item in reversed(pythons):
        same = not chosen or (item.command.background and len(item.command.argv) == len(chosen[-1].command.argv))
        if item.outer or item.command.blocks or not same:
            break
        chosen.append(item)
    found = chosen[::-1]
    return found if len(found) > 1 and _numbered(found) else []


def _numbered(found: Sequence[Found]) -> bool:
    """Return whether words or variables count 0, 1, 2 … from one command to the next, and no other one differs."""
    rows = [[*(word.shown for word in item.command.argv), *_temporary(item)] for item in found]
    columns = list(zip(*rows))
    if len({len(row) for row in rows}) != 1 or any(not _same(column) and not _counts(column) for column in columns):
        return False
    names = [before[0] for before, column in zip(columns, columns[1:]) if _counts(column)]
    names += [column[0].partition("=")[0] for column in columns if _counts(column) and "=" in column[0]]
    return any(_RANK.fullmatch(name) for name in names)


def _temporary(item: Found) -> list[str]:
    return [f"{given.name}={given.value.shown if given.value else ''}" for given in item.command.assignments]


def _same(column: Sequence[str]) -> bool:
    return len(set(column)) == 1


def _counts(column: Sequence[str]) -> bool:
    start = column[0].rpartition("=")[0]
    start = f"{start}=" if start else ""
    return list(column) == [f"{start}{at}" for at in range(len(column))]


def joined_ranks(launches: Sequence[Launch]) -> Launch | None:
    """Return the launches of single ranks, `RANK=0 python … & RANK=1 python …`, as one of all; None if they differ."""
    first, marked = launches[0], "{rank}"
    program = []
    for words in zip(*(launch.program for launch in launches)):
        shells = [word.shell for word in words]
        if _same(shells):
            program.append(words[0])
        elif _counts(shells):
            program.append(Argument(f"{shells[0][: len(shells[0]) - 1]}{marked}"))
        else:
            return None
    env = []
    for pairs in zip(*(launch.env for launch in launches)):
        values = [value for _, value in pairs]
        if not _same([name for name, _ in pairs]) or not (_same(values) or _counts(values)):
            return None
        env.append((pairs[0][0], values[0] if _same(values) else marked))
    whole = first._replace(program=tuple(program), env=tuple(env), options=launches[-1].options)
    return _with_rank(whole, marked, len(launches))


def said_of_ranks(block: Block | None, line: int, script: Script) -> Remark:
    """Return what is said about ranks that were started one by one."""
    at = script.source.place(block.span.start)[0] if block is not None else line
    says = SAYS if block is not None else SAYS.replace("each pass of the loop", "each of these commands")
    return Remark(at, script.source.line(at).strip()[:80], says)
