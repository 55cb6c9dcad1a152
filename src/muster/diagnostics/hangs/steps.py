"""The steps that ranks have reported by `muster.progress`, as a note of a verdict. Pure."""

from __future__ import annotations

from muster.core.fold import by_value
from muster.core.inspection import Snapshot
from muster.core.layout import named
from muster.core.progress import Progress

_MOST = 3
"""Number of different steps that are told with their ranks."""


def steps_in_words(snapshot: Snapshot) -> tuple[str, ...]:
    """Return a sentence about the last steps that the ranks reported; empty if they reported none.

    Steps that differ by one count as equal: a report is written twice a second, and ranks report one after the other.
    """
    found = {each.rank: Progress(each.step, each.steps) for each in snapshot.inspections if each.step is not None}
    if not found:
        return ()
    last = max(found.values(), key=lambda each: each.step)
    if last.step - min(each.step for each in found.values()) <= 1:
        return (f"The last reported step is {last.text}.",)
    groups = by_value((rank, each.step) for rank, each in found.items())
    if len(groups) > _MOST:
        return (f"The last reported steps are {min(groups)} to {max(groups)}.",)
    return ("Last reported steps: " + ", ".join(f"{named(groups[step])} {step}" for step in sorted(groups)) + ".",)
