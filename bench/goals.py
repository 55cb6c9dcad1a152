"""Rows of the page, and what each must reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from records import MUSTER, QUANTITIES, Results

if TYPE_CHECKING:
    from harness import Bench


class Goal(NamedTuple):
    """Something that must be reached."""

    text: str
    reached: Callable[[str, Results], float | None]
    """From the name of the row and the results to the number that is compared; None if it is not measured yet."""
    limit: float | None
    """None: a figure is wanted, whatever it is."""
    unit: str = ""
    least: bool = False
    """The number must be at least the limit, not at most."""

    def met(self, value: float) -> bool:
        """Return whether a number is good enough."""
        if self.limit is None:
            return True
        return value >= self.limit if self.least else value <= self.limit


class Row(NamedTuple):
    """One section of the page: what is measured, by which function, and the goals."""

    name: str
    title: str
    how: str
    measure: Callable[[Bench], None]
    goals: tuple[Goal, ...] = ()
    lab: bool = False
    """Needs the practice cluster."""
    floor: str = ""
    """What muster spends the time on that others do not, or cannot go below."""


def _title(quantity: str, case: str) -> str:
    return f"{QUANTITIES[quantity].title}, {case}"


def at_most(quantity: str, case: str, limit: float, program: str = MUSTER) -> Goal:
    """Muster's median may be so large."""
    unit = QUANTITIES[quantity].unit
    name = f"{_title(quantity, case)}{'' if program == MUSTER else f', {program}'}"
    text = f"{name}: at most {limit:g} {unit}".rstrip()
    return Goal(text, lambda row, found: found.median(row, case, quantity, program), limit, unit)


def relative(quantity: str, case: str, other: str, limit: float) -> Goal:
    """Muster may take so many times what another program takes."""
    text = f"{_title(quantity, case)}: at most {limit:g} × {other}"
    return Goal(text, lambda row, found: quotient(found, row, case, quantity, MUSTER, other), limit, "×")


def ratio(quantity: str, case: str, other: str, limit: float) -> Goal:
    """Muster must be so many times faster, or smaller, than another program."""
    text = f"{_title(quantity, case)}: {limit:g} × less than {other}"
    return Goal(text, lambda row, found: quotient(found, row, case, quantity, other, MUSTER), limit, "×", True)


def never_slower(
    quantity: str, case: str, beside: str = "any other launcher", factor: float = 1.0, but: str = ""
) -> Goal:
    """Muster may take at most `factor` times what the best of the others takes; `but` does not count."""

    def reached(row: str, found: Results) -> float | None:
        others = [
            value
            for name in found.programs(row, case)
            if not name.startswith(MUSTER) and name != but
            for value in (found.median(row, case, quantity, name),)
            if value is not None
        ]
        ours = found.median(row, case, quantity)
        return None if ours is None or not others else ours / min(others)

    return Goal(f"{_title(quantity, case)}: at most {factor:g} × {beside}", reached, factor, "×")


def figure(quantity: str, case: str, program: str = MUSTER) -> Goal:
    """Only a figure is wanted."""
    name = f"{_title(quantity, case)}{'' if program == MUSTER else f', {program}'}"
    unit = QUANTITIES[quantity].unit
    return Goal(f"{name}: works", lambda row, found: found.median(row, case, quantity, program), None, unit)


def growth(quantity: str, small: str, large: str, limit: float, times: str, program: str = MUSTER) -> Goal:
    """A larger case may take so many times what a smaller one takes."""

    def reached(row: str, found: Results) -> float | None:
        less, more = (found.median(row, case, quantity, program) for case in (small, large))
        return None if less is None or more is None else more / max(less, 1e-9)

    text = f"{QUANTITIES[quantity].title}, {large} against {small}: {times}"
    return Goal(text, reached, limit, "×")


def quotient(found: Results, row: str, case: str, quantity: str, above: str, below: str) -> float | None:
    """Return the ratio of two medians; None if one is not measured."""
    over, under = (found.median(row, case, quantity, name) for name in (above, below))
    return None if over is None or not under else over / under
