"""What agents and their ranks run in: their machine as it is, or a container. One file and one row each; pure.

The agent of a node is started inside, and its ranks with it: so signals, logs, stacks, the fork server and the cleanup
work as they do without a container. The shell script that starts the agent enters the container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Callable, NamedTuple

from muster.config.record import Options
from muster.core.model import Job
from muster.linux.shell import quote

BARE, CONTAINER = "bare", "container"

RUNTIMES: Mapping[str, str] = {
    BARE: "bare",
    CONTAINER: "container",
    "podman": "podman",
    "docker": "docker",
    "apptainer": "apptainer",
    "pyxis": "pyxis",
}
"""Runtime names, each with the module of this package that defines its `RUNTIME`. `container` is whichever of the
others a host has."""


class Mount(NamedTuple):
    """A file or directory of the host that is visible inside."""

    source: str
    target: str
    readonly: bool = False

    @property
    def text(self) -> str:
        """The mount as container engines write it."""
        return f"{self.source}:{self.target}" + (":ro" if self.readonly else "")


class Inside(NamedTuple):
    """What an agent enters."""

    value: str
    """The value of the option that chose the runtime, such as an image name."""
    mounts: tuple[Mount, ...] = ()
    """What the user named, or else the code, which may not exist on a host: then the agent reports that."""
    runs: str = ""
    """The directory of runs, which is created if it does not exist."""


class Runtime(NamedTuple):
    """The definition of a runtime."""

    says: str
    """Description for users."""
    enter: Callable[[Inside], str]
    """Returns shell lines that set the positional parameters to the words before the command that is to run inside:
    `set -- box --name crate`.

    They are read by a POSIX shell on the host, which then executes `"$@" COMMAND`. That must pass on stdin, stdout and
    the exit status.
    """
    has_image: bool = False
    """True if the files inside are those of an image, with a Python of its own, and its environment is another one."""
    options: type[Options] = Options
    """The options of the runtime. The one with its name selects it."""
    task_options: Callable[[Inside], tuple[str, ...]] = lambda inside: ()
    """Returns the options with which the scheduler's own program starts a task inside; then `enter` is not used."""
    task_option: str = ""
    """The option by which the scheduler's program knows the runtime; empty if it needs no scheduler."""
    scheduler: str = ""
    """The key of the scheduler whose program that is."""


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
            named = options.option("container_runtime")
            row = options.value(named) if name == CONTAINER and named is not None else ""
            return row or name, str(options.value(option))
    return BARE, ""


def python_inside(job: Job) -> str:
    """Return the interpreter of the agents: in a container it is the container's, unless the user has named one."""
    return "python3" if runtime(job.runtime).has_image and not job.python_named else job.python


def mount(text: str) -> Mount:
    """Return the mount of `SRC[:DST[:ro]]`. Raises `ValueError`."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not (target or source).startswith("/") or mode not in ("", "ro", "rw"):
        raise ValueError("SRC[:DST[:ro]] with absolute paths")
    if re.search(r"[,\s]", text):
        raise ValueError("paths without commas and spaces, which not every container runtime can mount")
    return Mount(source, target or source, mode == "ro")


def mounts_of_code(cwd: str, script: str, named: Sequence[Mount]) -> tuple[Mount, ...]:
    """Return the mounts of a run's code and the named ones, which replace those."""
    wanted = [cwd, *([script.rpartition("/")[0] or "/"] if script.startswith("/") else [])]
    own = [path for path in dict.fromkeys(wanted) if not any(_below(path, other) for other in wanted)]
    return (*(Mount(path, path) for path in own if path not in {other.target for other in named}), *named)


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def mount_lines(inside: Inside, option: str) -> str:
    """Return shell lines that add this option for each mount that exists to the positional parameters."""
    lines = [f"[ -d {quote(inside.runs)} ] || (umask 077; mkdir -p {quote(inside.runs)})"] if inside.runs else []
    runs = [Mount(inside.runs, inside.runs)] if inside.runs else []
    adding = '[ ! -e {} ] || set -- "$@" {} {}'
    lines += [adding.format(quote(one.source), option, quote(one.text)) for one in (*inside.mounts, *runs)]
    return "\n".join(lines)
