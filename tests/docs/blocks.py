"""The shell blocks of a page: what is typed, where, and what has to come of it.

```console
$ muster run -g 2 train.py            typed on this machine
ann@head$ sbatch job.sbatch           on a host of the lab
ann@desk:muster$ make fast            in a checkout of muster
```

- Below each command stands what it says, stdout and stderr together. `...` is any text; alone on a line, any lines.
- Ids of runs, dates, seconds that something took and versions may be others than the page has.
- Lines of ranks (`[3] …`) that follow each other may come in any order of the ranks.
- A command ends well, or the next one is `echo $?`, and shows the status.
- Lines after one that ends in a backslash belong to the command.
- `cat FILE`, where there is no such file yet, makes it out of what is shown.
- A block whose first line is `# not run by the tests: WHY` is not run.
- `<!-- wait for: COMMAND -->` between two blocks is not shown: the tests repeat the command until it succeeds, where a
  reader would see by themselves that it is time for the next block.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

DESK, CHECKOUT = "", "desk:muster"
_PROMPT = re.compile(r"(?:(?:ann|root)@(?P<where>[\w:]+))?[$#] (?P<words>.*)")
_FENCE = re.compile(r"^( *)```console\n(.*?)^\1```$|^<!-- wait for: ([^\n]+) -->$", re.MULTILINE | re.DOTALL)
_NOT_RUN = "# not run by the tests: "
MARK = "\x1e"
"""Marker around the exit code of each command in the output of a block."""


class Typed(NamedTuple):
    """One command, and its expected output."""

    where: str
    """The host of the lab; `DESK` or `CHECKOUT`."""
    words: str
    says: tuple[str, ...]


class Block(NamedTuple):
    """Commands that run one after the other in one shell."""

    line: int
    commands: tuple[Typed, ...]
    skipped: str = ""
    """Why the block is not run."""
    waits: bool = False
    """Whether it only waits, and is not shown."""


def blocks(text: str) -> list[Block]:
    """Return the shell blocks of a page."""
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        if fence[3]:
            found.append(Block(line, (Typed(DESK, f"until {fence[3]}; do sleep 1; done", ("...",)),), waits=True))
            continue
        lines = [each[len(fence[1]) :] for each in fence[2].splitlines()]
        if lines[0].startswith(_NOT_RUN):
            found.append(Block(line, (), lines[0][len(_NOT_RUN) :]))
        else:
            found.append(Block(line, tuple(_commands(lines, line))))
    return found


def _commands(lines: list[str], at: int) -> list[Typed]:
    found: list[Typed] = []
    goes_on = False
    for number, line in enumerate(lines, at + 1):
        if goes_on:
            last = found[-1]
            found[-1] = last._replace(words=f"{last.words}\n{line}")
        elif prompt := _PROMPT.fullmatch(line):
            where = prompt["where"] or DESK
            found.append(Typed(DESK if where == "desk" else where, prompt["words"], ()))
        elif not found:
            raise ValueError(f"line {number}: a block begins with a command, not with `{line}`")
        else:
            found[-1] = found[-1]._replace(says=(*found[-1].says, line))
            continue
        goes_on = line.endswith("\\")
    return found


def make_file(typed: Typed, folder: Path) -> None:
    """Create the file that `cat FILE` shows, unless it exists."""
    name = re.fullmatch(r"cat ([\w.-]+)", typed.words)
    if name and not (folder / name[1]).exists():
        (folder / name[1]).write_text("\n".join(typed.says) + "\n")


def shell(commands: tuple[Typed, ...]) -> str:
    """Return a bash script that runs the commands, prints the exit code of each, and keeps it in `$?` for the next."""
    lines = ["exec 2>&1"]
    for typed in commands:
        status = f"__status=$?; printf '{MARK}%d{MARK}' $__status; (exit $__status)"
        lines.append(f"eval {shlex.quote(typed.words)}; {status}")
    return "\n".join([*lines, "exit 0"])


def told(output: str) -> list[tuple[str, int]]:
    """Return the output of each command, and its exit code."""
    pieces = output.split(MARK)
    return [(pieces[at], int(pieces[at + 1])) for at in range(0, len(pieces) - 1, 2)]


def wrong(commands: tuple[Typed, ...], output: str) -> str:
    """Return what differs from the page, in words; empty if nothing does."""
    answers = told(output)
    for number, typed in enumerate(commands):
        if number >= len(answers):
            return f"`{typed.words}` did not come to its end:\n{output.rpartition(MARK)[2]}"
        said, status = answers[number]
        asked = number + 1 < len(commands) and commands[number + 1].words == "echo $?"
        if status != 0 and not asked:
            return f"`{typed.words}` ended with exit status {status}, and the page does not ask for it:\n{said}"
        if not fits(typed.says, said):
            expected = "\n".join(typed.says)
            return f"`{typed.words}`: the page has\n{expected}\n--- and it says\n{said}"
    return ""


_TIME = r"\b(?:\d+[dhm] )?\d+(?:\.\d+)?[dhms]\b"
"""`0.8s`, `34s`, `1m 52s`."""
_VARIES = (
    (r"\b\d{8}-\d{6}-[0-9a-f]{5,16}\b", "RUN"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
    (rf"{_TIME}(?= after)|(?<=after ){_TIME}|(?<=\(){_TIME}(?=\))|(?<= for ){_TIME}|{_TIME}$", "SECONDS"),
    (rf"(?<=DATE  ){_TIME} +", "SECONDS  "),  # in a table, whose column has the width of the longest
    (r"\bDURATION +", "DURATION  "),
    (r"\b\d+ threads? each", "THREADS"),
    (r"Python 3\.\d+\.\d+, torch [^;)\s]+", "VERSIONS"),
)


def _varied(line: str) -> str:
    for pattern, word in _VARIES:
        line = re.sub(pattern, word, line)
    return line.rstrip()


def fits(expected: tuple[str, ...], said: str) -> bool:
    """Return whether the output matches."""
    pattern = ""
    for line in _in_order([_varied(line) for line in expected]):
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*?".join(re.escape(piece) for piece in line.split("...")) + r"\n"
    # a launcher that is slow, on a busy machine, is quoted
    lines = [_varied(line) for line in said.splitlines() if " yet; its output: " not in line]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _in_order(lines))) is not None


def _in_order(lines: list[str]) -> list[str]:
    """Return the lines with each sequence of rank output sorted by rank; the lines of one rank keep their order."""
    found: list[str] = []
    stretch: list[tuple[int, str]] = []
    for line in [*lines, ""]:
        rank = re.match(r"\[(\d+)\] ", line)
        if rank:
            stretch.append((int(rank[1]), line))
            continue
        found += [text for _, text in sorted(stretch, key=lambda pair: pair[0])]
        stretch = []
        found.append(line)
    return found[:-1]
