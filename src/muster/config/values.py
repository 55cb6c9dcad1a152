"""How the value of an option is read. Each function raises `ValueError` with what was expected."""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.layout import unfold
from muster.errors import InvalidRequest

_LARGEST = 1_000_000
"""No count is larger; what is would only fill memory before it fails."""
_LONGEST = 3650
"""Days that a time may have. Clocks and the kernel's timers count seconds in numbers that end somewhere."""


def text(value: str) -> str:
    """Any text."""
    return value


def _digits(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 18


def _is_positive(value: str) -> bool:
    return _digits(value) and 0 < int(value) <= _LARGEST


def whole(value: str) -> int:
    """A number from 0."""
    if not _digits(value) or int(value) > _LARGEST:
        raise ValueError(f"a whole number up to {_LARGEST}")
    return int(value)


def positive(value: str) -> int:
    """A number from 1."""
    if not _is_positive(value):
        raise ValueError(f"a whole number from 1 to {_LARGEST}")
    return int(value)


def node_count(value: str) -> str:
    """A number of nodes, or torchrun's least and most: `2`, `1:4`."""
    few, colon, many = value.partition(":")
    if not all(map(_is_positive, (few, many) if colon else (few,))):
        raise ValueError(f"a whole number from 1 to {_LARGEST}")
    return value


def ranks_per_node(value: str) -> str:
    """A number, or what is to be counted."""
    if value not in ("auto", "cpu", "gpu") and not _is_positive(value):
        raise ValueError(f"a whole number from 1 to {_LARGEST}, or `auto`, `gpu` or `cpu`")
    return value


def seconds(value: str) -> float:
    """A time in seconds: `90`, `1.5`, `10m`, `1h30m`, `2d`."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    value = value if len(value) < 64 else ""  # no time is so long, and reading one would take its time
    pieces = re.findall(r"([0-9]+(?:\.[0-9]+)?)([dhms])", value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        pieces = [(value, "s")]
    elif not pieces or "".join(number + unit for number, unit in pieces) != value:
        raise ValueError("a time such as `90`, `10m` or `1h30m`")
    total = sum(float(number) * units[unit] for number, unit in pieces)
    if total > _LONGEST * units["d"]:
        raise ValueError(f"a time up to {_LONGEST}d")
    return total


def some_seconds(value: str) -> float:
    """A time above 0, in seconds."""
    time = seconds(value)
    if not time:
        raise ValueError("a time above 0, such as `90`, `10m` or `1h30m`")
    return time


def age(value: str) -> float:
    """A time in seconds that was written with its unit."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and float(value) != 0:
        raise ValueError(f"a time with its unit, such as `{value}d` or `{value}h`")
    return seconds(value)


def size(value: str) -> int:
    """Bytes: `500M`, `1.5T`, with or without `B` or `iB`; of 1024."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMGT])(?:i?B)?", value, re.IGNORECASE)
    count = int(float(found[1]) * (1 << 10 * ("KMGT".index(found[2].upper()) + 1))) if found else 0
    if not count:
        raise ValueError("a size with its unit, such as `500M` or `10G`")
    return count


def ranks(value: str) -> tuple[int, ...]:
    """Numbers of ranks: `0,4-7`."""
    try:
        return unfold(value)
    except InvalidRequest:
        raise ValueError("a list of ranks such as `0,4-7`") from None


BINDINGS = ("node", "socket", "exclusive", "core-complex")
"""How ranks may be bound to cores."""


def binding(value: str) -> str:
    """One of `BINDINGS`."""
    if value not in BINDINGS:
        raise ValueError("one of " + ", ".join(BINDINGS))
    return value


def backend(value: str) -> str:
    """A backend of torch.distributed."""
    if value not in ("gloo", "nccl"):
        raise ValueError("`gloo` or `nccl`")
    return value


def streams(value: str) -> str:
    """What torchrun's --redirects and --tee take."""
    if not re.fullmatch(r"[0-3]|\d+:[0-3](,\d+:[0-3])*", value):
        raise ValueError("0 to 3, or such a number for some ranks, `0:3,1:2`; -t is a time limit with `--slurm`")
    return value


def variable(value: str) -> str:
    """An environment variable for the ranks, with a value, as it is here, or all with a prefix."""
    name, equals, _ = value.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*" + ("" if equals else r"\*?"), name):
        raise ValueError("NAME, NAME=VALUE or PREFIX*")
    return value


def signals(value: str) -> tuple[str, ...]:
    """Names of signals."""
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not all(re.fullmatch(r"SIG[A-Z]{2,6}[0-9]?", name) for name in names):
        raise ValueError("a list of signals, such as `SIGURG,SIGUSR1`")
    return names


class Warn(NamedTuple):
    """What ranks are told before a time limit."""

    signal: str
    """Without `SIG`, as sbatch writes it."""
    seconds: float
    """How long before."""


def warning(value: str) -> Warn:
    """`60`, `USR2@60`."""
    name, at, time = value.rpartition("@")
    name = name.upper().removeprefix("SIG") if at else "USR1"
    if name not in ("USR1", "USR2", "HUP", "INT", "QUIT", "TERM", "URG"):
        raise ValueError("a signal and a time, such as `USR2@60`")
    return Warn(name, seconds(time))


def run_name(value: str) -> str:
    """A name for a run that no command takes for something else."""
    if value in ("", "last") or value.startswith("-") or not {"/", ":"}.isdisjoint(value):
        raise ValueError(
            "a name of a run, which is not empty and not `last`, begins with no hyphen, and holds no `/` and `:`"
        )
    return value
