"""A command that launches ranks, in the model of a script."""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from muster.lint.model import Command, Program, Script

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
