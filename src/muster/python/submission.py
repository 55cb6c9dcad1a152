"""What `muster.run` and `muster.submit` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.python import starting
from muster.python.splitting import SEVERAL, split


def run(program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
    """Run a function or a script, and return its results; see `muster.run`."""
    started = submit(program, arguments, {**keywords, "show_output": keywords.get("show_output") is not False})
    try:
        results: list[Any] = started.results()
    except BaseException as error:
        started.end_with(error)
        raise
    return results


def submit(program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Start a function or a script: return a `Run`, or a `Sweep` of runs; see `muster.submit`."""
    show = bool(keywords.get("show_output"))
    if any(keywords.get(name) is not None for name in SEVERAL):
        from muster.python import sweeping  # imported late: other runs need none of it

        return sweeping.start(program, arguments, keywords, show)
    return starting.start(program, split(program, arguments, keywords), show)
