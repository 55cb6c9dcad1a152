"""A command that launches ranks, in the model of a script."""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from muster.lint.model import Assignment, Command, Program, Script

ReadFile = Callable[[str], Optional[str]]
"""Returns the text of a file that the script names; None if there is none."""

SHELLS = ("ssh", "pdsh", "clush")


class Found(NamedTuple):
    """A command, and which of its programs starts the ranks."""

    command: Command
    script: Script
    program: Program
    outer: tuple[Program, ...]
    """What starts the program: srun, ssh and so on."""


def position(script: Script, found: Found) -> int:
    """Return the offset in a script of the command that runs a launch: a call of its function, or `eval "$CMD"`."""
    command = found.command
    if command.shell.number != script.shell.number:
        starts = command.shell.starts[len(script.shell.starts) :]
        command = next((outer for outer in script.commands if outer.span.start in starts[:1]), command)
    passed: set[str] = set()
    while command.function and command.function not in passed:
        passed.add(command.function)
        command = next((call for call in script.commands if call.name == command.function), command)
    return command.span.start


def is_before(item: Command | Assignment, found: Found, script: Script, at: int) -> bool:
    """Return whether something is executed before a launch, which is run at the offset `at` of the script."""
    own = found.command
    if item.shell.number == own.shell.number and item.function == own.function:
        return item.span.start < own.span.start
    if item.function and item.function != own.function:
        calls = [call for call in script.commands if call.name == item.function and call.span.start != item.span.start]
        return bool(calls) and (calls[0].function == item.function or is_before(calls[0], found, script, at))
    starts = item.shell.starts[len(script.shell.starts) :]
    return (starts[0] if starts else item.span.start) < at


def shells(script: Script, found: Found) -> list[Script]:
    """Return the shells whose commands come before a launch: of the script, its own, and what tmux typed before it."""
    typed: list[Script] = []
    window = _window(found.script)
    if window is not None:
        typed = [inner for inner in script.scripts() if _window(inner) == window]
    return list({inner.shell.number: inner for inner in (script, *typed, found.script)}.values())


def _window(script: Script) -> str | None:
    """Return the window of tmux in which `send-keys` types this script; None for another script."""
    last = script.shell.launchers[-1] if script.shell.launchers else None
    words = [word.shown for word in last.operands] if last is not None and last.name == "tmux" else []
    if not {"send-keys", "send"} & set(words):
        return None
    return words[words.index("-t") + 1] if "-t" in words[:-1] else ""
