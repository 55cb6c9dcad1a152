"""What the bench keeps: one record for each measurement, in bench/results.json, from which pages are written."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MUSTER = "muster"
"""The program that the others are compared with."""

NO_TIME = "no time left"
"""Why a program was not measured, if a run of the bench was too short."""


class Quantity(NamedTuple):
    """What a number counts: the head of its column, its unit, and digits after the point."""

    title: str
    unit: str
    digits: int = 2


QUANTITIES = {
    "first": Quantity("first all-reduce", "s"),
    "ended": Quantity("all ended", "s"),
    "restart": Quantity("SIGKILL → first all-reduce of all", "s"),
    "death": Quantity("death → command ended", "s"),
    "more": Quantity("more than the launcher alone", "s"),
    "time": Quantity("wall time", "s", 3),
    "cpu": Quantity("CPU time", "s", 3),
    "cpu_all": Quantity("CPU time of all processes", "s"),
    "memory": Quantity("memory", "MB", 0),
    "share": Quantity("of a core", "%"),
    "read": Quantity("read from disk", "MB", 0),
    "lines": Quantity("lines lost or torn", "", 0),
    "report": Quantity("lines of the report", "", 0),
}


class Measurement(NamedTuple):
    """One number: what `program` took in a `case` of a `row` of the page."""

    row: str
    case: str
    program: str
    quantity: str
    value: float
    load: float
    """Load average of the machine when it was measured."""
    origin: str
    """The run of the bench, by its time."""


class Skipped(NamedTuple):
    """A program that was not measured in a case, with the reason."""

    row: str
    case: str
    program: str
    reason: str
    origin: str


class Origin(NamedTuple):
    """One run of the bench: when, how, where, with what."""

    time: str
    command: str
    small: bool
    machine: dict[str, str]
    versions: dict[str, str]


class Results:
    """All measurements that are kept. A (row, case) has those of one run of the bench only: they are compared."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self.measurements: list[Measurement] = []
        self.skipped: list[Skipped] = []

    def values(self, row: str, case: str, quantity: str, program: str = MUSTER) -> list[float]:
        """Return the measured values, in order."""
        wanted = (row, case, program, quantity)
        return [each.value for each in self.measurements if each[:4] == wanted]

    def median(self, row: str, case: str, quantity: str, program: str = MUSTER) -> float | None:
        """Return the median of the values; None if nothing was measured."""
        values = self.values(row, case, quantity, program)
        return statistics.median(values) if values else None

    def programs(self, row: str, case: str) -> list[str]:
        """Return the programs that were measured or skipped, muster first, in the order of measuring."""
        records: Iterable[Measurement | Skipped] = (*self.measurements, *self.skipped)
        names = dict.fromkeys(each.program for each in records if (each.row, each.case) == (row, case))
        return sorted(names, key=lambda name: name != MUSTER)

    def cases(self, row: str) -> list[str]:
        """Return the cases of a row, in the order of measuring."""
        records: Iterable[Measurement | Skipped] = (*self.measurements, *self.skipped)
        return list(dict.fromkeys(each.case for each in records if each.row == row))

    def quantities_of(self, row: str) -> list[str]:
        """Return what was measured in a row."""
        return list(dict.fromkeys(each.quantity for each in self.measurements if each.row == row))

    def quantities(self, row: str, case: str) -> list[str]:
        """Return what was measured in a case."""
        return list(dict.fromkeys(each.quantity for each in self.measurements if each[:2] == (row, case)))

    def merge(self, new: Results) -> None:
        """Replace the (row, case) pairs that `new` has measured, and drop the runs that nothing is left of.

        A case that was cut off keeps what was measured before, unless that has fewer programs.
        """

        def programs(results: Results, row: str, case: str) -> set[str]:
            return {each.program for each in results.measurements if each[:2] == (row, case)}

        cut = {each[:2] for each in new.skipped if each.reason == NO_TIME}
        fresh = {each[:2] for each in new.measurements}
        fresh -= {pair for pair in cut & fresh if not programs(new, *pair) >= programs(self, *pair)}
        kept = {each[:2] for each in self.measurements} - fresh
        self.measurements = [each for each in self.measurements if each[:2] in kept]
        self.measurements += [each for each in new.measurements if each[:2] in fresh]
        # a case that could not be measured now keeps what was measured before
        self.skipped = [each for each in self.skipped if each[:2] in kept]
        self.skipped += [each for each in new.skipped if each[:2] not in kept]
        self.origins.update(new.origins)
        used = {each.origin for each in self.measurements} | {each.origin for each in self.skipped}
        self.origins = {time: origin for time, origin in self.origins.items() if time in used}

    def save(self, path: Path) -> None:
        """Write the file, one record a line."""

        def lines(records: Iterable[Sequence[Any]]) -> str:
            return ",\n".join("  " + json.dumps(record, ensure_ascii=False) for record in records)

        parts = [
            f' "{name}": [\n{lines(records)}\n ]'
            for name, records in (
                ("origins", self.origins.values()),
                ("measurements", self.measurements),
                ("skipped", self.skipped),
            )
        ]
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Return what the file has; nothing if there is none."""
        found = cls()
        if path.exists():
            record = json.loads(path.read_text())
            found.origins = {each[0]: Origin(*each) for each in record["origins"]}
            found.measurements = [Measurement(*each) for each in record["measurements"]]
            found.skipped = [Skipped(*each) for each in record["skipped"]]
        return found
