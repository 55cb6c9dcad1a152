"""What ranks run in: plain processes of their machine, or for example containers. One file and one row each; pure."""

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
"""Runtime names, each with the module of this package that defines its `RUNTIME`."""


class Runtime(NamedTuple):
    """The definition of a runtime."""

    says: str
    """Description for users."""
    prefix: Callable[[str], tuple[str, ...]]
    """Returns the argv prefix that runs a command in the runtime, given the value of the option that chose it, such as
    an image name.

    The prefix is put before the command of each rank, or of the interpreter that forks the ranks of a node. It must run
    that command with the same working directory, environment, descriptors and files: those of the run directory and of
    the directory in TMPDIR. It must exec the command, or forward signals to it.
    """
    options: type[Options] = Options
    """The options of the runtime. The one with its name selects it."""


@cache
def runtime(name: str) -> Runtime:
    """Return the runtime of this name."""
    found: Runtime = import_module(f"muster.runtimes.{RUNTIMES[name]}").RUNTIME
    return found


def chosen(options: Options) -> tuple[str, str]:
    """Return the runtime selected by the options, and the value of the option that selected it."""
    for name in RUNTIMES:
        option = options.option(name)
        if option is not None and options.value(option):
            return name, str(options.value(option))
    return BARE, ""
