"""Figures for pages: medians with their spread, as text. What is missing is told as such."""

from __future__ import annotations

from goals import Goal, Row
from records import MUSTER, QUANTITIES, Results

MISSING = "not measured yet"


def number(value: float, digits: int = 2) -> str:
    """Return a number with digits that mean something: three at most, of small ones too."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.{min(digits, 1)}f}"
    return f"{value:.{digits}f}"


def with_unit(value: float, unit: str, digits: int = 2) -> str:
    """Return a number with its unit."""
    space = "" if unit in ("", "%") else " "
    return f"{number(value, digits)}{space}{unit}"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{number(value)} ×"


class Figures:
    """Medians out of results, as text."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def __call__(self, row: str, case: str, quantity: str, program: str = MUSTER) -> str:
        """Return a median with its unit, or that it is missing."""
        value = self.results.median(row, case, quantity, program)
        kind = QUANTITIES[quantity]
        return MISSING if value is None else with_unit(value, kind.unit, kind.digits)

    def ratio(self, row: str, case: str, quantity: str, other: str, program: str = MUSTER) -> str:
        """Return how many times the program's median another program has."""
        ours, theirs = (self.results.median(row, case, quantity, name) for name in (program, other))
        return MISSING if not ours or theirs is None else times(theirs / ours)

    def cell(self, row: str, case: str, quantity: str, program: str) -> str:
        """Return a median with the least and the largest value."""
        values = self.results.values(row, case, quantity, program)
        if not values:
            return "–"
        digits = QUANTITIES[quantity].digits
        text = number(self.results.median(row, case, quantity, program) or 0.0, digits)
        if len(values) > 1:
            text += f" ({number(min(values), digits)}–{number(max(values), digits)})"
        return text

    def verdict(self, row: Row, goal: Goal) -> tuple[str, str]:
        """Return the measured number of a goal, and whether it is reached."""
        value = goal.reached(row.name, self.results)
        if value is None:
            return MISSING, "–"
        text = with_unit(value, goal.unit)
        if goal.met(value):
            return text, "yes"
        return text, "**no**"
