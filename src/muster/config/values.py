"""Readers of option values. Each one raises `ValueError` with a description of what it expected."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from muster.core import sweep
from muster.core.layout import unfold
from muster.core.model import AUTHENTICATED, OPEN
from muster.core.results import OnHang
from muster.core.sweep import Array, Parameter
from muster.errors import InvalidRequest

_LARGEST = 1_000_000
"""Upper limit of every count. A larger one would only fill memory before it fails."""
_LONGEST = 3650
"""Upper limit of a duration, in days. Clocks and kernel timers overflow on larger numbers of seconds."""


def text(value: str) -> str:
    """Return the text unchanged."""
    return value


def _digits(value: str) -> bool:
    return value.isascii() and value.isdigit()


def _is_positive(value: str) -> bool:
    return _digits(value) and value.strip("0") != ""


def _count(digits: str) -> int:
    if len(digits) > 18 or int(digits) > _LARGEST:
        raise ValueError(f"at most {_LARGEST}")
    return int(digits)


def whole(value: str) -> int:
    """An integer from 0."""
    if not _digits(value):
        raise ValueError("a non-negative integer")
    return _count(value)


def positive(value: str) -> int:
    """An integer from 1."""
    if not _is_positive(value):
        raise ValueError("a positive integer")
    return _count(value)


def node_count(value: str) -> str:
    """A number of nodes, or torchrun's minimum and maximum: `2`, `1:4`."""
    few, colon, many = value.partition(":")
    counts = (few, many) if colon else (few,)
    if not all(map(_is_positive, counts)):
        raise ValueError("a positive integer, or MIN:MAX")
    for count in counts:
        _count(count)
    return value


def ranks_per_node(value: str) -> str:
    """An integer from 1, or the devices to count: `gpu`, `cpu` or `auto`."""
    if value not in ("auto", "cpu", "gpu"):
        if not _is_positive(value):
            raise ValueError("a positive integer, `gpu`, `cpu` or `auto`")
        _count(value)
    return value


def seconds(value: str) -> float:
    """A duration in seconds: `90`, `1.5`, `10m`, `1h30m`, `2d`."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    value = value if len(value) < 64 else ""  # no duration is longer, and the regular expressions would be slow
    pieces = re.findall(r"([0-9]+(?:\.[0-9]+)?)([dhms])", value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        pieces = [(value, "s")]
    elif not pieces or "".join(number + unit for number, unit in pieces) != value:
        raise ValueError("a duration such as `90`, `10m` or `1h30m`")
    total = sum(float(number) * units[unit] for number, unit in pieces)
    if total > _LONGEST * units["d"]:
        raise ValueError(f"at most {_LONGEST}d")
    return total


def some_seconds(value: str) -> float:
    """A duration above 0, in seconds."""
    time = seconds(value)
    if not time:
        raise ValueError("a duration above 0, such as `90`, `10m` or `1h30m`")
    return time


UNLIMITED = ("UNLIMITED", "INFINITE", "-1")
"""What sbatch accepts for no time limit, in upper case."""


def limit_of(text: str) -> float | None:
    """Return the seconds of a time limit in one of the forms of sbatch; None for any other text.

    Minutes, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` or `D-HH:MM:SS`.
    """
    found = re.fullmatch("(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", text.strip())
    if found is None:
        return None
    days, numbers = found[1], [int(number) for number in found.groups()[1:] if number is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return int(days) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
    return hours * 3600.0 + minutes * 60 + seconds


def clock_of(seconds: int) -> str:
    """Return seconds as `HH:MM:SS`."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def time_limit(value: str) -> str:
    """The time limit of a job as sbatch reads it; a duration with units, `4h` or `1h30m`, is converted to that."""
    if limit_of(value) is not None or value.upper() in UNLIMITED:
        return value
    try:
        total = math.ceil(seconds(value)) if value[-1:] in ("d", "h", "m", "s") else 0
    except ValueError as error:
        if str(error).startswith("at most"):
            raise
        total = 0
    if not total:
        raise ValueError("a time limit such as `4:00:00`, `4h`, `1-12` (days-hours) or `90` (minutes)")
    return clock_of(total)


def age(value: str) -> float:
    """A duration in seconds that was written with a unit; `0` needs none."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and float(value) != 0:
        raise ValueError(f"a duration with a unit, such as `{value}d` or `{value}h`")
    try:
        return seconds(value)
    except ValueError as error:
        if str(error).startswith("at most"):
            raise
        raise ValueError("a duration with a unit, such as `30d` or `12h`") from None


def size(value: str) -> int:
    """A size in bytes: `500M`, `1.5T`, optionally with `B` or `iB`; units are powers of 1024."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMGT])(?:i?B)?", value, re.IGNORECASE)
    count = int(float(found[1]) * (1 << 10 * ("KMGT".index(found[2].upper()) + 1))) if found else 0
    if not count:
        raise ValueError("a size with a unit, such as `500M` or `10G`")
    return count


def memory(value: str) -> str:
    """An amount of memory as a scheduler reads it: `64G`, or a number of MiB; 0 for all of a node."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?([KMGT]B?)?", value, re.IGNORECASE):
        raise ValueError("a size such as `64G`, a number of MiB, or 0 for all memory of a node")
    return value


def ranks(value: str) -> tuple[int, ...]:
    """A list of ranks: `0,4-7`."""
    try:
        return unfold(value)
    except InvalidRequest:
        raise ValueError("a list of ranks such as `0,4-7`") from None


BINDINGS = ("node", "socket", "exclusive", "core-complex")
"""Ways to bind ranks to cores."""


def binding(value: str) -> str:
    """Check one of `BINDINGS`."""
    if value not in BINDINGS:
        raise ValueError(", ".join(BINDINGS[:-1]) + f" or {BINDINGS[-1]}")
    return value


def on_hang(value: str) -> str:
    """Check a value of `OnHang`."""
    if value not in list(OnHang):
        raise ValueError("warn, kill or restart")
    return value


def rendezvous(value: str) -> str:
    """Check how ranks on other hosts reach the store."""
    if value not in (OPEN, AUTHENTICATED):
        raise ValueError(f"{OPEN} or {AUTHENTICATED}")
    return value


def backend(value: str) -> str:
    """Check a backend of torch.distributed."""
    if value not in ("gloo", "nccl"):
        raise ValueError("gloo or nccl")
    return value


def report_format(value: str) -> str:
    """A format of `muster lint`."""
    if value not in ("text", "json", "sarif"):
        raise ValueError("must be text, json or sarif")
    return value


def streams(value: str) -> str:
    """A value of torchrun's --redirects or --tee."""
    if not re.fullmatch(r"[0-3]|\d+:[0-3](,\d+:[0-3])*", value):
        raise ValueError("0 to 3, or RANK:0-3 as in `0:3,1:2`; -t is a time limit only with --slurm")
    return value


def variable(value: str) -> str:
    """An environment variable for ranks: with a value, with its current value, or all that start with a prefix."""
    name, equals, _ = value.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*" + ("" if equals else r"\*?"), name):
        raise ValueError("NAME, NAME=VALUE or PREFIX*")
    return value


def signals(value: str) -> tuple[str, ...]:
    """Signal names, separated by commas."""
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not all(re.fullmatch(r"SIG[A-Z]{2,6}[0-9]?", name) for name in names):
        raise ValueError("a list of signals such as `SIGURG,SIGUSR1`")
    return names


def parameter(value: str) -> Parameter:
    """A parameter of a sweep with its values: `lr=0.1,0.01`, `seed=1-4`, `opt=["a,b", "1-4"]`."""
    return sweep.parameter(value)


def array(value: str) -> Array:
    """Numbers of points: `0-7`, `0-7%2`, `1,4-6`."""
    return sweep.array(value)


def resubmit(value: str) -> str:
    """The points of a sweep to run again."""
    if value not in ("failed", "all"):
        raise ValueError("failed or all")
    return value


class Warn(NamedTuple):
    """A warning signal before a time limit."""

    signal: str
    """Signal name without `SIG`, as sbatch writes it."""
    seconds: float
    """Time between the warning and the limit."""


def warning(value: str) -> Warn:
    """A warning: `60`, `USR2@60`."""
    name, at, time = value.rpartition("@")
    name = name.upper().removeprefix("SIG") if at else "USR1"
    if name not in ("USR1", "USR2", "HUP", "INT", "QUIT", "TERM", "URG"):
        raise ValueError("a duration, optionally after a signal: `60`, `USR2@60`")
    return Warn(name, seconds(time))


def run_name(value: str) -> str:
    """A name for a run that no command can mistake for something else."""
    if value in ("", "last") or value.startswith("-") or not {"/", ":"}.isdisjoint(value):
        raise ValueError("a run name: not empty, not `last`, no leading hyphen, no `/` or `:`")
    return value
