"""What the readers of launchers share: where a launcher stands, what its options say, and which are left. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from muster.adopt.adoption import Launch
from muster.adopt.slurm import Request
from muster.adopt.values import Scope, number, text
from muster.lint.model import Literal, Option, Program, Word


class Place(NamedTuple):
    """Where a launcher is started."""

    scope: Scope
    request: Request | None
    """The job, in a batch script."""
    step: Program | None
    """The srun that starts it; None without one."""
    config: Mapping[str, str] = MappingProxyType({})
    """The numbers in the configuration file of accelerate."""
    passed: frozenset[str] = frozenset()
    """The variables that `.deepspeed_env` passes on."""

    def counted(self, program: Program, option: str) -> int | None:
        """The number that an option gives, or else the configuration."""
        if program.has(option):
            return number(program.value(option), self.scope)
        value = self.config.get(option.lstrip("-").replace("-", "_"), "")
        return int(value) if value.isdigit() else None


class Read(NamedTuple):
    """What the options of a launcher say."""

    launch: Launch
    program: tuple[Word, ...]
    """The program of the ranks and its arguments."""
    changed: tuple[str, ...] = ()
    """What was wrong, or is done in another way, in sentences."""


MEETING = frozenset(
    (
        *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "NNODES"),
        *("GROUP_RANK", "NPROC_PER_NODE", "TORCHELASTIC_ERROR_FILE"),
    )
)
"""Variables that muster sets in each rank by itself."""


HOSTS_UNKNOWN = "not known from this script; name the hosts with --hosts, or add --slurm -N"


Reader = Callable[[Program, Launch, Place], Read]


def dropped(program: Program, names: tuple[str, ...], scope: Scope) -> list[str]:
    """Return a sentence for each of these options that is given."""
    given = [program.option(name) for name in names]
    return [
        f"{option.name} {text(option.value, scope)}".rstrip() + ": not taken over"
        for option in given
        if option is not None
    ]


def unread(program: Program, read: tuple[str, ...]) -> tuple[str, ...]:
    """Return the other options as they are written, for `--launcher-args`."""
    return tuple(word for option in program.options if option.name not in read for word in _words(option))


def _words(option: Option) -> tuple[str, ...]:
    if option.name == "?":
        return ()
    if option.name in ("--mca", "--gmca", "--prtemca") and option.value is not None:
        return (option.name, *(part.text if isinstance(part, Literal) else part.source for part in option.value.parts))
    return (option.name,) if option.value is None else (f"{option.name}={option.value.shown}",)
