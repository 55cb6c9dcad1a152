"""The commands of runs, as they were typed. Its own module: `muster ps` needs no other words of `text.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.core.model import BUNDLED
from muster.ui.formatting import shell_word


def program_in_words(kind: str, argv: Sequence[str]) -> str:
    """Return the command of each rank, as it was typed."""
    first = argv[0].removeprefix(BUNDLED)
    return " ".join(["-m"] * (kind == "module") + [shell_word(word) for word in (first, *argv[1:])])


def how_it_was_started(job: Mapping[str, Any]) -> str:
    """Return the command that started a run, as it was typed, or the call in Python. `job`: of job.json."""
    argv = job.get("argv", [])
    program = job.get("job", {}).get("program", {}).get("argv") or [""]
    name = program[0].removeprefix(BUNDLED)
    if name != program[0] and [*argv[:2]] == ["muster", "run"] and argv[-1].endswith("()"):  # nobody has typed that
        given = " ".join(map(shell_word, argv[2:-1]))
        return f"{argv[-1]}, called from Python" + (f" with {given}" if given else "")
    return " ".join(map(shell_word, argv))


def command_of_role(role: Mapping[str, Any]) -> str:
    """Return the command of the ranks of a role, from the record of its run."""
    program = role.get("program") or {}
    return program_in_words(program["kind"], program["argv"]) if program.get("argv") else ""
