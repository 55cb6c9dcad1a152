"""A sweep as a value: parameters become points, and a point fills in the arguments of its run. Pure.

A chain is the same with points that follow each other: its parts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from muster.core.layout import fold
from muster.core.results import RunState
from muster.core.suggestions import nearest

MOST_POINTS = 10_000
"""Maximum number of points: each has a run directory."""

INDEX = "index"
"""The name that stands for the number of the point in arguments."""

POINT, POINTS, VALUES = "MUSTER_POINT", "MUSTER_POINTS", "MUSTER_POINT_VALUES"
"""Variables of ranks: the number of the point, the number of points, and the values of the point as JSON."""

PART, PARTS = "MUSTER_PART", "MUSTER_PARTS"
"""Variables of ranks in a chain: the number of the part, and the number of parts."""


class Parameter(NamedTuple):
    """One parameter of a sweep, with its values in order."""

    name: str
    values: tuple[str, ...]


class Array(NamedTuple):
    """The numbers of the points of a sweep without parameters, and how many run at the same time."""

    indices: tuple[int, ...]
    most: int | None = None


class Point(NamedTuple):
    """One run of a sweep."""

    number: int
    values: tuple[tuple[str, str], ...] = ()
    """The value of each parameter."""

    @property
    def label(self) -> str:
        """The values, for users: `lr=0.1 seed=3`."""
        return " ".join(f"{name}={value}" for name, value in self.values)


class Sweep(NamedTuple):
    """The points of a sweep, or the parts of a chain."""

    points: tuple[Point, ...]
    most: int | None = None
    """How many run at the same time; None if nothing limits it."""
    chain: bool = False
    """True if each point starts when the one before has ended, and none starts after a failure."""

    @property
    def noun(self) -> str:
        """What users call it."""
        return "chain" if self.chain else "sweep"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters, in order."""
        return tuple(name for name, _ in self.points[0].values) if self.points else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are replaced in arguments."""
        return () if self.chain else (INDEX, *self.parameters)


# ---- reading --------------------------------------------------------------------------------------------------------


def parameter(text: str) -> Parameter:
    """Parse `lr=0.1,0.01`, `seed=1-4`, `n=8-64:8`, or `opt=["a,b", "1-4"]`. Raises `ValueError`."""
    name, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError("NAME=VALUES such as `lr=0.1,0.01` or `seed=1-4`")
    if name == INDEX:
        raise ValueError(f"another name: {{{INDEX}}} is the number of the point")
    found = _from_json(values) if values.startswith("[") else _from_list(values)
    twice = next((value for value, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"each value once, got {twice} twice")
    return Parameter(name, found)


def _from_json(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError('a JSON list such as `["a,b", "1-4"]` after `[`') from None
    if not found or not all(isinstance(value, (str, int, float)) for value in found):
        raise ValueError("a JSON list of strings and numbers, not empty")
    return tuple(value if isinstance(value, str) else json.dumps(value) for value in found)


def _from_list(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for item in text.split(","):
        if not item:
            raise ValueError('a value after each comma; write an empty one in a JSON list: `["", "a"]`')
        numbers = _range(item, "; as a text, write it in a JSON list")
        found += [item] if numbers is None else map(str, numbers)
    return tuple(found)


def _range(item: str, otherwise: str = "") -> range | None:
    """Return the integers of `1-4` or `0-8:2`, both ends included; None if it is no range.

    Raises `ValueError`, whose message ends with what to do `otherwise`.
    """
    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})(?::([0-9]{1,9}))?", item)
    if found is None:
        return None
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if last < first or step == 0:
        raise ValueError(f"a range from the smaller number to the larger one, got {item}{otherwise}")
    if (last - first) // step >= MOST_POINTS:
        raise ValueError(f"at most {MOST_POINTS} values, got {item}")
    return range(first, last + 1, step)


def array(text: str) -> Array:
    """Parse `0-7`, `0-7%2`, `1,4-6`, `0-15:4`, as sbatch reads them. Raises `ValueError`."""
    numbers, percent, most = text.partition("%")
    found: list[int] = []
    for item in numbers.split(","):
        several = _range(item)
        if several is None and not re.fullmatch(r"[0-9]{1,9}", item):
            raise ValueError("numbers of points such as `0-7`, `0-7%2` or `1,4-6`")
        found += [int(item)] if several is None else several
    if percent and not re.fullmatch(r"0*[1-9][0-9]{0,5}", most):
        raise ValueError("after `%` the number of points that run at the same time")
    return Array(tuple(sorted(set(found))), int(most) if percent else None)


# ---- points ---------------------------------------------------------------------------------------------------------


def count_points(parameters: Sequence[Parameter]) -> int:
    """Return the number of points: the product of the numbers of values."""
    count = 1
    for one in parameters:
        count *= len(one.values)
    return count


def points_of(parameters: Sequence[Parameter]) -> tuple[Point, ...]:
    """Return all combinations of values, numbered from 0; the last parameter varies fastest."""
    names = [one.name for one in parameters]
    every = product(*(one.values for one in parameters))
    return tuple(Point(index, tuple(zip(names, values))) for index, values in enumerate(every))


def fill(text: str, point: Point) -> str:
    """Replace `{NAME}` by the value of each parameter of the point, and `{index}` by its number.

    Everything else stays as it is: other names in braces, and braces in JSON. `{{NAME}}` is `{NAME}` as a text, if NAME
    is one of these names.
    """
    values = {INDEX: str(point.number), **dict(point.values)}
    names = "|".join(map(re.escape, values))

    def one(found: re.Match[str]) -> str:
        return f"{{{found[1]}}}" if found[1] is not None else values[found[2]]

    return re.sub(rf"\{{\{{({names})\}}\}}|\{{({names})\}}", one, text)


def unused(sweep: Sweep, texts: Sequence[str]) -> list[str]:
    """Return the parameters that occur in none of these texts."""
    return [name for name in sweep.parameters if not any(f"{{{name}}}" in text for text in texts)]


def misspelled(sweep: Sweep, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return names in braces that are no parameters, each with the parameter that is probably meant."""
    found = dict.fromkeys(name for text in texts for name in re.findall(r"\{([A-Za-z_]\w*)\}", text))
    known = [name for name in sweep.names if name != INDEX]
    same = {name.casefold(): name for name in known}
    meant = [(name, same.get(name.casefold()) or nearest(name, known)) for name in found if name not in sweep.names]
    return [(name, near) for name, near in meant if near is not None]


def variables(sweep: Sweep, point: Point) -> dict[str, str]:
    """Return the variables that tell ranks which point, or part, they run."""
    if sweep.chain:
        return {PART: str(point.number), PARTS: str(len(sweep.points))}
    values = {VALUES: json.dumps(dict(point.values))} if point.values else {}
    return {POINT: str(point.number), POINTS: str(len(sweep.points)), **values}


def array_of(indices: Sequence[int], most: int | None) -> str:
    """Return numbers of points as `array` reads them."""
    return fold(indices) + (f"%{most}" if most is not None else "")


# ---- progress -------------------------------------------------------------------------------------------------------


def goes_on(state: RunState) -> bool:
    """Return whether the next part of a chain follows one that ended like this: it succeeded, or its time was over."""
    return state in (RunState.SUCCEEDED, RunState.TIMED_OUT)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return how many points are in which state, for one line: `5 ok, 1 failed, 2 running`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


class Ids(NamedTuple):
    """The parts of the id of a point's run: `SWEEP.INDEX`, or `SWEEP.INDEX.TRY` if it was submitted again."""

    sweep: str
    point: int
    again: int = 0
    """How often the point was submitted before."""

    @property
    def run(self) -> str:
        """The id of the run."""
        return f"{self.sweep}.{self.point}" + (f".{self.again}" if self.again else "")


def possible_ids(run_id: str) -> list[Ids]:
    """Return how an id can be read as that of a point's run. A script may be called `train.3`, so the sweep decides."""
    found = []
    head, dot, last = run_id.rpartition(".")
    if dot and last.isascii() and last.isdigit() and len(last) <= 6:
        found.append(Ids(head, int(last)))
        before, dot, index = head.rpartition(".")
        if dot and index.isascii() and index.isdigit() and len(index) <= 6:
            found.append(Ids(before, int(index), int(last)))
    return found
