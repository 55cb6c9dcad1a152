"""In what ranks run: as processes of their machine, or in something around them. One file, one row each; pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Callable, NamedTuple

from muster.config.record import Options

BARE = "bare"

RUNTIMES: Mapping[str, str] = {
    BARE: "bare",
}
"""The names of runtimes, and for each the file of this folder that has its `RUNTIME`."""


class Runtime(NamedTuple):
    """What a file of this folder has."""

    says: str
    """What it is, for people."""
    prefix: Callable[[str], tuple[str, ...]]
    """The words that stand before a command and run it there, given the value of the option that chose the runtime,
    such as the name of an image.

    They come before the command of each rank, or before that of the interpreter which forks the ranks of a node. What
    they start has to give that command the same working directory, environment and descriptors, and the same files:
    those of the run directory, and of the directory that TMPDIR names. It becomes that command, or hands signals on.
    """
    options: type[Options] = Options
    """The options that say something to it. The one of its name chooses it."""


@cache
def runtime(name: str) -> Runtime:
    """One of them."""
    found: Runtime = import_module(f"muster.runtimes.{RUNTIMES[name]}").RUNTIME
    return found


def chosen(options: Options) -> tuple[str, str]:
    """The runtime that the options choose, and the value of the option that does so."""
    for name in RUNTIMES:
        option = options.option(name)
        if option is not None and options.value(option):
            return name, str(options.value(option))
    return BARE, ""
