"""Loops and choices around a launch: a sweep where a loop gives values to the ranks, or a remark. Pure."""

from __future__ import annotations

import json
import re

from muster.adopt.adoption import Launch, Remark
from muster.adopt.found import SHELLS, Found
from muster.lint.model import Block, Script

LOOPS = ("for", "while", "until")
_PLAIN = re.compile(r"[\w./+]+")
_COUNTED = re.compile(r"\{(\d{1,6})\.\.(\d{1,6})\}|\$\(seq (?:(\d{1,6}) )?(\d{1,6})\)")
_MOST = 1000
_GLOB = re.compile(r"[*?\[{]")


def over_nodes(found: Found, block: Block) -> bool:
    """Return whether a loop goes over the nodes of one launch: it chooses the host of ssh, or of srun."""
    if block.kind not in LOOPS:
        return False
    names: set[str] = set()
    for program in (*found.outer, found.program):
        if program.name in SHELLS:
            names |= {name for word in program.operands[:1] for name in word.names}
            chosen = program.value("-w", "--nodes", "--hosts")
            names |= chosen.names if chosen is not None else frozenset()
        if program.name == "srun":
            nodes = program.value("--nodelist")
            names |= nodes.names if nodes is not None else frozenset()
        for option in ("--node-rank", "--machine-rank"):
            rank = program.value(option)
            names |= rank.names if rank is not None else frozenset()
    return bool(names & block.names) or (block.kind == "while" and bool(names))


def swept(found: Found) -> Block | None:
    """Return the loop whose values a sweep can take: the only one around the launch, over values that are known."""
    loops = [block for block in found.command.blocks if not over_nodes(found, block)]
    if len(loops) != 1 or loops[0].kind != "for" or not loops[0].items or found.command.background:
        return None
    return loops[0] if values_of(loops[0]) else None


def values_of(block: Block) -> list[str]:
    """Return the values of a `for` loop, also of `{1..4}` and `$(seq 4)`; nothing if one of them is not known."""
    if len(block.items) == 1:
        counted = _COUNTED.fullmatch(block.items[0].shown)
        if counted:
            first, last = int(counted[1] or counted[3] or 1), int(counted[2] or counted[4])
            return [str(number) for number in range(first, last + 1)] if last - first < _MOST else []
    values = [item.text for item in block.items]
    return [value for value in values if value] if all(v and not _GLOB.search(v) for v in values) else []


def mark(block: Block) -> str:
    """Return what a sweep replaces by the value of the loop's variable."""
    return f"{{{block.variable}}}"


def as_sweep(launch: Launch, block: Block) -> Launch | None:
    """Return the launch with `--sweep`; None if the variable is not only in arguments and values of `--env`."""
    own = mark(block)
    elsewhere = repr(launch._replace(program=(), env=()))
    words = [argument.shell for argument in launch.program]
    left = re.compile(rf"\$\{{?[!#]?{re.escape(block.variable)}\b")
    if own in elsewhere or any(map(left.search, (elsewhere, *words))):
        return None
    used = any(own in text for text in (*words, *(value for _, value in launch.env)))
    if not used or any(argument.in_job for argument in launch.program):
        return None
    values = values_of(block)
    listed = ",".join(values) if all(map(_PLAIN.fullmatch, values)) else json.dumps(values, ensure_ascii=False)
    return launch._replace(options=(("sweep", f"{block.variable}={listed}"), *launch.options))


def said_of_sweep(launch: Launch, block: Block, script: Script) -> Remark:
    """Return what is said about a loop that became a sweep."""
    says = "the loop is a sweep: a run for each value, one after the other; one that fails does not stop the others"
    if launch.scheduled:
        says = "the loop is a sweep: each value is a job of its own, a task of one array, and they may run at once"
    return _remark(block, script, says)


def said_of_blocks(found: Found, line: str, script: Script, without: Block | None = None) -> list[Remark]:
    """Return a remark for each loop and choice around a launch that the line, as it is shown, does not have."""
    remarks = []
    for block in found.command.blocks:
        if block is without or over_nodes(found, block):
            continue
        if block.kind in LOOPS:
            names = [name for name in sorted(block.names) if re.search(rf"\$\{{?[!#]?{re.escape(name)}\b", line)]
            once = "at the same time" if found.command.background else "one after the other"
            says = f"the script makes this launch in a loop, {once}; the line is one pass of it"
            if _one_rank(found, block):  # their number is not known
                says = "each pass of the loop is one rank of a run: write their number with `-g`"
            says += f": write a value in place of {', '.join(f'${name}' for name in names)}" if names else ""
        else:
            says = "the script makes this launch only on a condition, which the line does not have"
        remarks.append(_remark(block, script, says))
    return remarks


def _one_rank(found: Found, block: Block) -> bool:
    """Return whether a loop starts the ranks of one run: `for r in 0 1; do RANK=$r python … &`."""
    return any(
        item.name in ("RANK", "LOCAL_RANK") and item.value is not None and item.value.names & block.names
        for item in found.command.assignments
    )


def said_of_calls(found: Found, script: Script) -> list[Remark]:
    """Return a remark if the launch is in a function that is called more than once."""
    name = found.command.function
    lines = [script.source.place(item.span.start)[0] for item in script.everything() if name and item.name == name]
    if len(lines) < 2:
        return []
    says = f"{name} is called {len(lines)} times (lines {', '.join(map(str, lines))}); the line is one call"
    return [Remark(script.source.place(found.command.span.start)[0], "", says)]


def _remark(block: Block, script: Script, says: str) -> Remark:
    line = script.source.place(block.span.start)[0]
    return Remark(line, script.source.line(line).strip()[:80], says)
