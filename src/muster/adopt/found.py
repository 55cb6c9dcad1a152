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
