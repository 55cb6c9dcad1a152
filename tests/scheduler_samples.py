"""What the tests of all schedulers share: recorded outputs of their commands, and options as a user types them."""

from __future__ import annotations

from pathlib import Path

from muster.config.options import RunOptions
from muster.schedulers import SCHEDULERS, options_of

RECORDED = Path(__file__).parent / "unit" / "recorded"


def recorded(name: str) -> str:
    """Return the output of a scheduler's command, such as `pbs/jobs.txt`."""
    return (RECORDED / name).read_text()


def given(**options: object) -> RunOptions:
    """Return options as if they had been typed."""
    return RunOptions(("argv", options))


def without_hint(name: str) -> set[str]:
    """Return the keys of options of other schedulers for which this one names nothing to use instead."""
    own = options_of(name)
    others = {option.key for other in SCHEDULERS if other != name for option in options_of(other).run.table}
    others = {key for key in others if not key.endswith("_opt")} - set(own.borrows)
    return others - own.instead.keys() - SCHEDULERS.keys()
