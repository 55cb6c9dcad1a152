"""Recognizes options of muster that were typed after the script's name, so that the script rejected them."""

from __future__ import annotations

import re

from muster.core.results import RankExit

_REJECTED = re.compile(r"(?:unrecognized arguments|no such option|unrecognized option|unknown option)s?:? +(.+)", re.I)
"""What argparse, click, Abseil and getopt say, before the arguments."""


def misplaced_option(end: RankExit) -> str:
    """Return the hint for a rank that failed because it got an option of muster; empty if it did not."""
    failure = end.failure
    if failure is None:
        return ""
    for line in (failure.summary, *failure.frames):
        found = _REJECTED.search(line)
        words = found[1].split() if found is not None else []
        name = words[0].strip("'\"`.,").partition("=")[0] if words else ""
        if name.startswith("-") and name in _options():
            return f"{name} went to the script; options of muster come before the script: `muster run {name} … SCRIPT`"
    return ""


def _options() -> frozenset[str]:
    from muster.config.options import RunOptions  # only a run that fails in this way needs the table

    return frozenset(name for option in RunOptions.table for name in option.names)
